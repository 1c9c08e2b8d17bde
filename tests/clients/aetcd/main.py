"""Every call of aetcd that needs neither auth nor snapshots, good and bad, as a transcript: main.py ENDPOINT DEAD"""

import asyncio
import os
import sys

import aetcd
from aetcd import rtypes

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from transcript import acall, call, error, lease, line, text  # noqa: E402


def kv(k):
    if k is None:
        return "none"
    shown = f"{text(k.key)}={text(k.value)} c{k.create_revision} m{k.mod_revision} v{k.version}"
    return shown + (f" lease={lease(k.lease)}" if k.lease else "")


def rev(r):
    return f"rev={r.header.revision}"


def got(r):
    return "none" if r is None else f"{kv(r)} {rev(r)}"


def put(r):
    return f"{rev(r)} prev={kv(r.prev_kv)}" if r.prev_kv is not None else rev(r)


def many(r):
    return f"{rev(r)} count={r.count} more={r.more} [{'; '.join(kv(k) for k in r)}]"


def deleted(r):
    if r is None:
        return "none"
    prev = kv(r.prev_kv) if isinstance(r, rtypes.Delete) else "; ".join(kv(k) for k in r)
    return f"{rev(r)} deleted={r.deleted} prev=[{prev}]"


def event(e):
    shown = f"{e.kind} {kv(e.kv)}"
    return shown + (f" prev=({kv(e.prev_kv)})" if e.prev_kv is not None else "")


def done(r):
    parts = []
    for one in r[1]:
        if isinstance(one, list):
            parts.append("range [" + "; ".join(kv(g) for _, g in one) + "]")
        elif one.HasField("response_put"):
            prev = one.response_put.prev_kv
            parts.append(f"put rev={one.response_put.header.revision}" + (f" prev=({kv(prev)})" if prev.key else ""))
        elif one.HasField("response_delete_range"):
            d = one.response_delete_range
            parts.append(f"delete {d.deleted} [{'; '.join(kv(k) for k in d.prev_kvs)}]")
        else:
            inner = one.response_txn
            kinds = [x.WhichOneof("response") for x in inner.responses]
            parts.append(f"txn {inner.succeeded} {kinds}")
    return f"succeeded={r[0]} [{'; '.join(parts)}]"


async def keys(c):
    await acall("put a", c.put(b"a", b"1"), put)
    await acall("put a again, prev_kv", c.put(b"a", b"2", prev_kv=True), put)
    await acall("put b, prev_kv of nothing", c.put(b"b", b"3", prev_kv=True), put)
    await acall("put an empty value", c.put(b"empty", b""), put)
    await acall("put bytes", c.put(b"\xff\x00", b"\x00\xfe"), put)
    await acall("put an empty key", c.put(b"", b"x"), put)
    await acall("put with an unknown lease", c.put(b"a", b"x", lease=4242), put)
    await acall("put 1.4 MiB", c.put(b"big", b"x" * 1_400_000), put)
    await acall("put 1.6 MiB", c.put(b"big", b"x" * 1_600_000), put)
    await acall("delete big", c.delete(b"big"), deleted)
    await acall("get a", c.get(b"a"), got)
    await acall("get a, serializable", c.get(b"a", serializable=True), got)
    await acall("get nothing", c.get(b"nothing"), got)
    await acall("get an empty key", c.get(b""), got)
    for n, (k, v) in enumerate([(b"p/3", b"x"), (b"p/1", b"z"), (b"p/2", b"y"), (b"p/1", b"w")]):
        await acall(f"put for lists {n}", c.put(k, v), put)
    for target in ["key", "version", "create", "mod", "value"]:
        for order in ["ascend", "descend"]:
            await acall(f"get_prefix by {target} {order}", c.get_prefix(b"p/", sort_order=order, sort_target=target),
                        many)
    await acall("get_prefix keys_only", c.get_prefix(b"p/", keys_only=True), many)
    await acall("get_prefix of nothing", c.get_prefix(b"none/"), many)
    await acall("get_prefix, bad order", c.get_prefix(b"p/", sort_order="up"), many)
    await acall("get_prefix, bad target", c.get_prefix(b"p/", sort_target="size"), many)
    await acall("get_range", c.get_range(b"a", b"p/2", sort_order="descend"), many)
    await acall("get_range, end before start", c.get_range(b"p", b"a"), many)
    await acall("get_all", c.get_all(), many)
    await acall("get_all keys_only by mod", c.get_all(sort_order="descend", sort_target="mod", keys_only=True), many)
    await acall("replace, right", c.replace(b"a", b"2", b"5"), str)
    await acall("replace, wrong", c.replace(b"a", b"2", b"6"), str)
    await acall("replace nothing", c.replace(b"nothing", b"", b"6"), str)
    await acall("delete a, prev_kv", c.delete(b"a", prev_kv=True), deleted)
    await acall("delete a again", c.delete(b"a"), deleted)
    await acall("delete_range", c.delete_range(b"p/1", b"p/3", prev_kv=True), deleted)
    await acall("delete_prefix", c.delete_prefix(b"p/", prev_kv=True), deleted)
    await acall("delete_prefix of nothing", c.delete_prefix(b"p/"), deleted)


async def txns(c):
    t = c.transactions
    await acall("put t", c.put(b"t", b"1"), put)
    cases = [
        ("value ==", [t.value(b"t") == b"1"]), ("value !=", [t.value(b"t") != b"1"]),
        ("value <", [t.value(b"t") < b"2"]), ("value >", [t.value(b"t") > b"2"]),
        ("version == 1", [t.version(b"t") == 1]), ("version > 1", [t.version(b"t") > 1]),
        ("create == 0 of a key", [t.create(b"t") == 0]), ("create == 0 of nothing", [t.create(b"none") == 0]),
        ("mod < 1000", [t.mod(b"t") < 1000]), ("value of nothing", [t.value(b"none") == b""]),
        ("two compares", [t.version(b"t") > 0, t.value(b"t") == b"9"]), ("no compare", []),
        ("a range", [t.version(b"t", b"u") > 0]), ("an empty range", [t.version(b"x1", b"x2") > 7]),
    ]
    for name, compare in cases:
        await acall(f"txn {name}", c.transaction(compare, [t.get(b"t")], [t.get(b"none")]), done)
    both = [t.put(b"t1", b"1"), t.put(b"t2", b"2", prev_kv=True), t.get(b"t", b"u"), t.delete(b"t1x", prev_kv=True)]
    await acall("txn puts, get, delete", c.transaction([], both, []), done)
    await acall("txn delete with prev_kv", c.transaction([], [t.delete(b"t", b"u", prev_kv=True)], []), done)
    inner = t.txn([t.create(b"n") == 0], [t.put(b"n", b"1"), t.get(b"n")], [t.get(b"n")])
    await acall("txn nested, then", c.transaction([], [inner], []), done)
    await acall("txn nested, else", c.transaction([], [inner], []), done)
    await acall("txn of something else", c.transaction([], [7], []), done)
    await acall("txn the same key twice", c.transaction([], [t.put(b"d", b"1"), t.put(b"d", b"2")], []), done)
    await acall("txn put and delete of a key", c.transaction([], [t.put(b"d", b"1"), t.delete(b"d")], []), done)
    await acall("txn an empty key", c.transaction([], [t.put(b"", b"1")], []), done)
    await acall("txn a compare without key", c.transaction([t.version(b"") == 0], [], []), done)
    await acall("txn an unknown lease", c.transaction([], [t.put(b"d", b"1", lease=4242)], []), done)
    await acall("txn of 129 operations", c.transaction([], [t.put(b"m%d" % n, b"") for n in range(129)], []), done)
    await acall("txn of 128 operations", c.transaction([], [t.put(b"m%d" % n, b"") for n in range(128)], []),
                lambda r: f"{r[0]} {len(r[1])} rev={r[1][0].response_put.header.revision}")
    call("a compare without operator", lambda: t.value(b"t").build_message())


async def leases(c):
    l = await acall("lease 60", c.lease(60), lambda l: f"{lease(l.id)} ttl={l.ttl}")
    await acall("lease 60 with an id", c.lease(60, 7000), lambda l: f"{l.id} ttl={l.ttl}")
    await acall("lease with the same id", c.lease(60, 7000), lambda l: f"{l.id} ttl={l.ttl}")
    await acall("lease of no time", c.lease(0, 7001), lambda l: f"{l.id} ttl={l.ttl}")
    await acall("lease of less than none", c.lease(-5, 7002), lambda l: f"{l.id} ttl={l.ttl}")
    await acall("lease too long", c.lease(9_000_000_001, 7003), lambda l: f"{l.id} ttl={l.ttl}")
    await acall("put with the lease", c.put(b"l/1", b"1", lease=l), put)
    await acall("put with the lease's id", c.put(b"l/2", b"2", lease=l.id), put)
    await acall("get with a lease", c.get(b"l/1"), got)
    await acall("Lease.remaining_ttl", l.remaining_ttl(), lambda n: "in time" if 55 <= n <= 60 else str(n))
    await acall("Lease.granted_ttl", l.granted_ttl(), str)
    await acall("Lease.keys", l.keys(), lambda k: str(sorted(k)))
    await acall("Lease.refresh", l.refresh(), lambda r: f"{lease(r.ID)} ttl={r.TTL} rev={r.header.revision}")
    await acall("get_lease_info", c.get_lease_info(l.id), lambda r: f"{lease(r.ID)} {r.grantedTTL} {sorted(r.keys)}")
    await acall("get_lease_info without keys", c.get_lease_info(l.id, keys=False), lambda r: f"{list(r.keys)}")
    await acall("put without the lease", c.put(b"l/2", b"3"), put)
    await acall("Lease.keys after a put without", l.keys(), lambda k: str(sorted(k)))
    await acall("replace with a lease", c.replace(b"l/2", b"3", b"4", lease=l), str)
    await acall("get after the replace", c.get(b"l/2"), got)
    await acall("Lease.revoke", l.revoke())
    await acall("get after the revoke", c.get_prefix(b"l/"), many)
    await acall("Lease.revoke again", l.revoke())
    await acall("Lease.refresh after the revoke", l.refresh(), lambda r: f"{lease(r.ID)} ttl={r.TTL}")
    await acall("Lease.keys after the revoke", l.keys(), str)
    await acall("Lease.remaining_ttl after the revoke", l.remaining_ttl(), str)
    await acall("Lease.granted_ttl after the revoke", l.granted_ttl(), str)
    await acall("put with the revoked lease", c.put(b"l/1", b"1", lease=l), put)
    await acall("refresh_lease unknown", c.refresh_lease(4242), lambda r: f"{r.ID} ttl={r.TTL}")
    await acall("get_lease_info unknown", c.get_lease_info(4242), lambda r: f"{r.ID} {r.TTL} {r.grantedTTL} {r.keys}")
    await acall("revoke_lease unknown", c.revoke_lease(4242))
    await acall("revoke_lease 7000", c.revoke_lease(7000))
    short = await acall("lease 1", c.lease(1, 7100), lambda l: f"{l.id} ttl={l.ttl}")
    await acall("put with a short lease", c.put(b"l/short", b"1", lease=short), put)
    await acall("the lease's key is gone", c.watch_once(b"l/short", timeout=9, prev_kv=True), event)
    await acall("get after the expiry", c.get(b"l/short"), got)
    await acall("refresh after the expiry", short.refresh(), lambda r: f"{r.ID} ttl={r.TTL}")


async def watches(c):
    t = c.transactions
    start = (await acall("put w/a", c.put(b"w/a", b"1"), put)).header.revision
    w = await acall("watch_prefix", c.watch_prefix(b"w/", start_revision=start, prev_kv=True), lambda w: "ok")
    await acall("put w/a 2", c.put(b"w/a", b"2"), put)
    await acall("put w/b", c.put(b"w/b", b"1"), put)
    await acall("txn on both", c.transaction([], [t.put(b"w/a", b"3"), t.delete(b"w/b")], []), done)
    events = w.__aiter__()
    for n in range(5):
        await acall(f"event {n}", events.__anext__(), event)
    await acall("cancel", w.cancel())
    await acall("event after cancel", events.__anext__(), event)

    for kind in [rtypes.EventKind.PUT, rtypes.EventKind.DELETE, None]:
        w = await acall(f"watch only {kind}", c.watch_prefix(b"w/", start_revision=start, kind=kind), lambda w: "ok")
        events = w.__aiter__()
        for n in range({"PUT": 4, "DELETE": 1}.get(kind, 5)):
            await acall(f"only {kind} event {n}", events.__anext__(), event)
        await acall(f"cancel only {kind}", w.cancel())

    w1 = await acall("watch a key", c.watch(b"w/a"), lambda w: "ok")
    w2 = await acall("watch a range", c.watch(b"w/", range_end=b"w/b", prev_kv=True), lambda w: "ok")
    w3 = await acall("watch from a key on", c.watch(b"w/a", range_end=b"\0", progress_notify=True), lambda w: "ok")
    await acall("put w/a 4", c.put(b"w/a", b"4"), put)
    await acall("put w/c", c.put(b"w/c", b"1"), put)
    await acall("delete w/a", c.delete(b"w/a"), deleted)
    for name, w, count in [("key", w1, 2), ("range", w2, 2), ("from", w3, 3)]:
        events = w.__aiter__()
        for n in range(count):
            await acall(f"{name} event {n}", events.__anext__(), event)
        await acall(f"{name} cancel", w.cancel())

    async def later(awaitable):
        await asyncio.sleep(0.2)
        return await awaitable

    once = asyncio.create_task(later(c.put(b"w/o", b"1")))
    await acall("watch_once", c.watch_once(b"w/o", timeout=5), event)
    await acall("put for watch_once", once, put)
    once = asyncio.create_task(later(c.put(b"w/oo", b"1")))
    await acall("watch_prefix_once", c.watch_prefix_once(b"w/o", timeout=5, prev_kv=True), event)
    await acall("put for watch_prefix_once", once, put)
    await acall("watch_once in time", c.watch_once(b"w/none", timeout=0.2), event)
    await acall("watch_once of the past", c.watch_once(b"w/a", start_revision=start, timeout=5), event)
    now = (await acall("put w/z", c.put(b"w/z", b"1"), put)).header.revision
    w = await acall("watch the future", c.watch(b"w/z", start_revision=now + 2), lambda w: "ok")
    await acall("put w/z 2", c.put(b"w/z", b"2"), put)
    await acall("put w/z 3", c.put(b"w/z", b"3"), put)
    await acall("event of the future", w.__aiter__().__anext__(), event)
    await acall("cancel the future", w.cancel())

    await acall("compact", c.compact(now), lambda r: "ok")
    await acall("compact again", c.compact(now))
    await acall("compact the future", c.compact(now + 1000))
    await acall("compact physical", c.compact(now + 1, physical=True))
    await acall("compact less than nothing", c.compact(-1))
    w = await acall("watch the compacted", c.watch(b"w/a", start_revision=start), lambda w: "ok")
    if w is not None:
        await acall("event of the compacted", w.__aiter__().__anext__(), event)
    await acall("watch_once of the compacted", c.watch_once(b"w/a", start_revision=start, timeout=5),
                lambda e: error(e) if isinstance(e, Exception) else event(e))
    w = await acall("watch after the compacted", c.watch(b"w/z", start_revision=now + 2), lambda w: "ok")
    await acall("event after the compacted", w.__aiter__().__anext__(), event)
    await acall("cancel after the compacted", w.cancel())


async def locks(c, other):
    l = c.lock(b"lock", ttl=20)
    await acall("Lock.is_acquired before", l.is_acquired(), str)
    await acall("Lock.refresh before", l.refresh())
    await acall("Lock.acquire", l.acquire(), str)
    line("Lock.revision", l.revision)
    await acall("Lock.is_acquired", l.is_acquired(), str)
    await acall("Lock.refresh", l.refresh(), lambda r: f"ttl={r.TTL}")
    second = other.lock(b"lock", ttl=20)
    await acall("second Lock.acquire, held", second.acquire(timeout=0), str)
    await acall("second Lock.is_acquired", second.is_acquired(), str)
    await acall("second Lock.release, not held", second.release(), str)
    waiting = asyncio.create_task(second.acquire(timeout=9))
    await asyncio.sleep(0.3)
    await acall("Lock.release", l.release(), str)
    await acall("second Lock.acquire, released", waiting, str)
    await acall("Lock.release again", l.release(), str)
    await acall("second Lock.release", second.release(), str)

    async def context():
        async with c.lock(b"lock", ttl=20) as held:
            return await held.is_acquired()

    await acall("async with Lock", context(), str)
    short = c.lock(b"lock", ttl=1)
    await acall("Lock.acquire, short", short.acquire(), str)
    await acall("second Lock.acquire, expired", second.acquire(timeout=9), str)
    await acall("Lock.is_acquired, expired", short.is_acquired(), str)
    await acall("second Lock.release, last", second.release(), str)


async def settle(c):
    """etcd drops a change of the membership that comes before raft has heard that the last one is applied."""
    await c.put(b"settle", b"")
    await asyncio.sleep(0.2)


async def cluster(c):
    async def members():
        return [m async for m in c.members()]

    async def alarms(**words):
        return [(a.alarm_type, bool(a.member_id)) async for a in c.list_alarms(**words)]

    shown = lambda ms: "; ".join(f"<member:{m.id}> {m.name} {m.peer_urls} {m.client_urls}" for m in ms)
    ms = await acall("members", members(), shown)
    await acall("status", c.status(), lambda s: f"leader={s.leader.name} term={s.raft_term} size={s.db_size > 0} "
                f"index={s.raft_index > 0} version={s.version.count('.')}")
    await acall("hash", c.hash(), lambda h: "a number" if 0 < h < 1 << 32 else str(h))
    await acall("defragment", c.defragment())
    await acall("list_alarms", alarms(), str)
    await acall("create_alarm", c.create_alarm(), lambda a: str([(x.alarm_type, bool(x.member_id)) for x in a]))
    await acall("list_alarms, raised", alarms(), str)
    await acall("put with an alarm", c.put(b"alarm", b"1"))
    await acall("get with an alarm", c.get(b"b"), lambda r: kv(r))
    await acall("disarm_alarm", c.disarm_alarm(), lambda a: str([(x.alarm_type, bool(x.member_id)) for x in a]))
    await acall("put after the alarm", c.put(b"alarm", b"2"))
    await acall("update_member unknown", c.update_member(42, ["http://127.0.0.1:1"]))
    await settle(c)
    await acall("Member.update to itself", ms[0].update(ms[0].peer_urls))
    await settle(c)
    await acall("remove_member unknown", c.remove_member(42))
    await settle(c)
    await acall("remove_member, the last", ms[0].remove())
    await settle(c)
    await acall("add_member, bad url", c.add_member(["not a url"]), lambda m: m.name)
    await settle(c)
    await acall("add_member, known url", c.add_member(ms[0].peer_urls), lambda m: m.name)
    await settle(c)
    await acall("add_member", c.add_member(["http://127.0.0.1:1"]),
                lambda m: f"<member:{m.id}> {m.name!r} {m.peer_urls} {m.client_urls}")


async def main():
    host, port = sys.argv[1].split(":")
    dead_host, dead_port = sys.argv[2].split(":")
    c, other = aetcd.Client(host, int(port)), aetcd.Client(host, int(port), timeout=9)
    await acall("connect", c.connect())
    await keys(c)
    await txns(c)
    await leases(c)
    await watches(c)
    await locks(c, other)
    await acall("close other", other.close())
    await acall("get after close connects again", other.get(b"b"), got)
    await acall("close other again", other.close())
    async with aetcd.Client(host, int(port)) as third:
        await acall("async with Client", third.get(b"b"), got)
        await acall("watch a bad kind", third.watch(b"b", kind="PUT"), lambda w: "ok")  # spoils the client
    dead = aetcd.Client(dead_host, int(dead_port), timeout=2)
    await acall("get from a dead endpoint", dead.get(b"b"), lambda r: "an answer")
    await acall("watch at a dead endpoint", dead.watch(b"b"), lambda r: "a watch")
    await acall("close the dead", dead.close())
    call("a user without password", lambda: aetcd.Client(username="a"))
    await cluster(c)
    await acall("close", c.close())


asyncio.run(main())
