#!/usr/bin/env python3
"""Back up a daemon under a steady load, restore each copy, and check that no acknowledged event is missing.

Events are posted at a steady rate, each for a destination that accepts it and for one without an address, so that rows are
written, rewritten and deleted all the time. Meanwhile `holdline backup` runs repeatedly. Each copy is restored into a folder
of its own and verified; a daemon on the copy must know every event acknowledged before that backup began, with the events of
the destination without an address waiting, and the counters of the copy must balance. The rig prints the latency of
acknowledgements during a backup and without one.

Run: tests/rigs/backup.py [--short] [--rate N] [--seconds N] [--backups N] [--seed N] [--bin FILE]
Needs: Linux, Python 3.11, the release binary.
Exit 0: nothing is missing; 1: something is.
"""
import argparse
import asyncio
import bisect
import json
import random
import shutil
import subprocess
import sys
import time

import common

SENDERS, PER_REQUEST = 8, 5
CONFIG = """
[intake]
listen = "127.0.0.1:{intake}"
disk_reserve = "1MiB"
[admin]
listen = "127.0.0.1:{admin}"
[store]
path = {data}
[[source]]
name = "default"
profile = "interaction"
split = ""
[[destination]]
name = "flows"
{flows}
[[destination]]
name = "held"
"""


def make_daemon(options, workdir, name, ports, sink=None):
    """A daemon on a folder; without a sink nothing is delivered, so that a copy does not change."""
    config, data = workdir / f"{name}.toml", workdir / name
    flows = f'url = "http://127.0.0.1:{sink}/flows"' if sink else ""
    config.write_text(CONFIG.format(intake=ports[0], admin=ports[1], data=json.dumps(str(data)), flows=flows))
    return common.Daemon(common.find_binary(options.bin), ["--config", config], data, ports[1], workdir / f"{name}.log")


class Load:
    """Posts at a steady rate, and records each acknowledgement with its time."""

    def __init__(self, port, rate, seed):
        self.port, self.rate, self.rng = port, rate, random.Random(seed)
        self.acknowledged = []  # (time, id)
        self.took = []  # (time, seconds)
        self.made, self.over = 0, False

    async def sender(self, n):
        connection = common.Sender(self.port)
        interval = PER_REQUEST * SENDERS / self.rate
        due = time.monotonic() + interval * n / SENDERS
        while not self.over:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += interval
            bodies = []
            for _ in range(PER_REQUEST):
                self.made += 1
                bodies.append(common.make_body(self.rng, f"e-{self.made}", f"call-{self.made % 500}", self.made, 1100))
            begin = time.monotonic()
            answer = await connection.post_until_accepted(b"[" + b",".join(bodies) + b"]")
            end = time.monotonic()
            self.took.append((end, end - begin))
            self.acknowledged += [(end, event) for event in answer["ids"]]
        connection.close()

    async def run(self):
        await asyncio.gather(*(self.sender(n) for n in range(SENDERS)))

    def before(self, moment):
        """Ids acknowledged before a time."""
        return [event for at, event in self.acknowledged if at < moment]


async def command(options, *arguments):
    process = await asyncio.create_subprocess_exec(
        str(common.find_binary(options.bin)), *map(str, arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await process.communicate()
    if process.returncode:
        raise common.RigError(f"holdline {arguments[0]} ended with {process.returncode}: {err.decode()[-300:]}")
    return out.decode()


async def back_up(options, workdir, daemon, ports, load):
    """Makes backups under load -> (began, ended, folder) of each."""
    made = []
    for n in range(options.backups):
        await asyncio.sleep(options.seconds / (options.backups + 1))
        folder, began = workdir / f"backup-{n}", time.monotonic()
        await command(options, "backup", folder, "--admin", f"http://127.0.0.1:{ports[1]}", "--token-file",
                      daemon.data / "admin.token")
        made.append((began, time.monotonic(), folder))
    await asyncio.sleep(options.seconds / (options.backups + 1))
    load.over = True
    return made


def judge_copy(options, workdir, n, backup, load):
    """Restores a backup and starts a daemon on it -> (faults, its events)."""
    began, _, folder = backup
    data = workdir / f"copy-{n}"
    begin = time.monotonic()
    said = subprocess.run([str(common.find_binary(options.bin)), "restore", str(folder), "--data", str(data)],
                          capture_output=True, text=True)
    if said.returncode:
        return [f"backup {n}: restore ended with {said.returncode}: {said.stdout[-300:]}{said.stderr[-300:]}"], 0, 0.0
    restored = time.monotonic() - begin
    verified = subprocess.run([str(common.find_binary(options.bin)), "verify", "--data", str(data)], capture_output=True,
                              text=True)
    faults = [] if verified.returncode == 0 else [f"backup {n}: verify: {verified.stdout[-300:]}"]
    daemon = make_daemon(options, workdir, f"copy-{n}", common.free_ports(2))
    daemon.start()
    try:
        daemon.wait_ready()
        states = {}
        for event in daemon.items("/v1/events"):
            states[event["id"]] = {d["destination"]: d["state"] for d in event["deliveries"]}
        wanted = load.before(began)
        missing = [event for event in wanted if event not in states]
        if missing:
            faults.append(f"backup {n}: {len(missing)} of {len(wanted)} acknowledged events are missing, {missing[0]} first")
        lost = [event for event in wanted if states.get(event, {}).get("held") not in ("queued", "blocked", None)]
        if lost:
            faults.append(f"backup {n}: {len(lost)} held events do not wait, {lost[0]} first")
        unknown = set(states) - {event for _, event in load.acknowledged}
        if unknown:
            faults.append(f"backup {n}: {len(unknown)} events that were never acknowledged, {min(unknown)} first")
        status = daemon.status()
        counters = status["counters"]
        ends = counters["delivered"] + counters["discarded"] + status["dlq"]["depth"] + status["queue"]["depth"]
        if ends != 2 * counters["accepted"]:
            faults.append(f"backup {n}: {counters['accepted']} events for two destinations have {ends} deliveries")
        return faults, len(wanted), restored
    finally:
        daemon.kill()
        shutil.rmtree(data)


def quantile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] * 1000 if values else 0.0


async def play(options, workdir, ports, daemon, seen):
    flows = common.Destination(lambda _: common.Reply(200), lambda *_: None)
    await flows.listen(ports[2])
    daemon.start()
    await daemon.until_ready()
    load = Load(ports[0], options.rate, options.seed)
    running = asyncio.create_task(load.run())
    seen["backups"] = await back_up(options, workdir, daemon, ports, load)
    await running
    seen["load"] = load
    seen["sizes"] = [(folder / "holdline.backup").stat().st_size for _, _, folder in seen["backups"]]
    daemon.kill()
    await flows.close()


def run(options):
    workdir, ports, seen = common.make_workdir(options.workdir, "backup"), common.free_ports(3), {}
    daemon = make_daemon(options, workdir, "data", ports, ports[2])
    faults, checked, restores = [], 0, []
    try:
        asyncio.run(play(options, workdir, ports, daemon, seen))
        load = seen["load"]
        for n, backup in enumerate(seen["backups"]):
            found, events, restored = judge_copy(options, workdir, n, backup, load)
            faults += found
            checked += events
            restores.append(restored)
    finally:
        daemon.kill()
        shutil.rmtree(workdir)
    begins = [began for began, _, _ in seen["backups"]]
    ends = [ended for _, ended, _ in seen["backups"]]

    def beside(moment):
        at = bisect.bisect_right(begins, moment) - 1
        return at >= 0 and moment <= ends[at]

    quiet = [took for at, took in load.took if not beside(at)]
    busy = [took for at, took in load.took if beside(at)]
    first, last = load.acknowledged[0][0], load.acknowledged[-1][0]
    reached = len(load.acknowledged) / max(last - first, 0.001)
    if reached < options.rate * 0.8:
        faults.append(f"only {reached:.0f} events/s of {options.rate} were acknowledged")
    common.print_faults("faults", faults)
    lasted = [ended - began for began, ended, _ in seen["backups"]]
    common.print_row(**{
        "harness": "backup", "seed": options.seed, "acknowledged": len(load.acknowledged), "per second": f"{reached:.0f}",
        "backups": len(lasted), "each took": " ".join(f"{s:.1f}" for s in lasted) + " s",
        "MB": " ".join(f"{size >> 20}" for size in seen["sizes"]), "restore": " ".join(f"{s:.1f}" for s in restores) + " s",
        "checked": checked, "ack p50 / p99 ms": f"{quantile(quiet, 0.5):.1f} / {quantile(quiet, 0.99):.1f}",
        "beside a backup": f"{quantile(busy, 0.5):.1f} / {quantile(busy, 0.99):.1f}", "verdict": "FAILED" if faults else "held"})
    common.print_result("backup", "none, copied while it runs", "FAILED" if faults else "held", n=len(lasted), seed=options.seed,
                        acknowledged=len(load.acknowledged))
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="back up under load, restore, compare (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--rate", type=float, default=2000, help="events a second")
    p.add_argument("--seconds", type=float, default=60, help="of load, besides that of the backups")
    p.add_argument("--backups", type=int, default=5)
    p.add_argument("--seed", type=int, default=3100)
    p.add_argument("--short", action="store_true", help="10 seconds at 500 events/s, 2 backups")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.rate, options.seconds, options.backups = 500, 10, 2
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("backup", lambda: run(arguments), arguments.seed))
