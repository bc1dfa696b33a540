#!/usr/bin/env python3
"""Ask a daemon that holds a million events everything an operator can ask, and see how long each answer takes.

Fills a store: `--waiting` events for a destination without an address, `--dead` dead letters, `--delayed` deliveries in the
delay tree, and as many delivered ones as waiting for the line that is measured. Then each GET of /openapi.json is asked
with sensible parameters, several times, and the medians and maxima are told, slowest first; of a stream its
beginning counts. A path that the rig does not know is a fault. At last a backlog is delivered, once left alone and once while
everything is asked all the time, and the two paces are compared.

Run: tests/rigs/questions.py [--short] [--waiting N] [--dead N] [--delayed N] [--bin FILE] [--store DIR]
Needs: Linux, Python 3.11, the release binary, the benchmark's binary (built if missing), 2 KB of disk an event.
Exit 0: within the limits; 1: not.
"""
import argparse
import asyncio
import http.client
import json
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time

import common

PER_REQUEST, SENDERS = 100, 8
SPREAD = {"waits": 20, "dead": 20, "late": 2, "flows": 20}  # events of an interaction
CONFIG = """
[intake]
listen = "127.0.0.1:{intake}"
max_batch = {batch}
max_body = "4MiB"
disk_reserve = "1MiB"
[admin]
listen = "127.0.0.1:{admin}"
[store]
path = {data}
[[destination]]
name = "waits"
[[destination]]
name = "dead"
url = "http://127.0.0.1:{sink}/dead"
ttl = {{ "*" = "1s" }}
[[destination]]
name = "late"
url = "http://127.0.0.1:{nobody}/late"
retry = {{ base = "1h", factor = 1.0, max = "1h", jitter = "none" }}
breaker = {{ min_calls = 1000000, permanent_answers = 1000000 }}
[[destination]]
name = "flows"
url = "http://127.0.0.1:{sink}/flows"
"""
SOURCE = '[[source]]\nname = "{name}"\nprofile = "interaction"\nsplit = ""\nto = ["{name}"]\n'
KINDS = ("waits", "dead", "late", "flows")


def make_daemon(options, workdir, ports):
    intake, admin, sink, nobody = ports
    text = CONFIG.format(intake=intake, admin=admin, data=json.dumps(str(workdir / "data")), sink=sink, nobody=nobody,
                         batch=PER_REQUEST)
    config = workdir / "holdline.toml"
    config.write_text(text + "".join(SOURCE.format(name=name) for name in KINDS))
    log = workdir / "daemon.log"
    return common.Daemon(common.find_binary(options.bin), ["--config", config], workdir / "data", admin, log,
                         {"HOLDLINE_LOG": "holdline=error"})


async def fill(port, kind, count, begin=0):
    """Posts events for one destination, many in a request."""
    rng = random.Random(kind)
    starts = iter(range(begin, begin + count, PER_REQUEST))

    async def sender():
        connection = common.Sender(port, f"/in/{kind}")
        for start in starts:
            last = min(start + PER_REQUEST, begin + count)
            bodies = [common.make_body(rng, f"{kind}-{n}", f"{kind}-call-{n // SPREAD[kind]}", n, 1100)
                      for n in range(start, last)]
            await connection.post_until_accepted(b"[" + b",".join(bodies) + b"]")
        connection.close()

    await asyncio.gather(*(sender() for _ in range(SENDERS)))


def until(daemon, what, reached, limit=600):
    begin = time.monotonic()
    while not reached(daemon.status()):
        daemon.check_alive()
        if time.monotonic() - begin > limit:
            raise common.RigError(f"{what}: not within {limit} s")
        time.sleep(0.2)


def of(status, name):
    return next(d for d in status["destinations"] if d["name"] == name)


def fill_all(daemon, ports, options):
    for kind, count in (("waits", options.waiting // 2), ("dead", options.dead), ("late", options.delayed),
                        ("waits", options.waiting - options.waiting // 2)):
        begin = options.waiting // 2 if kind == "waits" and count and of(daemon.status(), "waits")["queue"]["depth"] else 0
        asyncio.run(fill(ports[0], kind, count, begin))
    until(daemon, "dead letters", lambda s: s["dlq"]["depth"] >= options.dead)
    until(daemon, "delayed", lambda s: of(s, "late")["queue"]["delayed"] >= options.delayed // SPREAD["late"])


def first_of(daemon, path):
    after = ""
    while True:
        page = daemon.ask_json(path + after)
        if page["items"]:
            return page["items"][0]["id"]
        if not page["next"]:
            raise common.RigError(f"{path} is empty")
        after = f"&after={page['next']}"


def questions(daemon, options):
    """Path of the document -> what is asked of it."""
    dead, late = first_of(daemon, "/v1/dlq?limit=1"), first_of(daemon, "/v1/events?destination=late&limit=1")
    waits = first_of(daemon, "/v1/events?destination=waits&limit=1")
    middle = options.waiting // 2
    deep = f"after={middle}"
    return {
        "/": [""], "/healthz": [""], "/readyz": [""], "/metrics": [""], "/openapi.json": [""],
        "/v1/status": [""], "/v1/destinations": [""], "/v1/destinations/{name}": ["waits", "dead", "late", "flows"],
        "/v1/ages": [""], "/v1/audit": ["", "?limit=1000"], "/v1/outages": ["", "?limit=1000"],
        "/v1/quarantine": ["", "?limit=1000"], "/v1/damaged": ["", "?limit=1000"],
        "/v1/events": ["", "?limit=1000", f"?{deep}", "?state=queued", "?state=delayed", "?state=blocked", "?state=in_flight",
                       "?state=delivered", "?state=dead", "?state=discarded", "?destination=waits", "?destination=dead",
                       "?destination=late", f"?destination=late&state=delayed&{deep}", "?type=interaction.updated",
                       "?type=nothing", "?source=late", f"?interaction=waits-call-{middle // SPREAD['waits']}",
                       "?interaction=nothing", "?since=2099-01-01T00:00:00Z", "?until=2020-01-01T00:00:00Z",
                       "?state=delivered&destination=waits"],
        "/v1/events/{id}": [waits, dead, late, f"waits:waits-{middle}"],
        "/v1/events/{id}/body": [waits, dead, late],
        "/v1/interactions/{key}": ["waits-call-1", "late-call-1", "dead-call-1", "nothing"],
        "/v1/dlq": ["", "?limit=1000", "?destination=dead", "?destination=waits", "?reason=expired", "?reason=permanent",
                    "?interaction=dead-call-7", "?interaction=nothing", "?type=nothing", "?since=2099-01-01T00:00:00Z",
                    f"?{deep}"],
        "/v1/dlq/redrives": [""],
        "/v1/dlq/{id}": [dead], "/v1/dlq/{id}/body": [dead], "/v1/dlq/export": ["", "?interaction=nothing"],
        "/v1/destinations/{name}/pending": ["waits", "late"], "/v1/backup": None,
    }


def paths(daemon, options):
    """Everything that is asked -> a list of paths, and what of the document is not known here."""
    known = questions(daemon, options)
    document = daemon.ask_json("/openapi.json")["paths"]
    gets = {path for path, methods in document.items() if "get" in methods} | {"/openapi.json"}
    asked = []
    for path in sorted(gets & known.keys()):
        head, brace, rest = path.partition("{")
        tail = rest.partition("}")[2] if brace else ""
        asked += [f"{head}{variant}{tail}" for variant in known[path] or []]
    return asked, sorted(gets - known.keys())


class Asker:
    """One connection, kept; a stream is left when its head has come."""

    def __init__(self, daemon):
        self.port, self.token = daemon.admin_port, (daemon.data / "admin.token").read_text().strip()
        self.connection = None

    def ask(self, path):
        """(seconds, status, bytes)"""
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        begin = time.monotonic()
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        answer = self.connection.getresponse()
        if answer.getheader("content-type", "").startswith("application/x-ndjson"):
            taken = time.monotonic() - begin
            self.connection.close()
            self.connection = None
            return taken, answer.status, 0
        body = answer.read()
        return time.monotonic() - begin, answer.status, len(body)


def measure(daemon, asked, rounds):
    asker, seen = Asker(daemon), {path: [] for path in asked}
    for _ in range(rounds):
        for path in asked:
            taken, status, size = asker.ask(path)
            if status != 200:
                raise common.RigError(f"GET {path} was answered {status}")
            seen[path].append((taken, size))
    daemon.check_alive()
    return seen


def pace(daemon, ports, options, asked):
    """Delivers a backlog -> (deliveries a second, questions asked meanwhile)."""
    pause(daemon, "pause")
    before = of(daemon.status(), "flows")["counters"]["delivered"]
    accepted = of(daemon.status(), "flows")["counters"]["accepted"]
    asyncio.run(fill(ports[0], "flows", options.flow, accepted))
    over, count = threading.Event(), [0]

    def ask_on():
        asker = Asker(daemon)
        while not over.is_set():
            for path in asked:
                if over.wait(options.every):
                    return
                asker.ask(path)
                count[0] += 1

    time.sleep(1.0)
    pause(daemon, "resume")
    # past the ramp
    until(daemon, "the ramp", lambda s: of(s, "flows")["counters"]["delivered"] - before >= options.flow * 0.3)
    thread = threading.Thread(target=ask_on)
    if asked:
        thread.start()
    begin, first = time.monotonic(), of(daemon.status(), "flows")["counters"]["delivered"]
    until(daemon, "deliveries", lambda s: of(s, "flows")["queue"]["depth"] == 0)
    taken = time.monotonic() - begin
    last = of(daemon.status(), "flows")["counters"]["delivered"]
    over.set()
    if asked:
        thread.join()
    return (last - first) / taken, count[0]


def pause(daemon, what):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.admin_port, timeout=30)
    token = (daemon.data / "admin.token").read_text().strip()
    body = "{}" if what == "pause" else None
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", f"/v1/destinations/flows/{what}", body=body, headers=headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise common.RigError(f"{what}: {answer.status} {answer.read()[:200]!r}")
    connection.close()


def compare_paces(daemon, ports, options, asked):
    """Alone and asked in turn, so that what else the machine does falls on both."""
    alone, busy, count = [], [], 0
    for _ in range(options.paces):
        alone.append(pace(daemon, ports, options, [])[0])
        rate, asked_count = pace(daemon, ports, options, asked)
        busy.append(rate)
        count += asked_count
    return alone, busy, count


def tell(seen, options):
    rows = sorted(((statistics.median(t for t, _ in times), max(t for t, _ in times), times[-1][1], path)
                   for path, times in seen.items()), reverse=True)
    print(f"{'median ms':>10} {'max ms':>8} {'bytes':>9}  GET")
    for median, worst, size, path in rows[:options.shown]:
        print(f"{median * 1000:10.1f} {worst * 1000:8.1f} {size:9}  {path}")
    return rows


def run(options):
    tool = common.find_load_tool(options.load_tool)
    workdir, ports = common.make_workdir(options.workdir, "questions"), common.free_ports(4)
    sink = subprocess.Popen([str(tool), "sink", "--listen", f"127.0.0.1:{ports[2]}"], stdout=subprocess.DEVNULL)
    kept = pathlib.Path(options.store) if options.store else None
    if kept and kept.exists():
        shutil.copytree(kept, workdir / "data")
    daemon = make_daemon(options, workdir, ports)
    try:
        daemon.start()
        daemon.wait_ready(120)
        if not (kept and kept.exists()):
            begin = time.monotonic()
            fill_all(daemon, ports, options)
            print(f"filled in {time.monotonic() - begin:.0f} s", flush=True)
            if kept:
                daemon.stop()
                shutil.copytree(workdir / "data", kept)
                daemon.start()
                daemon.wait_ready(120)
        status = daemon.status()
        asked, unknown = paths(daemon, options)
        rows = tell(measure(daemon, asked, options.rounds), options)
        alone, busy, count = compare_paces(daemon, ports, options, asked)
        memory = daemon.memory_bytes("VmHWM")
    finally:
        daemon.kill()
        sink.kill()
        sink.wait()
        shutil.rmtree(workdir)
    faults = [f"the document has {path}, of which this rig knows nothing" for path in unknown]
    faults += [f"{path}: {median * 1000:.0f} ms" for median, _, _, path in rows if median * 1000 > options.answer_max_ms]
    share = 1 - statistics.median(busy) / statistics.median(alone)
    if share > options.slower_max:
        faults.append(f"deliveries are slower by {share:.0%} while everything is asked")
    common.print_faults("faults", faults, 30)
    rates = lambda all_of: " ".join(f"{rate:.0f}" for rate in all_of)
    common.print_row(**{
        "harness": "questions", "waiting": status["queue"]["depth"], "dead": status["dlq"]["depth"],
        "slowest median": f"{rows[0][0] * 1000:.0f} ms", "slowest at all": f"{max(r[1] for r in rows) * 1000:.0f} ms",
        "delivered/s alone": rates(alone), "asked": rates(busy), "questions": count,
        "memory MB": memory >> 20, "verdict": "FAILED" if faults else "held"})
    common.print_result("questions", "everything is asked at once", "FAILED" if faults else "held", n=count)
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="how long an operator waits for answers (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--load-tool", help="default: the benchmark's binary, built if it is not there")
    p.add_argument("--waiting", type=int, default=1_000_000)
    p.add_argument("--dead", type=int, default=100_000)
    p.add_argument("--delayed", type=int, default=20_000)
    p.add_argument("--flow", type=int, default=100_000, help="events of the backlog whose pace is measured")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--paces", type=int, default=3)
    p.add_argument("--every", type=float, default=0.5, help="seconds between two questions beside deliveries")
    p.add_argument("--answer-max-ms", type=float, default=200.0)
    p.add_argument("--slower-max", type=float, default=0.1)
    p.add_argument("--shown", type=int, default=25)
    p.add_argument("--store", help="a filled data folder to use again, or to make")
    p.add_argument("--short", action="store_true", help="a tenth of all, and generous limits")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.waiting, options.dead, options.delayed, options.flow = 50_000, 5_000, 2_000, 20_000
        options.rounds, options.paces, options.slower_max, options.shown = 3, 1, 0.5, 10
        options.answer_max_ms = 500.0
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("questions", lambda: run(arguments), "none"))
