#!/usr/bin/env python3
"""Queue a million events, kill the daemon, and measure its start time and memory; then drain the queue and reuse the disk
space.

Shows: the start does not wait for the backlog, memory does not grow with it, and disk space of drained events is reused. The
daemon first runs without a destination address, so that it queues everything. It is killed with SIGKILL and started again:
the rig measures the time to the first 202 and the memory. Then it starts with that destination down and with another one
that gets events: their rate is compared with that of a daemon with an empty queue, measured in turn. Then it starts with a
destination and drains, and the rig measures the time until it delivers at its full rate; half as many events again are
posted, for which the data folder must not grow over the size of the backlog.

Run: tests/rigs/backlog.py [--short] [--events N] [--start-max S] [--memory-max-mb N] [--bin FILE] [--load-tool FILE]
Needs: Linux, Python 3.11, the release binary, the benchmark's binary (built if missing), 2 KB of disk an event.
Exit 0: within the limits; 1: not.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

import common

MB = 1 << 20
# Permitted growth of the data folder: a tenth, or the size of an empty store.
REUSE_SLACK, REUSE_SLACK_MB = 0.1, 32
# Memory is read until it is stable, since a start may continue to work after it is ready.
MEMORY_WATCH_S = 5.0


def make_daemon(binary, workdir, ports, to=None):
    arguments = ["--data", workdir / "data", "--intake", f"127.0.0.1:{ports[0]}", "--admin", f"127.0.0.1:{ports[1]}"]
    if to:
        arguments += ["--to", to]
    return common.Daemon(binary, arguments, workdir / "data", ports[1], workdir / "daemon.log")


def post(tool, port, events, source="default"):
    """Posts `events` events -> the report of the load tool."""
    done = subprocess.run([str(tool), "load", "--to", f"http://127.0.0.1:{port}/in/{source}", "--events", str(events)],
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise common.RigError(f"the load tool ended with {done.returncode}")
    return json.loads(done.stdout)


def first_acknowledgement(daemon, port):
    """Starts the daemon -> seconds until its first 202."""
    rng = random.Random()
    body = common.make_body(rng, f"first-{rng.getrandbits(64):x}", "call-first", 1, 1100)

    async def until_accepted():
        sender = common.Sender(port)
        await asyncio.wait_for(sender.post_until_accepted(body), 120)
        sender.close()

    begin = time.monotonic()
    daemon.start()
    asyncio.run(until_accepted())
    return time.monotonic() - begin


def drain(daemon, limit):
    """Waits for an empty queue -> seconds, and the queue length over time."""
    begin, depths = time.monotonic(), []
    while not depths or depths[-1][1]:
        depths.append((time.monotonic() - begin, daemon.status()["queue"]["depth"]))
        daemon.check_alive()
        if time.monotonic() - begin > limit:
            raise common.RigError(f"not drained after {limit} s")
        time.sleep(0.1)
    return time.monotonic() - begin, depths


def full_rate_after(depths):
    """Seconds until half a second reaches nine tenths of the median rate of the whole drain; None if the drain is too
    short."""
    at = lambda moment: next((depth for when, depth in depths if when >= moment), 0)
    end, step = depths[-1][0], 0.5
    rates = [(when, (at(when) - at(when + step)) / step) for when in (n * step for n in range(int(end / step)))]
    if len(rates) < 8:
        return None
    median = statistics.median(rate for _, rate in rates)
    return next(when + step for when, rate in rates if rate >= 0.9 * median)


def beside(binary, tool, workdir, ports, options):
    """Events per second to another destination: with an empty queue, and beside a destination that is down and has the
    backlog -> two lists, measured in turn."""
    alone, crowded = [], []
    full = shutil.copytree(workdir / "data", workdir / "full")     # its breaker must be closed for the drain
    for _ in range(options.rounds):
        for folder, rates in ((workdir / "empty", alone), (full, crowded)):
            common.write_config(
                workdir / "two.toml", intake=ports[0], admin=ports[1], data=folder,
                source={"to": '["default"]'}, destination=[{"name": '"default"', "url": f'"http://127.0.0.1:{ports[3]}/"'},
                             {"name": '"other"', "url": f'"http://127.0.0.1:{ports[2]}/events"', "concurrency": "{ max = 64 }"}])
            with open(workdir / "two.toml", "a") as config:
                config.write('[[source]]\nname = "other"\nprofile = "interaction"\nto = ["other"]\n')
            daemon = common.Daemon(binary, ["--config", workdir / "two.toml"], folder, ports[1], workdir / "daemon.log")
            try:
                daemon.start()
                daemon.wait_ready()
                until_idle(daemon)
                rates.append(rate_of_other(daemon, tool, ports[0], options))
            finally:
                daemon.kill()
            if folder != full:
                shutil.rmtree(folder)
    shutil.rmtree(full)
    return alone, crowded


def until_idle(daemon, limit=60.0):
    """Waits until the read-ahead has finished: until one second takes less than a tenth of one CPU."""
    def used():
        user, system = pathlib.Path(f"/proc/{daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    end, before = time.monotonic() + limit, used()
    while time.monotonic() < end:
        time.sleep(1.0)
        before, last = used(), before
        if before - last < 0.1:
            return
    raise common.RigError(f"it was not idle within {limit:.0f} s")


def rate_of_other(daemon, tool, port, options):
    begin, events = time.monotonic(), max(options.events // 10, 2_000)
    post(tool, port, events, "other")
    while next(d for d in daemon.status()["destinations"] if d["name"] == "other")["queue"]["depth"]:
        daemon.check_alive()
        if time.monotonic() - begin > options.drain_timeout:
            raise common.RigError("the other destination did not get its events")
        time.sleep(0.02)
    return events / (time.monotonic() - begin)


def fill_and_kill(binary, tool, workdir, ports, seen, options):
    daemon = make_daemon(binary, workdir, ports)
    daemon.start()
    try:
        daemon.wait_ready()
        seen["filled"] = post(tool, ports[0], options.events)
        seen["depth"] = daemon.status()["queue"]["depth"]
        seen["memory filling"] = daemon.memory_bytes("VmHWM")
    finally:
        daemon.kill()
    seen["disk full"] = common.disk_bytes(daemon.data)


def start_with_backlog(binary, workdir, ports, seen):
    daemon = make_daemon(binary, workdir, ports)
    try:
        seen["first 202"] = first_acknowledgement(daemon, ports[0])
        time.sleep(MEMORY_WATCH_S)
        daemon.check_alive()
        seen["memory start"], seen["memory resting"] = daemon.memory_bytes("VmHWM"), daemon.memory_bytes()
        seen["depth after kill"] = daemon.status()["queue"]["depth"]
    finally:
        daemon.kill()


def drain_and_reuse(binary, tool, workdir, ports, seen, options):
    daemon = make_daemon(binary, workdir, ports, f"http://127.0.0.1:{ports[2]}/events")
    try:
        daemon.start()
        daemon.wait_ready()
        seen["drained in"], depths = drain(daemon, options.drain_timeout)
        seen["full rate after"] = full_rate_after(depths)
        seen["disk drained"] = common.disk_bytes(daemon.data)
        post(tool, ports[0], options.events // 2)
        drain(daemon, options.drain_timeout)
        seen["disk reused"] = common.disk_bytes(daemon.data)
        seen["memory draining"] = daemon.memory_bytes("VmHWM")
        seen["status"] = daemon.status()
    finally:
        daemon.kill()


def judge(seen, options):
    faults = []
    if seen["depth"] != options.events:
        faults.append(f"{options.events} acknowledged, {seen['depth']} held")
    if seen["depth after kill"] != options.events + 1:
        faults.append(f"{options.events + 1} acknowledged, {seen['depth after kill']} held after the kill")
    if seen["first 202"] > options.start_max:
        faults.append(f"first 202 after {seen['first 202']:.2f} s, later than {options.start_max} s")
    for when in ("memory filling", "memory start", "memory draining"):
        if seen[when] > options.memory_max_mb * MB:
            faults.append(f"{when}: {seen[when] / MB:.0f} MB, more than {options.memory_max_mb}")
    if (share := statistics.median(seen["beside"]) / statistics.median(seen["alone"])) < options.share_min:
        faults.append(f"beside a destination that is down another gets {share:.0%} of what it gets alone")
    if seen["disk reused"] > seen["disk full"] + max(seen["disk full"] * REUSE_SLACK, REUSE_SLACK_MB * MB):
        faults.append(f"disk grew from {seen['disk full'] / MB:.0f} to {seen['disk reused'] / MB:.0f} MB")
    fault = common.sums_fault(seen["status"])
    return faults + ([fault] if fault else [])


def run(options):
    binary, tool = common.find_binary(options.bin), common.find_load_tool(options.load_tool)
    workdir, ports, seen = common.make_workdir(options.workdir, "backlog"), common.free_ports(4), {}
    try:
        fill_and_kill(binary, tool, workdir, ports, seen, options)
        print(f"filled at {seen['filled']['per_second']:.0f}/s", flush=True)
        start_with_backlog(binary, workdir, ports, seen)
        print(f"first 202 after {seen['first 202']:.2f} s", flush=True)
        sink = subprocess.Popen([str(tool), "sink", "--listen", f"127.0.0.1:{ports[2]}"], stdout=subprocess.DEVNULL)
        try:
            seen["alone"], seen["beside"] = beside(binary, tool, workdir, ports, options)
            drain_and_reuse(binary, tool, workdir, ports, seen, options)
        finally:
            sink.kill()
            sink.wait()
        print(f"drained in {seen['drained in']:.1f} s", flush=True)
    finally:
        shutil.rmtree(workdir)
    faults = judge(seen, options)
    common.print_faults("faults", faults)
    megabytes = [" / ".join(f"{seen[f'{what} {when}'] / MB:.0f}" for when in whens) for what, whens in
                 (("memory", ("filling", "start", "draining")), ("disk", ("full", "drained", "reused")))]
    common.print_row(**{
        "harness": "backlog", "events": options.events, "first 202 after kill": f"{seen['first 202']:.2f} s",
        "memory MB filling / start / draining": megabytes[0], "resting": round(seen["memory resting"] / MB), "disk MB full / drained / reused": megabytes[1],
        "bytes on disk an event": round(seen["disk full"] / options.events),
        "drained": f"{options.events / max(seen['drained in'], 0.001):.0f}/s",
        "full rate after": f"{seen['full rate after']:.1f} s" if seen["full rate after"] else "", "verdict": "FAILED" if faults else "held"})
    rates = lambda which: " ".join(f"{rate:.0f}" for rate in seen[which])
    common.print_row(**{"another destination, events/s": "", "with nothing waiting": rates("alone"),
                        "beside one that is down, with the backlog": rates("beside"),
                        "share": f"{statistics.median(seen['beside']) / statistics.median(seen['alone']):.0%}"})
    common.print_result("backlog", "SIGKILL with a backlog", "FAILED" if faults else "held", n=1, acknowledged=options.events)
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="hold a million events, kill, start, drain (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--load-tool", help="default: the benchmark's binary, built if it is not there")
    p.add_argument("--events", type=int, default=1_000_000)
    p.add_argument("--start-max", type=float, default=3.0, help="seconds to the first 202")
    p.add_argument("--memory-max-mb", type=int, default=300)
    p.add_argument("--drain-timeout", type=float, default=900.0)
    p.add_argument("--rounds", type=int, default=3, help="of the comparison beside a destination that is down")
    p.add_argument("--share-min", type=float, default=0.8, help="of its rate that another destination must keep")
    p.add_argument("--short", action="store_true", help="20,000 events")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.events = 20_000
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("backlog", lambda: run(arguments), "none"))
