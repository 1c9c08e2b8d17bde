#!/usr/bin/env python3
"""Runs real programs on client libraries that others wrote against lockstepd and a real etcd, and compares what they saw.

Each program prints a transcript, one line a call: `call | result`. It runs once against a fresh member of each server;
what differs from run to run (ids, ports) is numbered, and then the two have to be equal, line by line. What may differ is
the table "Client libraries" of docs/COMPATIBILITY.md and nothing else: a row that no line needs any more is a failure, too.

    tests/clients/run.py --server target/debug/lockstepd [--only aetcd]

Libraries are installed at pinned versions into ~/.cache/lockstep-clients (LOCKSTEP_CLIENTS). A missing tool chain means
skipped, with CI=true a failure; Go is optional everywhere.
"""

import argparse
import concurrent.futures
import fnmatch
import hashlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = pathlib.Path(os.environ.get("LOCKSTEP_CLIENTS") or pathlib.Path.home() / ".cache/lockstep-clients")
ORACLES = pathlib.Path(os.environ.get("LOCKSTEP_ORACLES") or pathlib.Path.home() / ".cache/lockstep-oracles")
IS_CI = os.environ.get("CI") == "true"
# A program that hangs is ended after so long; the longest takes about 30 s.
PROGRAM_SECONDS = 120
SETUP_SECONDS = 900
# So many programs run at the same time: they mostly wait.
AT_ONCE = 4
# What hangs on a lease's last second may come out either way on a busy machine; a true difference comes each time.
ATTEMPTS = 3


class Missing(Exception):
    """A tool that is not on this machine."""


class Broken(Exception):
    """Something that has to work does not."""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=str(ROOT / "target/debug/lockstepd"), help="the lockstepd to test")
    parser.add_argument("--etcd", default=str(ORACLES / "3.5.1/etcd"), help="the etcd to compare with")
    parser.add_argument("--only", action="append", help="a library; again for more")
    parser.add_argument("--out", default=str(ROOT / "target/conformance"), help="where the transcripts go")
    parser.add_argument("--twice", action="store_true", help="etcd against itself: shows what is not steady")
    args = parser.parse_args()

    servers = {"etcd": args.etcd, "lockstepd": args.etcd if args.twice else args.server}
    for name, path in servers.items():
        if not os.access(path, os.X_OK):
            return no_server(name, path)
    only = set(args.only or [])
    if only - LIBRARIES.keys():
        sys.exit(f"no such library: {', '.join(sorted(only - LIBRARIES.keys()))}; there are {', '.join(LIBRARIES)}")
    wanted = [library for library in LIBRARIES if not only or library in only]

    began = time.monotonic()
    commands, absent = set_up(wanted)
    ready = time.monotonic()
    transcripts = run_all(commands, servers, pathlib.Path(args.out))
    known = [] if args.twice else known_differences()
    rows, failures = [], []
    for library in wanted:
        if library in absent:
            rows.append((library, "", "", "", "", absent[library]))
            continue
        pairs, listed, unlisted = compare(library, transcripts, known)
        for _ in range(1, ATTEMPTS):
            if not unlisted:
                break
            print(f"{library} differs, and runs again: {unlisted[0]}")
            transcripts.update(run_all({library: commands[library]}, servers, pathlib.Path(args.out)))
            pairs, listed, unlisted = compare(library, transcripts, known)
        for row in listed:
            row.uses += 1
        failures += unlisted
        rows.append((library, len(pairs), len(pairs) - len(listed) - len(unlisted), len(listed), len(unlisted), ""))
    if not only and not absent:
        for row in known:
            if not row.uses:
                failures.append(f"docs/COMPATIBILITY.md: no call needs the row {row.text}")

    for failure in failures:
        print(failure)
    print(f"\nset up in {ready - began:.0f} s, run in {time.monotonic() - ready:.0f} s; transcripts: {args.out}\n")
    report(rows)
    equal = sum(row[2] or 0 for row in rows)
    fatal = [library for library in absent if IS_CI and library != "clientv3"]
    for library in fatal:
        print(f"{library} has to be there with CI=true: {absent[library]}")
    print(f"conformance: {equal + sum(row[3] or 0 for row in rows)} passed, {len(failures) + len(fatal)} failed, "
          f"{len(absent) - len(fatal)} skipped")
    return 1 if failures or fatal else 0


def no_server(name, path):
    hint = "run .ci/oracles" if name == "etcd" else "build it: cargo build --bin lockstepd"
    print(f"{name} is missing ({path}): {hint}")
    is_failure = IS_CI or name != "etcd"
    print(f"conformance: 0 passed, {int(is_failure)} failed, {int(not is_failure)} skipped")
    return int(is_failure)


# --- what the libraries need -----------------------------------------------------------------------------------------


def set_up(wanted):
    """The command of each library, and why those that are absent are."""
    commands, absent = {}, {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = {library: pool.submit(LIBRARIES[library]) for library in wanted}
        for library, job in jobs.items():
            try:
                commands[library] = job.result()
            except Missing as e:
                absent[library] = str(e)
    return commands, absent


def tool(name):
    path = shutil.which(name)
    if not path:
        raise Missing(f"there is no {name}")
    return path


def quietly(command, what, **words):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SETUP_SECONDS, **words)
    if done.returncode:
        sys.stderr.buffer.write(done.stdout)
        raise Broken(f"{what} failed with exit code {done.returncode}")
    return done.stdout.decode(errors="replace")


def kept(kind, files, make):
    """A folder of the cache, made once for what these files say."""
    digest = hashlib.sha256(sys.version.encode())
    for file in files:
        digest.update((HERE / file).read_bytes())
    folder = CACHE / f"{kind}-{digest.hexdigest()[:12]}"
    done = folder / ".complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        done.touch()
    return folder


def make_venv(folder):
    quietly([sys.executable, "-m", "venv", str(folder)], "making a virtual environment")
    pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    quietly(pip + ["--no-deps", "-r", str(HERE / "requirements.txt")], "pip install")
    # prost's build scripts want a program of this name; grpcio-tools carries the compiler as a module.
    protoc = folder / "protoc"
    protoc.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m grpc_tools.protoc "$@"\n')
    protoc.chmod(0o755)


def make_node_modules(folder):
    for name in ["package.json", "package-lock.json"]:
        shutil.copy(HERE / "etcd3" / name, folder)
    # Without scripts: the one of protobufjs only looks at versions.
    quietly([tool("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], "npm ci", cwd=folder)


VENV = concurrent.futures.ThreadPoolExecutor(1)
CARGO = concurrent.futures.ThreadPoolExecutor(1)


def venv():
    return VENV.submit(kept, "venv", ["requirements.txt"], make_venv).result()


def python_program(name):
    return lambda: [str(venv() / "bin/python"), str(HERE / name / "main.py")]


def node_program():
    node = tool("node")
    modules = kept("npm", ["etcd3/package-lock.json"], make_node_modules) / "node_modules"
    return ["env", f"NODE_PATH={modules}", node, str(HERE / "etcd3/main.js")]


def go_program():
    go = tool("go")
    program = CACHE / "go/clientv3"
    program.parent.mkdir(parents=True, exist_ok=True)
    try:
        quietly([go, "build", "-mod=readonly", "-o", str(program), "."], "go build", cwd=HERE / "clientv3")
    except Broken as e:
        if IS_CI:
            raise
        raise Missing(str(e)) from e
    return [str(program)]


def build_rust():
    env = {**os.environ, "PROTOC": str(venv() / "protoc"), "CARGO_TARGET_DIR": str(CACHE / "cargo")}
    env.pop("RUSTFLAGS", None)  # the server's flags are not these programs'
    quietly([tool("cargo"), "build", "--locked", "--quiet"], "cargo build", cwd=HERE / "etcd-client", env=env)


def rust_program(name):
    def build():
        CARGO.submit(build_rust).result()
        return [str(CACHE / "cargo/debug" / name)]

    return build


LIBRARIES = {
    "etcd-client": rust_program("etcd-client"),
    "aetcd": python_program("aetcd"),
    "etcd3gw": python_program("etcd3gw"),
    "etcd3": node_program,
    "clientv3": go_program,
    "kubernetes": rust_program("kubernetes"),
}


# --- running ---------------------------------------------------------------------------------------------------------


def compare(library, transcripts, known):
    """All calls, the rows that cover those that differ, and what no row covers."""
    pairs = align(transcripts[library, "etcd"], transcripts[library, "lockstepd"])
    listed, unlisted = [], []
    for call, theirs, ours in pairs:
        if theirs == ours:
            continue
        row = next((row for row in known if row.covers(library, call, theirs, ours)), None)
        if row:
            listed.append(row)
        else:
            unlisted.append(f"{library}: {call}\n    etcd      {theirs}\n    lockstepd {ours}")
    return pairs, listed, unlisted


def run_all(commands, servers, out):
    out.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = {
            (library, name): pool.submit(run_one, commands[library], servers[name], out / f"{library}.{name}")
            for library in commands
            for name in servers
        }
        return {key: job.result() for key, job in jobs.items()}


def run_one(command, server, out):
    """The transcript of a program with a fresh member."""
    with tempfile.TemporaryDirectory(prefix="lockstep-clients-") as folder, reserved() as (client, peer, dead):
        log = open(f"{out}.log", "wb")
        member = subprocess.Popen(
            [server, "--name", "m1", "--data-dir", f"{folder}/m1", "--listen-client-urls", f"http://127.0.0.1:{client}",
             "--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}",
             "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
             "--initial-cluster", f"m1=http://127.0.0.1:{peer}",
             "--experimental-watch-progress-notify-interval", "1s", "--log-level", "warn"],
            stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "HOME": folder})
        try:
            wait_until_healthy(member, client, f"{out}.log")
            env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
            for name in ["ETCD3GW_API_PATH", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy"]:
                env.pop(name, None)
            with open(f"{out}.err", "wb") as err:
                program = subprocess.Popen(command + [f"127.0.0.1:{client}", f"127.0.0.1:{dead}"],
                                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, env=env)
                try:
                    printed, _ = program.communicate(timeout=PROGRAM_SECONDS)
                    ended = f"exit code {program.returncode}"
                except subprocess.TimeoutExpired:
                    program.kill()
                    printed, _ = program.communicate()
                    ended = f"ended after {PROGRAM_SECONDS} s"
            if member.poll() is not None:
                ended += "; the server has stopped"
        finally:
            member.kill()
            member.wait()
            log.close()
    places = {f"127.0.0.1:{client}": "<live>", f"127.0.0.1:{peer}": "<peer>", f"127.0.0.1:{dead}": "<dead>",
              f"port={client}": "port=<live>"}
    text = steady(printed.decode(errors="backslashreplace"), places)
    pathlib.Path(f"{out}.txt").write_text(text)
    lines = [tuple(line.split(" | ", 1)) if " | " in line else (line, "") for line in text.splitlines()]
    return lines + [("the program's end", ended)]


class reserved:
    """Ports for a member, and one at which nobody listens while this lasts."""

    def __enter__(self):
        self.sockets = [socket.socket() for _ in range(3)]
        for s in self.sockets:
            s.bind(("127.0.0.1", 0))
        ports = [s.getsockname()[1] for s in self.sockets]
        for s in self.sockets[:2]:
            s.close()
        return ports

    def __exit__(self, *error):
        self.sockets[2].close()


def wait_until_healthy(member, port, log):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if member.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if b'"true"' in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise Broken(f"a server does not start:\n{pathlib.Path(log).read_text()[-2000:]}")


def steady(text, places):
    """Numbers the ids in the order in which they first appear, wherever they are and in whatever base."""
    for place, name in places.items():
        text = text.replace(place, name)
    names = {}
    for kind, number in re.findall(r"<(lease|member|cluster):(\d+)>", text):
        if int(number) > 1 << 32 and number not in names:
            count = sum(1 for name in names.values() if name.startswith(f"<{kind}"))
            names[number] = f"<{kind} {count + 1}>"
    text = re.sub(r"<(?:lease|member|cluster):(\d+)>", lambda m: names.get(m[1], m[1]), text)
    for number, name in names.items():
        text = text.replace(number, name).replace(f"{int(number):x}", name)
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f]", lambda m: f"\\x{ord(m[0]):02x}", text)


# --- comparing -------------------------------------------------------------------------------------------------------


def align(theirs, ours):
    """(call, result there, result here); a call that only one of them got to has no result in the other."""
    pairs, a, b = [], 0, 0
    while a < len(theirs) or b < len(ours):
        if a < len(theirs) and b < len(ours) and theirs[a][0] == ours[b][0]:
            pairs.append((theirs[a][0], theirs[a][1], ours[b][1]))
            a, b = a + 1, b + 1
        elif b < len(ours) and ours[b][0] not in [call for call, _ in theirs[a:]]:
            pairs.append((ours[b][0], "(not reached)", ours[b][1]))
            b += 1
        elif a < len(theirs):
            pairs.append((theirs[a][0], theirs[a][1], "(not reached)"))
            a += 1
        else:
            b += 1
    return pairs


class Known:
    """A row: which calls, and what has to be in the answer of each server."""

    def __init__(self, text, calls, theirs, ours):
        self.text, self.calls, self.theirs, self.ours, self.uses = text, calls, theirs, ours, 0

    def covers(self, library, call, theirs, ours):
        return (any(fnmatch.fnmatchcase(f"{library}: {call}", pattern) for pattern in self.calls)
                and all(part in theirs for part in self.theirs) and all(part in ours for part in self.ours))


def known_differences():
    page = (ROOT / "docs/COMPATIBILITY.md").read_text()
    section = re.search(r"^## Client libraries$(.*?)(?=^## |\Z)", page, re.M | re.S)
    if not section:
        raise Broken('docs/COMPATIBILITY.md has no section "Client libraries"')
    rows = []
    for line in section[1].splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and "`" in cells[0]:
            calls, theirs, ours = (re.findall(r"`([^`]+)`", cell) for cell in cells[:3])
            rows.append(Known(cells[0], calls, theirs, ours))
    return rows


def report(rows):
    head = ("library", "calls", "equal", "known differences", "differ", "skipped")
    total = ["total"] + [sum(row[n] or 0 for row in rows) for n in range(1, 5)] + [str(sum(bool(r[5]) for r in rows))]
    table = [[str(cell) for cell in row] for row in [head, *rows, total]]
    widths = [max(len(row[n]) for row in table) for n in range(len(head))]
    for row in table:
        print("  ".join(cell.ljust(w) if n in (0, 5) else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths))))
    print()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as e:
        print(e)
        print("conformance: 0 passed, 1 failed")
        sys.exit(1)
