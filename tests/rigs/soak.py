#!/usr/bin/env python3
"""Push millions of events through the daemon while a few thousand wait, and watch disk, memory and descriptors.

Shows: what the daemon takes does not grow with what has passed through it. The queue stays near 5,000 events; the
deduplication window is chosen so that about 100,000 events are remembered. After the first third of the run, disk must
stay under its limit, and memory and descriptors must not have grown by more than a fifth over what they were in the second.
What was seen over time is written as a table (CSV) and as a picture (SVG) with --record.

Run: tests/rigs/soak.py [--short] [--events N] [--remembered N] [--disk-max-mb N] [--record FOLDER] [--bin FILE]
                        [--load-tool FILE]
Needs: Linux, Python 3.11, the release binary, and the benchmark's binary, which posts and receives (built if missing).
Exit 0: stayed within the limits; 1: did not.
"""
import argparse
import csv
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

import common

MB = 1 << 20
# Pushed through a daemon of its own first, to learn the rate of this machine and choose the deduplication window.
PROBE_EVENTS = 5_000


class Flow:
    """The load tool's `flow`: sender and destination, with a fixed number of events waiting in between."""

    def __init__(self, tool, ports, events, waiting):
        command = [str(tool), "flow", "--to", f"http://127.0.0.1:{ports[0]}/in/default",
                   "--listen", f"127.0.0.1:{ports[2]}", "--events", str(events), "--waiting", str(waiting)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.latest = {"acknowledged": 0, "received": 0, "seconds": 0.0}
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.latest = json.loads(line)

    def is_over(self):
        return self.process.poll() is not None

    def check(self):
        self.reader.join(5)
        if self.process.returncode:
            raise common.RigError(f"the load tool ended with {self.process.returncode}")

    def stop(self):
        if not self.is_over():
            self.process.kill()
            self.process.wait()


def make_daemon(binary, workdir, ports, window):
    common.write_config(
        workdir / "holdline.toml", intake=ports[0], admin=ports[1], data=workdir / "data",
        source={"dedup_window": f'"{window}s"'},
        destination={"url": f'"http://127.0.0.1:{ports[2]}/events"', "timeout": '"60s"', "concurrency": "{ max = 64 }"})
    return common.Daemon(binary, ["--config", workdir / "holdline.toml"], workdir / "data", ports[1],
                         workdir / "daemon.log")


def measure_rate(binary, tool, workdir):
    """Events per second through a daemon on this machine."""
    probe = workdir / "probe"
    probe.mkdir()
    ports = common.free_ports(3)
    daemon = make_daemon(binary, probe, ports, 20)
    daemon.start()
    try:
        daemon.wait_ready()
        begin = time.monotonic()
        flow = Flow(tool, ports, PROBE_EVENTS, PROBE_EVENTS // 10)
        flow.process.wait(120)
        flow.check()
        return PROBE_EVENTS / (time.monotonic() - begin)
    finally:
        daemon.kill()
        shutil.rmtree(probe)


class AckLatency:
    """The 99th percentile of the time to an answer between two looks, from the daemon's own histogram."""

    def __init__(self, daemon):
        self.daemon, self.before = daemon, {}

    def p99_ms(self):
        """None where nothing was answered; else the upper bound of the bucket it falls into."""
        _, text = self.daemon.ask("/metrics")
        found = re.findall(r'^holdline_ack_seconds_bucket\{.*?le="([^"]+)".*?\} (\d+)', text.decode(), re.M)
        now = {float(bound): int(count) for bound, count in found}
        seen = {bound: count - self.before.get(bound, 0) for bound, count in sorted(now.items())}
        self.before = now
        total = max(seen.values(), default=0)
        return next((1000 * bound for bound, count in seen.items() if total and count >= 0.99 * total), None)


def take_sample(daemon, flow, begin, latency):
    status = daemon.status()
    return {"seconds": time.monotonic() - begin, "accepted": status["counters"]["accepted"],
            "received": flow.latest["received"], "depth": status["queue"]["depth"],
            "disk": common.disk_bytes(daemon.data), "memory": daemon.memory_bytes(), "files": daemon.open_files(),
            "p99_ms": latency.p99_ms()}


def print_sample(s):
    print(f"{s['seconds']:7.0f} s  accepted {s['accepted']:9}  depth {s['depth']:7}  disk {s['disk'] / MB:6.0f} MB  "
          f"memory {s['memory'] / MB:5.0f} MB  descriptors {s['files']:4}  ack p99 <= {s['p99_ms'] or 0:g} ms", flush=True)


def watch(daemon, flow, options):
    """Samples until the flow is over; each second, printed every so many."""
    samples, begin, printed, latency = [], time.monotonic(), 0.0, AckLatency(daemon)
    while not flow.is_over():
        daemon.check_alive()
        samples.append(take_sample(daemon, flow, begin, latency))
        if samples[-1]["seconds"] >= printed:
            print_sample(samples[-1])
            printed += options.every
        time.sleep(min(1.0, options.every / 4))
    flow.check()
    samples.append(take_sample(daemon, flow, begin, latency))
    print_sample(samples[-1])
    return samples


def until_drained(daemon, limit=60.0):
    end = time.monotonic() + limit
    while daemon.status()["queue"]["depth"] and time.monotonic() < end:
        time.sleep(0.1)
    return daemon.status()


def write_record(samples, folder):
    """soak.csv, and soak.svg with one curve for each thing that was watched."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "soak.csv", "w", newline="") as file:
        table = csv.DictWriter(file, samples[0])
        table.writeheader()
        table.writerows(samples)
    curves = (("events/s", rates(samples)), ("waiting", [s["depth"] for s in samples]),
              ("disk MB", [s["disk"] / MB for s in samples]), ("memory MB", [s["memory"] / MB for s in samples]),
              ("descriptors", [s["files"] for s in samples]), ("ack p99 ms", [s["p99_ms"] or 0 for s in samples]))
    width, height, left = 800, 90, 120
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{len(curves) * (height + 30) + 30}" '
             'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    end = samples[-1]["seconds"] or 1
    for place, (name, values) in enumerate(curves):
        top, most = 20 + place * (height + 30), max(values) or 1
        points = " ".join(f"{left + width * s['seconds'] / end:.1f},{top + height * (1 - v / most):.1f}"
                          for s, v in zip(samples, values))
        parts += [f'<text x="4" y="{top + 12}">{name}</text><text x="4" y="{top + 28}">at most {most:.0f}</text>',
                  f'<path d="M{left},{top}v{height}h{width}" fill="none" stroke="#999"/>',
                  f'<polyline points="{points}" fill="none" stroke="#06c"/>']
    parts.append(f'<text x="{left}" y="{len(curves) * (height + 30) + 20}">{end:.0f} s, '
                 f'{samples[-1]["accepted"]} events</text></svg>')
    (folder / "soak.svg").write_text("\n".join(parts) + "\n")


def rates(samples):
    """Events accepted per second, from each sample to the next."""
    pairs = zip(samples, samples[1:])
    return [0.0, *((b["accepted"] - a["accepted"]) / max(b["seconds"] - a["seconds"], 0.001) for a, b in pairs)]


def growth(samples, options):
    """What grew by more than a fifth from the second third of the run to the last."""
    thirds = [[s for s in samples if part <= 3 * s["accepted"] / options.events < part + 1] for part in (1, 2)]
    if options.short or not all(len(third) >= 20 for third in thirds):
        return []
    of = lambda third, what: statistics.median(s[what] for s in third)
    return [f"{what} grew from {of(thirds[0], what)} to {of(thirds[1], what)}" for what in ("memory", "files")
            if of(thirds[1], what) > 1.2 * of(thirds[0], what)]


def judge(samples, status, options):
    """(faults, the disk sizes after the first third)"""
    later = [s for s in samples if s["accepted"] >= options.events / 3] or samples
    disk = [s["disk"] / MB for s in later]
    faults = growth(samples, options)
    if max(disk) > options.disk_max_mb:
        faults.append(f"the data folder took {max(disk):.0f} MB, more than {options.disk_max_mb}")
    if status["queue"]["depth"]:
        faults.append(f"{status['queue']['depth']} events still queued at the end")
    if status["counters"]["accepted"] != options.events:
        faults.append(f"accepted {status['counters']['accepted']}, acknowledged {options.events}")
    fault = common.sums_fault(status)
    return faults + ([fault] if fault else []), disk


def run(options):
    binary, tool = common.find_binary(options.bin), common.find_load_tool(options.load_tool)
    workdir, ports = common.make_workdir(options.workdir, "soak"), common.free_ports(3)
    daemon = flow = None
    try:
        rate = measure_rate(binary, tool, workdir)
        window = max(1, round(options.remembered / rate))
        print(f"about {rate:.0f} events/s here: dedup_window {window} s remembers about {rate * window:.0f}", flush=True)
        daemon = make_daemon(binary, workdir, ports, window)
        daemon.start()
        daemon.wait_ready()
        flow = Flow(tool, ports, options.events, options.waiting)
        samples = watch(daemon, flow, options)
        status = until_drained(daemon)
    finally:
        if flow:
            flow.stop()
        if daemon:
            daemon.kill()
        shutil.rmtree(workdir)
    faults, disk = judge(samples, status, options)
    if options.record:
        write_record(samples, options.record)
    common.print_faults("faults", faults)
    common.print_row(**{
        "harness": "soak", "events": status["counters"]["accepted"], "waiting": options.waiting,
        "events/s": round(options.events / samples[-1]["seconds"]),
        "disk MB min / median / max": " / ".join(f"{f(disk):.0f}" for f in (min, statistics.median, max)),
        "memory MB max": round(max(s["memory"] for s in samples) / MB),
        "descriptors max": max(s["files"] for s in samples), "verdict": "FAILED" if faults else "held"})
    common.print_result("soak", "none, for long", "FAILED" if faults else "held", n=1,
                        acknowledged=status["counters"]["accepted"])
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="push millions of events through the daemon (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--load-tool", help="default: the benchmark's binary, built if it is not there")
    p.add_argument("--events", type=int, default=3_000_000)
    p.add_argument("--waiting", type=int, default=5_000)
    p.add_argument("--remembered", type=int, default=100_000, help="events that deduplication remembers")
    p.add_argument("--every", type=float, default=10.0, help="seconds between printed lines")
    p.add_argument("--disk-max-mb", type=int, default=300)
    p.add_argument("--record", type=pathlib.Path, help="a folder for soak.csv and soak.svg")
    p.add_argument("--short", action="store_true", help="30,000 events")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.events, options.every = 30_000, 2.0
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("soak", lambda: run(arguments), "none"))
