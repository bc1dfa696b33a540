#!/usr/bin/env python3
"""Push millions of events through the daemon while a few thousand wait, and watch disk, memory and descriptors.

Shows: what the daemon takes does not grow with what has passed through it. The queue stays near 5,000 events; the
deduplication window is chosen so that about 100,000 events are remembered. After the first third of the run, disk must
stay under its limit, and memory and descriptors must not have grown by more than a fifth over what they were in the second.
Where all of them are remembered (--remembered beyond --events), memory may grow by what each takes that is remembered.
What was seen over time is written as a table (CSV) and as a picture (SVG) with --record.

Run: tests/rigs/soak.py [--short] [--events N] [--remembered N] [--disk-max-mb N] [--record FOLDER] [--bin FILE]
                        [--load-tool FILE]
Needs: Linux, Python 3.11, the release binary, and the benchmark's binary, which posts and receives (built if missing).
Exit 0: stayed within the limits; 1: did not.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import threading
import time

import common
import samples

# Pushed through a daemon of its own first, to learn the rate of this machine and choose the deduplication window.
PROBE_EVENTS = 5_000
# Bytes of memory that an event may take which is remembered.
REMEMBERED_BYTES = 70


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


def watch(daemon, flow, options):
    """Samples until the flow is over, each second."""
    watched = samples.Watch(daemon, options.every)
    while not flow.is_over():
        daemon.check_alive()
        watched.take()
        time.sleep(min(1.0, options.every / 4))
    flow.check()
    watched.take(last=True)
    return watched


def until_drained(daemon, limit=60.0):
    end = time.monotonic() + limit
    while daemon.status()["queue"]["depth"] and time.monotonic() < end:
        time.sleep(0.1)
    return daemon.status()


def judge(watched, status, options):
    """(faults, the disk sizes after the first third)"""
    later = [s for s in watched.samples if s["accepted"] >= options.events / 3] or watched.samples
    disk = [s["disk"] / samples.MB for s in later]
    all_remembered = options.remembered >= options.events
    grown = watched.growth(lambda s: s["accepted"] / options.events, ("files",) if all_remembered else ("memory", "files"))
    if all_remembered:
        taken = (later[-1]["memory"] - later[0]["memory"]) / max(1, later[-1]["accepted"] - later[0]["accepted"])
        grown += [f"memory grew by {taken:.0f} bytes an event, more than {REMEMBERED_BYTES}"] if taken > REMEMBERED_BYTES else []
    faults = [] if options.short else grown
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
        watched = watch(daemon, flow, options)
        status = until_drained(daemon)
    finally:
        if flow:
            flow.stop()
        if daemon:
            daemon.kill()
        shutil.rmtree(workdir)
    faults, disk = judge(watched, status, options)
    if options.record:
        watched.record(options.record, "soak")
    common.print_faults("faults", faults)
    common.print_row(**{
        "harness": "soak", "events": status["counters"]["accepted"], "waiting": options.waiting,
        "events/s": round(options.events / watched.samples[-1]["seconds"]),
        "disk MB min / median / max": " / ".join(f"{f(disk):.0f}" for f in (min, statistics.median, max)),
        "memory MB max": round(watched.most("memory") / samples.MB),
        "descriptors max": watched.most("files"), "verdict": "FAILED" if faults else "held"})
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
