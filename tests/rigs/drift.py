#!/usr/bin/env python3
"""Change a destination's latency from 50 ms to 2 s and back under a steady load, and check how the daemon adapts.

The destination refuses nothing: it only becomes slow, and accepts any number of concurrent requests. Shows: the sender is
not affected (the intake's 99th percentile does not change); the concurrency limit adapts, down and up again; the status
reports slow answers, and the breaker stays closed, since each of them is a success; while the destination is slow it
continues to get events; waiting events are delivered in order, and none is lost.

Prints a table over time: the destination's latency, the concurrency limit and the requests in flight, the breaker,
deliveries and queue length, and the 99th percentile of the acknowledgements, measured at the sender from the time at which
each event was due.

Run: tests/rigs/drift.py [--short] [--rate N] [--seed N] [--bin FILE] [--load-tool FILE] [--without adaptive]
`--without` disables the feature in the daemon's configuration: the rig then fails.
Needs: Linux, Python 3.11, the release binary, and the benchmark's binary, which posts and receives (built if missing).
Exit 0: held; 1: did not.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

import common

FAST_MS, SLOW_MS = 50, 2000
SLOW_CALL_MS, TIMEOUT_S = 1000, 5
P99_RATIO_MAX = 2.0
# Share of the intended rate that must be posted before the destination becomes slow.
CARRIED_MIN = 0.95
# Below this a percentile measures the scheduling of two busy cores rather than the intake; more so in CI.
P99_FLOOR_MS, P99_FLOOR_SHORT_MS = 20.0, 100.0


class Paced:
    """The load tool's `paced` mode: sender and destination."""

    def __init__(self, tool, ports, options):
        command = [str(tool), "paced", "--to", f"http://127.0.0.1:{ports[0]}/in/default", "--listen",
                   f"127.0.0.1:{ports[2]}", "--rate", str(options.rate), "--latency-ms", str(FAST_MS),
                   "--seed", str(options.seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = []
        self.news = threading.Semaphore(0)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            self.news.release()

    def next(self):
        """Its report of the next second."""
        if not self.news.acquire(timeout=10):
            raise common.RigError(f"the load tool is silent; it ended with {self.process.poll()}")
        return self.lines[-1]

    def answer_in(self, ms):
        self.process.stdin.write(f"{ms}\n")
        self.process.stdin.flush()

    def stop_posting(self):
        self.process.stdin.close()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Run:
    """One run: its samples, one per second."""

    def __init__(self, daemon, paced, options):
        self.daemon, self.paced, self.options = daemon, paced, options
        self.samples = []
        self.reported = False
        self.begin = time.monotonic()

    def sample(self, phase, latency_ms):
        line = self.paced.next()
        self.daemon.check_alive()
        item = self.daemon.ask_json("/v1/destinations/default")
        breaker, before = item["breaker"], self.samples[-1]["line"] if self.samples else None
        self.reported = self.reported or item["latency"]["slow"] is not None
        rate = (line["answered"] - before["answered"]) / (line["seconds"] - before["seconds"]) if before else 0
        self.samples.append({
            "phase": phase, "latency": latency_ms, "line": line, "second": time.monotonic() - self.begin,
            "limit": item["concurrency"]["limit"], "in flight": item["concurrency"]["in_flight"],
            "breaker": breaker["state"], "answered/s": rate, "waiting": item["queue"]["depth"],
            "p99": (line["p99_us"] or 0) / 1000})
        if len(self.samples) % self.options.every == 0:
            print(" | ".join(str(value) for value in self.row(self.samples[-1]).values()), flush=True)
        return self.samples[-1]

    def phase(self, name, latency_ms, seconds):
        self.paced.answer_in(latency_ms)
        for _ in range(seconds):
            self.sample(name, latency_ms)

    def check_load(self):
        """Fails if the machine does not sustain the load without disturbance: then the rig shows nothing."""
        first, *_, last = self.of("before", "line")
        rate = (last["acknowledged"] - first["acknowledged"]) / (last["seconds"] - first["seconds"])
        if rate < CARRIED_MIN * self.options.rate:
            raise common.RigError(f"{self.options.rate} events/s were to be posted and {rate:.0f} were acknowledged before "
                                  f"anything was slow; load average {os.getloadavg()[0]:.0f}, choose a lower --rate")

    def until_back(self, seconds):
        """Continues until the queue is no longer than before -> whether that was reached."""
        self.paced.answer_in(FAST_MS)
        calm = 0
        for _ in range(seconds):
            s = self.sample("after", FAST_MS)
            calm = calm + 1 if s["waiting"] < self.options.rate and s["breaker"] == "closed" else 0
            if calm == 5:
                return True
        return False

    def of(self, phase, what):
        return [s[what] for s in self.samples if s["phase"] == phase]

    @staticmethod
    def row(s):
        return {"second": round(s["second"]), "answers take": f"{s['latency']:,} ms", "requests at once allowed": s["limit"],
                "under way": s["in flight"], "breaker": s["breaker"], "delivered/s": f"{s['answered/s']:,.0f}",
                "waiting": f"{s['waiting']:,}", "ack p99": f"{s['p99']:.1f} ms"}

    def table(self):
        """A row every few seconds, and at each change of phase."""
        rows = []
        for n, (before, s) in enumerate(zip([None, *self.samples], self.samples)):
            turns = before is None or before["breaker"] != s["breaker"] or before["latency"] != s["latency"]
            if turns or n % self.options.every == 0:
                rows.append(self.row(s))
        return rows


def judge(run, back, status, attempts):
    """(faults, median of the seconds' 99th percentiles in each phase)"""
    faults, o = [], run.options
    p99 = {phase: statistics.median(run.of(phase, "p99")) for phase in ("before", "slow", "after")}
    for phase in ("slow", "after"):
        if p99[phase] > max(P99_RATIO_MAX * p99["before"], o.p99_floor):
            faults.append(f"the intake's p99 went from {p99['before']:.1f} to {p99[phase]:.1f} ms ({phase})")
    last = run.samples[-1]["line"]
    if last["refused"] or last["backwards"]:
        faults.append(f"{last['refused']} events were refused, {last['backwards']} came out of order")
    limit = {phase: run.of(phase, "limit") for phase in ("before", "slow", "after")}
    usual = statistics.median(limit["before"])
    if min(limit["slow"]) > usual / 2:
        faults.append(f"{usual:.0f} requests at once were allowed before, {min(limit['slow'])} while it was slow")
    if limit["after"][-1] < usual / 2:
        faults.append(f"{usual:.0f} requests at once were allowed before, {limit['after'][-1]} at the end")
    states = {s["breaker"] for s in run.samples}
    if states != {"closed"}:
        faults.append(f"the breaker was {states}, though every answer was a success")
    if not run.reported:
        faults.append("the status never said that the answers were slow")
    idle = sum(rate == 0 for rate in run.of("slow", "answered/s"))
    if idle > len(run.of("slow", "answered/s")) / 2:
        faults.append(f"in {idle} of the seconds while it was slow it got nothing")
    unwanted = {outcome: count for outcome, count in attempts.items() if count and outcome != "answered"}
    if unwanted:
        faults.append(f"attempts ended as {unwanted}")
    if not back:
        faults.append(f"{run.samples[-1]['waiting']} still waited {o.after} s after it was fast again")
    c = status["counters"]
    if c["accepted"] != last["acknowledged"] or status["dlq"]["depth"]:
        faults.append(f"{last['acknowledged']} acknowledged, but {c}")
    fault = common.sums_fault(status)
    return faults + ([fault] if fault else []), p99


def write_config(path, ports, data, options):
    breaker = f'{{ window = "{options.window}s", slow_call = "{SLOW_CALL_MS}ms" }}'
    adaptive = "false" if options.without == "adaptive" else "true"
    common.write_config(
        path, intake=ports[0], admin=ports[1], data=data, source={"profile": '"genesys-eventbridge"'},
        destination={"url": f'"http://127.0.0.1:{ports[2]}/events"', "timeout": f'"{TIMEOUT_S}s"', "breaker": breaker,
                     "concurrency": f'{{ max = {options.at_once}, adaptive = {adaptive}, ramp_up = "{options.ramp}s" }}'})


def drive(binary, tool, workdir, options):
    """(the run, whether it came back, the last status, how attempts ended)"""
    ports = common.free_ports(3)
    write_config(workdir / "holdline.toml", ports, workdir / "data", options)
    daemon = common.Daemon(binary, ["--config", workdir / "holdline.toml"], workdir / "data", ports[1],
                           workdir / "daemon.log", env={"HOLDLINE_LOG": "warn"})
    paced = None
    try:
        daemon.start()
        daemon.wait_ready()
        paced = Paced(tool, ports, options)
        run = Run(daemon, paced, options)
        run.phase("start", FAST_MS, options.start)
        run.phase("before", FAST_MS, options.before)
        run.check_load()
        run.phase("slow", SLOW_MS, options.slow)
        back = run.until_back(options.after)
        paced.stop_posting()
        end = time.monotonic() + 60
        while daemon.status()["queue"]["depth"] and time.monotonic() < end:
            daemon.check_alive()
            time.sleep(0.2)
        run.sample("end", FAST_MS)
        run.samples[-1]["line"] = paced.next()
        return run, back, daemon.status(), daemon.attempts()
    finally:
        daemon.kill()
        if paced:
            paced.kill()


def run_and_judge(options):
    binary, tool = common.find_binary(options.bin), common.find_load_tool(options.load_tool)
    workdir = common.make_workdir(options.workdir, "drift")
    try:
        run, back, status, attempts = drive(binary, tool, workdir, options)
    finally:
        shutil.rmtree(workdir)
    faults, p99 = judge(run, back, status, attempts)
    print(f"at most {options.at_once} requests at once, ramp {options.ramp} s; breaker: window {options.window} s, slow from "
          f"{SLOW_CALL_MS} ms more than usual; timeout {TIMEOUT_S} s")
    common.print_table(run.table())
    common.print_faults("faults", faults)
    slow = run.of("slow", "limit")
    common.print_row(**{
        "harness": "drift", "seed": options.seed, "events": run.samples[-1]["line"]["acknowledged"],
        "ack p99 before / slow / after, median of seconds": " / ".join(f"{p99[p]:.1f}" for p in p99) + " ms",
        "requests at once before / least / at the end": f"{statistics.median(run.of('before', 'limit')):.0f} / "
        f"{min(slow)} / {run.of('after', 'limit')[-1]}", "most waiting": max(s["waiting"] for s in run.samples),
        "load average": f"{os.getloadavg()[0]:.1f}", "out of order": run.samples[-1]["line"]["backwards"],
        "verdict": "FAILED" if faults else "held"})
    common.print_result("drift", "a destination grows slow", "FAILED" if faults else "held", n=1, seed=options.seed,
                        acknowledged=run.samples[-1]["line"]["acknowledged"],
                        out_of_order=run.samples[-1]["line"]["backwards"])
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="let a destination become slow and fast again (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--load-tool", help="default: the benchmark's binary, built if it is not there")
    p.add_argument("--rate", type=int, default=5_000, help="events per second")
    p.add_argument("--at-once", type=int, default=1024, help="requests, the destination's setting")
    p.add_argument("--window", type=int, default=10, help="seconds, the breaker's setting")
    p.add_argument("--ramp", type=int, default=10, help="seconds, the setting")
    p.add_argument("--start", type=int, default=10, help="seconds until the first measurements count")
    p.add_argument("--before", type=int, default=20, help="seconds at 50 ms")
    p.add_argument("--slow", type=int, default=40, help="seconds at 2 s")
    p.add_argument("--after", type=int, default=180, help="seconds at most, until what has waited is delivered")
    p.add_argument("--seed", type=int, default=3200, help="names the events")
    p.add_argument("--every", type=int, default=5, help="seconds between printed lines")
    p.add_argument("--short", action="store_true", help="1,000 events/s, about 45 seconds in all")
    p.add_argument("--without", choices=("adaptive",), help="the rig then fails")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.rate, options.at_once, options.every = 1_000, 256, 2
        options.window, options.ramp = 2, 3
        options.start, options.before, options.slow, options.after = 3, 5, 14, 30
    options.p99_floor = P99_FLOOR_SHORT_MS if options.short else P99_FLOOR_MS
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("drift", lambda: run_and_judge(arguments), arguments.seed))
