"""Every call of etcd3gw, so of the JSON gateway, that needs neither auth nor snapshots: main.py ENDPOINT DEAD"""

import base64
import json
import os
import re
import sys
import threading
import time

import etcd3gw
import requests
from etcd3gw import exceptions
from etcd3gw.lease import Lease

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))
from transcript import SECONDS, Events, call, lease, line, text  # noqa: E402

IDS = {"cluster_id": "cluster", "member_id": "member", "leader": "member", "memberID": "member"}
NUMBERS = ["raft_term", "raftTerm", "raftIndex", "raftAppliedIndex", "dbSize", "dbSizeInUse", "version_"]


def b64(words):
    return base64.b64encode(words if isinstance(words, bytes) else words.encode()).decode()


def plain(value, name=""):
    """An answer with what differs from run to run put between signs."""
    if isinstance(value, dict):
        return {k: plain(v, k) for k, v in value.items()}
    if name == "leases":
        return f"{len(value)} of them"
    if isinstance(value, list):
        return [plain(v, name) for v in value]
    if name in IDS:
        return f"<{IDS[name]}:{value}>"
    if name in NUMBERS or name == "hash":
        return "<number>"
    if name == "TTL" and str(value) in ("57", "58", "59", "60"):
        return "in time"
    if name in ("key", "value", "name") and isinstance(value, str):
        try:
            return text(base64.b64decode(value, validate=True))
        except ValueError:
            return value
    if name in ("lease", "ID") and isinstance(value, str) and len(value) > 10:
        return f"<lease:{value}>"
    return text(value) if isinstance(value, bytes) else value


def shown(value):
    return json.dumps(plain(value), sort_keys=True)


def kvs(found):
    return "[" + "; ".join(f"{text(v)} {shown(k)}" for v, k in found) + "]"


def fail(f):
    """An error of the library carries what the server said in a field of its own."""
    try:
        return f()
    except exceptions.Etcd3Exception as e:
        raise type(e)(e.detail_text, e.detail_text, *e.args) from e


def c(name, f, show=shown):
    return call(name, lambda: fail(f), show)


def keys(e):
    c("put a", lambda: e.put("a", "1"))
    c("put a again", lambda: e.put("a", b"2"))
    c("put bytes", lambda: e.put(b"\xff\x00", b"\x00\xfe"))
    c("put an empty value", lambda: e.put("empty", ""))
    c("put an empty key", lambda: e.put("", "x"))
    c("put with an unknown lease", lambda: e.put("a", "x", lease=Lease(4242, e)))
    c("put 1.4 MiB", lambda: e.put("big", "x" * 1_400_000))
    c("put 1.6 MiB", lambda: e.put("big", "x" * 1_600_000))
    c("delete big", lambda: e.delete("big"))
    c("create", lambda: e.create("new", "1"))
    c("create again", lambda: e.create("new", "2"))
    c("create with a lease", lambda: e.create("leased", "2", lease=Lease(4242, e)))
    c("get a", lambda: e.get("a"), str)
    c("get with metadata", lambda: e.get("a", metadata=True), kvs)
    c("get nothing", lambda: e.get("nothing"), str)
    c("get an empty key", lambda: e.get(""), str)
    for n, (k, v) in enumerate([("p/3", "x"), ("p/1", "z"), ("p/2", "y"), ("p/1", "w")]):
        c(f"put for lists {n}", lambda: e.put(k, v))
    for target in ["key", "version", "create", "mod", "value"]:
        for order in ["none", "ascend", "descend"]:
            c(f"get_prefix by {target} {order}", lambda: e.get_prefix("p/", order, target), kvs)
    c("get_prefix, bad order", lambda: e.get_prefix("p/", "up"), kvs)
    c("get_prefix, bad target", lambda: e.get_prefix("p/", None, "size"), kvs)
    c("get_all", lambda: e.get_all(), kvs)
    c("get_all descend", lambda: e.get_all("descend", "mod"), kvs)
    for name, words in {
        "range_end": {}, "limit": {"limit": 2}, "revision": {"revision": 9}, "serializable": {"serializable": True},
        "keys_only": {"keys_only": True}, "count_only": {"count_only": True}, "min_mod": {"min_mod_revision": 11},
        "max_mod": {"max_mod_revision": 10}, "min_create": {"min_create_revision": 10},
        "max_create": {"max_create_revision": 10}, "future": {"revision": 1000}, "negative limit": {"limit": -1},
    }.items():
        c(f"get with {name}", lambda: e.get("p/", metadata=True, range_end="p0", **words), kvs)
    c("get with an unknown word", lambda: e.get("a", colour="red"), str)
    c("replace, right", lambda: e.replace("a", "2", "5"))
    c("replace, wrong", lambda: e.replace("a", "2", "6"))
    c("replace nothing", lambda: e.replace("nothing", "", "6"))
    c("delete a", lambda: e.delete("a"))
    c("delete a again", lambda: e.delete("a"))
    c("delete a range", lambda: e.delete("p/1", range_end="p/3", prev_kv=True))
    c("delete_prefix", lambda: e.delete_prefix("p/"))
    c("delete_prefix of nothing", lambda: e.delete_prefix("p/"))
    c("delete an empty key", lambda: e.delete(""))


def txns(e):
    def txn(name, compare, success, failure=()):
        c(f"txn {name}", lambda: e.transaction({"compare": compare, "success": success, "failure": list(failure)}))

    def cmp(target, result, key="t", **value):
        return {"key": b64(key), "target": target, "result": result, **value}

    def put(k, v, **words):
        return {"requestPut": {"key": b64(k), "value": b64(v), **words}}

    def get(k, **words):
        return {"requestRange": {"key": b64(k), **words}}

    e.put("t", "1")
    txn("value EQUAL", [cmp("VALUE", "EQUAL", value=b64("1"))], [get("t")])
    txn("value NOT_EQUAL", [cmp("VALUE", "NOT_EQUAL", value=b64("1"))], [get("t")], [get("none")])
    txn("version GREATER", [cmp("VERSION", "GREATER", version="0")], [get("t")])
    txn("version LESS, a number", [cmp("VERSION", "LESS", version=5)], [get("t")])
    txn("create_revision", [cmp("CREATE", "EQUAL", create_revision=0)], [get("t")])
    txn("createRevision", [cmp("CREATE", "GREATER", createRevision="0")], [get("t")])
    txn("mod_revision", [cmp("MOD", "GREATER", mod_revision="0")], [get("t")])
    txn("lease", [cmp("LEASE", "EQUAL", lease="0")], [get("t")])
    txn("range_end", [cmp("VERSION", "GREATER", version=0, range_end=b64("u"))], [get("t")])
    txn("enums as numbers", [{"key": b64("t"), "target": 0, "result": 1, "version": 0}], [get("t")])
    txn("put, get, delete", [], [put("t1", "1", prev_kv=True), get("t", range_end=b64("u")),
                                 {"requestDeleteRange": {"key": b64("t1x"), "prev_kv": True}}])
    txn("delete with prev_kv", [], [{"request_delete_range": {"key": b64("t1"), "prev_kv": True}}])
    inner = {"compare": [cmp("VALUE", "EQUAL", value=b64("1"))], "success": [put("n", "1"), get("n")]}
    txn("nested", [], [{"request_txn": inner}])
    txn("no operation", [], [])
    txn("duplicate key", [], [put("d", "1"), put("d", "2")])
    txn("bad target", [cmp("SIZE", "EQUAL")], [])
    txn("not base64", [{"key": "%%%", "target": "VALUE"}], [])
    txn("of the wrong kind", "x", [])
    txn("129 operations", [], [put(f"m{n}", "") for n in range(129)])
    txn("a future revision", [], [get("t", revision=1000)])
    txn("an unknown lease", [], [put("t", "1", lease=4242)])


def leases(e):
    l = c("lease", lambda: e.lease(60), lambda l: lease(l.id))
    c("lease, the default", lambda: e.lease(), lambda l: lease(l.id))
    c("lease of no time", lambda: e.lease(0), lambda l: lease(l.id))
    c("lease too long", lambda: e.lease(9_000_000_001), lambda l: lease(l.id))
    c("Lease.ttl", l.ttl, lambda n: "in time" if 55 <= n <= 60 else str(n))
    c("put with a lease", lambda: e.put("l/1", "1", lease=l))
    c("create with the lease", lambda: e.create("l/2", "1", lease=l))
    c("get with a lease", lambda: e.get_prefix("l/"), kvs)
    c("Lease.keys", l.keys, lambda k: str(sorted(k)))
    c("Lease.refresh", l.refresh)
    c("Lease.revoke", l.revoke)
    c("Lease.revoke again", l.revoke)
    c("Lease.ttl after the revoke", l.ttl)
    c("Lease.keys after the revoke", l.keys, str)
    c("Lease.refresh after the revoke", l.refresh)
    c("get after the revoke", lambda: e.get_prefix("l/"), kvs)
    short = c("lease 1", lambda: e.lease(1), lambda l: lease(l.id))
    c("put with a short lease", lambda: e.put("l/short", "1", lease=short))
    c("the lease's key is gone", lambda: e.watch_once("l/short", timeout=SECONDS, prev_kv=True))
    c("Lease.refresh after the expiry", short.refresh)


def watches(e):
    def take(name, watch, changes, count):
        got = c(name, watch, lambda w: "ok")
        if got is None:
            return
        iterator, cancel = got
        events = Events(iterator)
        time.sleep(0.3)  # the library does not say when the watcher is there
        for change in changes:
            change()
        for n in range(count):
            call(f"{name}, event {n}", lambda: events.next(), shown)
        c(f"{name}, cancel", cancel)
        call(f"{name}, after cancel", lambda: events.next(2), shown)

    start = int(e.transaction({"success": [{"requestPut": {"key": b64("w/a"), "value": b64("1")}}]})
                ["header"]["revision"])
    line("put w/a", f"rev={start}")
    puts = [lambda: e.put("w/a", "2"), lambda: e.put("w/b", "1"), lambda: e.delete("w/a")]
    take("watch a key", lambda: e.watch("w/a"), puts, 2)
    take("watch_prefix", lambda: e.watch_prefix("w/"), puts, 3)
    take("watch prev_kv", lambda: e.watch("w/a", prev_kv=True), puts, 2)
    take("watch NOPUT", lambda: e.watch("w/a", filters=["NOPUT"]), puts, 1)
    take("watch NODELETE", lambda: e.watch("w/a", filters=["NODELETE"]), puts, 1)
    take("watch a range", lambda: e.watch("w/a", range_end="w/b"), puts, 2)
    take("watch from a revision", lambda: e.watch_prefix("w/", start_revision=start, prev_kv=True), [], 19)
    take("watch progress_notify", lambda: e.watch("w/a", progress_notify=True), [lambda: time.sleep(1.5)] + puts, 2)
    take("watch with id", lambda: e.watch("w/a", watch_id=7, fragment=True), puts, 2)
    c("watch_once of the past", lambda: e.watch_once("w/a", timeout=SECONDS, start_revision=start))
    c("watch_prefix_once of the past", lambda: e.watch_prefix_once("w/", timeout=0.5, start_revision=start + 2))
    c("watch_once in time", lambda: e.watch_once("w/none", timeout=0.3))
    timer = threading.Timer(0.4, lambda: e.put("w/once", "1"))
    timer.start()
    c("watch_once of the future", lambda: e.watch_once("w/once", timeout=SECONDS))
    timer.join()


def locks(e):
    lock, second = e.lock("lock", ttl=20), e.lock("lock", ttl=20)
    c("Lock.refresh before", lock.refresh)
    c("Lock.is_acquired before", lock.is_acquired)
    c("Lock.acquire", lock.acquire)
    c("Lock.is_acquired", lock.is_acquired)
    c("Lock.refresh", lock.refresh)
    c("second Lock.acquire", second.acquire)
    c("second Lock.release", second.release)
    c("Lock.release", lock.release)
    c("Lock.release again", lock.release)
    c("second Lock.acquire, released", second.acquire)
    c("second Lock.is_acquired", second.is_acquired)
    c("second Lock.release, held", second.release)

    def context():
        with e.lock(ttl=5) as held:
            return held.is_acquired()

    c("with Lock", context)


def gateway(e, base):
    """What the library does not reach, as its `post` and by hand: errors, spellings, streams, other services."""

    def post(name, path, body):
        c(f"post {name}", lambda: e.post(e.get_url(path), json=body))

    post("compaction", "/kv/compaction", {"revision": 20})
    post("compaction again", "/kv/compaction", {"revision": 20})
    post("compaction of the future", "/kv/compaction", {"revision": 100000, "physical": True})
    post("range at a compacted revision", "/kv/range", {"key": b64("a"), "revision": 3})
    post("range by camelCase", "/kv/range", {"key": b64("w/"), "rangeEnd": b64("w0"), "countOnly": True})
    post("range with strings for numbers", "/kv/range", {"key": b64("w/a"), "limit": "1", "sort_order": "DESCEND"})
    post("put with prev_kv", "/kv/put", {"key": b64("w/b"), "value": b64("9"), "prev_kv": True})
    post("put ignore_value", "/kv/put", {"key": b64("nothing"), "ignore_value": True})
    post("put ignore_lease", "/kv/put", {"key": b64("w/b"), "value": b64("8"), "ignoreLease": True})
    post("deleterange with prev_kv", "/kv/deleterange", {"key": b64("w/b"), "prev_kv": True})
    post("lease grant with an id", "/lease/grant", {"ID": "7000", "TTL": "60"})
    post("lease grant of the same id", "/lease/grant", {"ID": 7000, "TTL": 60})
    post("lease timetolive", "/lease/timetolive", {"ID": 7000})
    post("kv lease timetolive, unknown", "/kv/lease/timetolive", {"ID": 4242, "keys": True})
    post("lease leases", "/kv/lease/leases", {})
    post("lease revoke", "/lease/revoke", {"ID": 7000})
    post("kv lease revoke, unknown", "/kv/lease/revoke", {"ID": 7000})
    post("lease keepalive, unknown", "/lease/keepalive", {"ID": 4242})
    post("hash", "/maintenance/hash", {"revision": 0})
    post("a path that is not there", "/kv/nothing", {})
    post("a field that is not there", "/kv/range", {"key": b64("a"), "colour": "red"})
    post("a string for a boolean", "/kv/range", {"key": b64("a"), "serializable": "yes"})
    post("a word for a number", "/kv/range", {"key": b64("a"), "limit": "many"})
    post("a list", "/kv/range", [])
    post("a key that is not base64", "/kv/range", {"key": "%%%"})
    post("nothing at all", "/kv/range", None)

    def raw(name, method, path, body=None, headers=None):
        def send():
            r = requests.request(method, base + path, data=body, headers=headers, timeout=SECONDS)
            try:
                content = re.sub(r'"/[0-9a-f]{12,16}"', '"/<a lease of its own>"', shown(r.json()))
            except ValueError:
                content = " ".join(r.text.split())
            kind = r.headers.get("Content-Type", "none")
            return f"{r.status_code} {kind} {content}"

        c(f"raw {name}", send, str)

    raw("GET of a POST", "GET", "/v3/kv/range")
    raw("PUT of a POST", "PUT", "/v3/kv/range", "{}")
    raw("half a body", "POST", "/v3/kv/range", '{"key": ')
    raw("two bodies", "POST", "/v3/kv/range", '{"key": "YQ=="}{"key": "YQ=="}')
    raw("no body", "POST", "/v3/kv/range", "")
    raw("not JSON", "POST", "/v3/kv/range", "key=a", {"Content-Type": "application/x-www-form-urlencoded"})
    raw("url-safe base64", "POST", "/v3/kv/range", '{"key": "_wA="}')
    raw("null", "POST", "/v3/kv/range", "null")
    raw("a null field", "POST", "/v3/kv/range", '{"key": "YQ==", "limit": null}')
    raw("a number of a float", "POST", "/v3/kv/range", '{"key": "YQ==", "limit": 1.0}')
    raw("a bad number", "POST", "/v3/kv/range", '{"key": "YQ==", "limit": 1.5}')
    raw("v3beta", "POST", "/v3beta/kv/range", '{"key": "d2hh"}')
    raw("v3alpha", "POST", "/v3alpha/kv/range", '{"key": "d2hh"}')
    raw("lock without name", "POST", "/v3/lock/lock", "{}")
    raw("lock", "POST", "/v3/lock/lock", json.dumps({"name": b64("gw"), "lease": 4242}))
    raw("unlock of nothing", "POST", "/v3/lock/unlock", json.dumps({"key": b64("gw/none")}))
    e.post(e.get_url("/lease/grant"), json={"ID": 7001, "TTL": 60})
    raw("lock with a lease", "POST", "/v3/lock/lock", json.dumps({"name": b64("gw"), "lease": "7001"}))
    raw("unlock", "POST", "/v3/lock/unlock", json.dumps({"key": b64("gw/1b59")}))
    raw("campaign", "POST", "/v3/election/campaign", json.dumps({"name": b64("el"), "lease": 7001, "value": b64("me")}))
    raw("leader", "POST", "/v3/election/leader", json.dumps({"name": b64("el")}))
    raw("leader of nothing", "POST", "/v3/election/leader", json.dumps({"name": b64("none")}))
    raw("proclaim without leader", "POST", "/v3/election/proclaim", json.dumps({"value": b64("x")}))
    raw("resign without leader", "POST", "/v3/election/resign", "{}")

    def stream(name, path, body, count, seconds=SECONDS):
        def read():
            with requests.post(base + path, data=body, stream=True, timeout=seconds) as r:
                lines = r.iter_lines()
                return f"{r.status_code} " + " / ".join(shown(json.loads(next(lines))) for _ in range(count))

        c(f"stream {name}", read, str)

    create = {"key": b64("w/a"), "start_revision": 25, "prev_kv": True}
    stream("watch", "/v3/watch", json.dumps({"create_request": create}), 2)
    stream("watch, compacted", "/v3/watch", json.dumps({"createRequest": {"key": b64("w/a"), "startRevision": 2}}), 2)
    two = json.dumps({"create_request": {"key": b64("w/a"), "watch_id": 5}})
    stream("watch, two watchers", "/v3/watch", two + "\n" + two.replace("5", "6"), 2)
    stream("watch, the same id twice", "/v3/watch", two + two, 2)
    stream("watch, cancelled", "/v3/watch", two + json.dumps({"cancel_request": {"watch_id": 5}}), 2)
    stream("watch, progress", "/v3/watch", two + json.dumps({"progress_request": {}}), 2)
    stream("watch of nothing", "/v3/watch", "{}", 1, seconds=0.5)
    stream("observe", "/v3/election/observe", json.dumps({"name": b64("el")}), 1)
    stream("keepalive", "/v3/lease/keepalive", json.dumps({"ID": 7001}), 1)


def main():
    host, port = sys.argv[1].split(":")
    dead_host, dead_port = sys.argv[2].split(":")
    e = etcd3gw.client(host=host, port=int(port), timeout=SECONDS)
    line("api_path", e.api_path)
    keys(e)
    txns(e)
    leases(e)
    watches(e)
    locks(e)
    c("status", lambda: {k: v for k, v in e.status().items() if k != "version"})
    c("members", lambda: [{**m, "ID": None, "memberID": m["ID"]} for m in e.members()])
    gateway(e, e.base_url)
    dead = etcd3gw.client(host=dead_host, port=int(dead_port), timeout=2)
    try:
        dead.get("a")
        line("get from a dead endpoint", "an answer")
    except Exception as problem:  # its text has addresses of objects
        line("get from a dead endpoint", f"error {type(problem).__name__}")
    wrong = etcd3gw.client(host=host, port=int(port), timeout=SECONDS, api_path="/v9/")
    c("put with a wrong api_path", lambda: wrong.put("a", "1"))
    session = requests.Session()
    own = etcd3gw.client(host=host, port=int(port), session=session)
    c("put with an own session", lambda: own.put("a", "1"))


main()
sys.stdout.flush()
os._exit(0)  # threads of the library wait for watchers
