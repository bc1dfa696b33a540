#!/usr/bin/env python3
"""Run for long while everything goes wrong in turn, and watch what the daemon takes: a soak with faults.

Shows: over many minutes of faults nothing is lost, changed, disordered or sent early, what a death repeats is bounded, and
neither memory nor descriptors grow: over the last third of the run they are at most a fifth above the second. The disk stays
below its limit; the store's file is as large as it ever had to be, since its space is used again and not given back. What was
seen over time is written as a table (CSV) and as a picture (SVG) with --record; red lines are deaths of the daemon.

How: senders and the destination of killloop, with at most so many events waiting. The destination changes its mood each few
seconds: well (with some 503, 429 and `Retry-After`, 400, cuts), down (503 to all), silent (longer than the timeout), slow. The
disk changes with each life of the daemon: well, slow (each write takes longer), or failing (from one of its writes or syncs on
all of them; the daemon ends by itself then). A life ends by that, by SIGKILL or by SIGTERM. An operator pauses, opens the
breaker, closes intake, redrives, takes backups and reloads. The daemon never has more descriptors than 256.

Run: tests/rigs/longhaul.py [--short] [--minutes N] [--life S] [--seed N] [--record FOLDER] [--bin FILE]
Needs: Linux, Python 3.11, the release binary, prlimit; gcc for the disk, and says so without. Exit 0: held; 1: did not.
"""
import argparse
import asyncio
import collections
import http.client
import pathlib
import random
import shutil
import signal
import sys
import time

import books
import common
import samples

CONCURRENCY_MAX = 32
FILES = 256
# A rig that is kept from its work for longer than the timeout would be a silent destination without knowing it.
TIMEOUT_S, SILENT_S, SLOW_S = 5.0, 5.5, 0.2
SLOW_DISK_US = 3_000
# The calls that a failing disk fails, and from which of them on: some seconds' worth, or more than a life's.
FAILING_CALLS, FAILING_PER_S = ("pwrite64", "sync_file_range"), 400
MOODS = {"well": 6, "down": 2, "silent": 1, "slow": 2}
MOOD_S = (2.0, 8.0)
OPERATOR_RESTS_S = (1.0, 8.0)


class MoodyReceiver(books.Receiver):
    """The destination of the books, and what it does as a whole for some seconds."""

    def __init__(self, ledgers, rng):
        super().__init__(ledgers, rng)
        self.mood = "well"

    async def change(self):
        while True:
            self.mood = self.rng.choices(list(MOODS), MOODS.values())[0]
            self.ledgers.faults[f"seconds {self.mood}"] += (lasts := round(self.rng.uniform(*MOOD_S)))
            await asyncio.sleep(lasts)

    def receive(self, request):
        reply = super().receive(request)
        if self.mood == "silent":
            # it has the request and never answers, so whoever asks again does not ask at the same time
            self.in_progress.pop(self.receipts[id(request)].interaction)
        return reply

    def reply(self):
        match self.mood:
            case "down":
                return common.Reply(503)
            case "silent":
                return common.Reply(200, delay=SILENT_S, cut="before")
            case "slow":
                return common.Reply(200, delay=SLOW_S)
        return super().reply()


class Haul:
    """The daemon through its lives, its disk, and who watches it."""

    def __init__(self, options, binary, workdir):
        self.options, self.rng = options, random.Random(options.seed)
        self.workdir, self.ports = workdir, common.free_ports(3)
        self.shim = common.build_shim(workdir)
        self.write_config()
        self.daemon = common.Daemon(binary, ["--config", workdir / "holdline.toml"], workdir / "data", self.ports[1],
                                    workdir / "daemon.log")
        self.daemon.command = ["prlimit", f"--nofile={FILES}", *self.daemon.command]
        self.plain_env = self.daemon.env
        self.ledgers = books.Ledgers()
        self.receiver = MoodyReceiver(self.ledgers, random.Random(self.rng.random()))
        self.destination = common.Destination(self.receiver.receive, self.receiver.settled)
        self.hands = self.ledgers.hands = common.Hands(self.daemon, random.Random(self.rng.random()), workdir / "holdline.toml",
                                                       rests=OPERATOR_RESTS_S)
        self.watch, self.waiting = samples.Watch(self.daemon, options.every), 0
        self.deaths, self.marks, self.ending = collections.Counter(), [], False

    def write_config(self):
        intake, admin, receiver = self.ports
        common.write_config(
            self.workdir / "holdline.toml", intake=intake, admin=admin, data=self.workdir / "data",
            intake_settings={"disk_reserve": '"16MiB"'}, source={"dedup_window": '"60s"'},
            destination={"url": f'"http://127.0.0.1:{receiver}/events"', "timeout": f'"{TIMEOUT_S:g}s"',
                         "concurrency": f"{{ max = {CONCURRENCY_MAX}, ramp_up = \"1s\" }}",
                         "retry": '{ base = "20ms", factor = 2.0, max = "500ms", attempts = 1000 }',
                         "breaker": '{ min_calls = 20, window = "3s", open_duration = "500ms" }'})

    def start(self, disk):
        """One more life, on a disk that is well, slow or failing."""
        fault = {}
        if disk == "slow":
            fault = {"SHIM_FAULT": "DELAY", "SHIM_CALL": "pwrite64", "SHIM_DELAY_US": str(SLOW_DISK_US)}
        elif disk == "failing":
            fault = {"SHIM_FAULT": "EIO", "SHIM_CALL": self.rng.choice(FAILING_CALLS),
                     "SHIM_AT": str(self.rng.randint(200, round(FAILING_PER_S * self.options.life)))}
        if fault:
            fault |= {"LD_PRELOAD": str(self.shim), "SHIM_FOLDER": str(self.workdir / "data" / "queue" / "db"), "SHIM_FOREVER": "1"}
        self.daemon.env = {**self.plain_env, **fault}
        self.ledgers.faults[f"disk {disk}"] += 1
        self.daemon.start()
        self.ending = False

    def is_gone(self):
        return self.daemon.process is None or self.daemon.process.poll() is not None

    async def observe(self):
        """Samples each second while the daemon answers; a death between two questions is no fault."""
        while True:
            life, gone = self.ledgers.life, self.is_gone()
            try:
                await asyncio.to_thread(self.watch.take)
                self.waiting = self.watch.samples[-1]["depth"]
            except (OSError, http.client.HTTPException, common.RigError):
                ready = not gone and await asyncio.to_thread(self.daemon.is_ready)
                if ready and life == self.ledgers.life and not self.ending:
                    raise
            await asyncio.sleep(1.0)

    async def room(self):
        while self.waiting > self.options.waiting:
            await asyncio.sleep(0.05)

    async def end_life(self, how):
        """Waits until the daemon is gone by what ends it, and notes it. While it stops it answers to nobody."""
        self.ending = True
        if how == "SIGTERM" and not self.is_gone():
            self.daemon.signal(signal.SIGTERM)
            await asyncio.to_thread(self.daemon.process.wait, 60)
        elif how == "SIGKILL":
            await asyncio.to_thread(self.daemon.kill)
        self.ledgers.kills.append(time.monotonic())
        self.marks.append(time.monotonic() - self.watch.begin)
        self.deaths[how] += 1
        await self.destination.until_deserted()
        self.ledgers.life += 1

    async def live(self, disk):
        """One life: up to its time, or until it ends by itself, as only a failing disk makes it."""
        self.start(disk)
        end = time.monotonic() + self.options.life * self.rng.uniform(0.5, 1.5)
        while time.monotonic() < end and not self.is_gone():
            await asyncio.sleep(0.05)
        if not self.is_gone():
            return await self.end_life(self.rng.choice(("SIGKILL", "SIGKILL", "SIGTERM")))
        if disk != "failing" or self.daemon.process.returncode in (0, None):
            self.daemon.check_alive()
        await self.end_life("its own end")

    async def lives(self):
        disks, end = ("well", "slow", "failing") if self.shim else ("well",), time.monotonic() + 60 * self.options.minutes
        number = 0
        while time.monotonic() < end:
            await self.live(disks[number % len(disks)])
            number += 1
        self.start("well")
        await self.daemon.until_ready()

    async def run(self):
        await self.destination.listen(self.ports[2])
        stop, rng = asyncio.Event(), self.rng
        try:
            stories = [common.Story(str(i), random.Random(rng.random()), (100, 4 << 10)) for i in range(self.options.senders)]
            senders = [asyncio.create_task(books.send(self.ports[0], story, self.ledgers, stop, self.room)) for story in stories]
            others = [asyncio.create_task(each) for each in
                      (self.receiver.change(), self.hands.run(), self.ledgers.watch_lateness(), self.observe())]
            lives = asyncio.create_task(self.lives())
            await asyncio.wait([lives, *senders, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in [*senders, *others]:
                if task.done():
                    task.result()       # none of these ends by itself but by a fault
            await lives
            stop.set()
            for task in others:
                await self.hands.end(task)
            self.receiver.mood, self.receiver.mended, self.waiting = "well", True, 0
            await asyncio.gather(*senders)
            await self.hands.let_go()
            status = await self.daemon.until_drained(300)
            await asyncio.to_thread(self.watch.take, True)
            return status
        finally:
            self.daemon.kill()
            await self.destination.close()


def judge(haul, status, options):
    bounds = argparse.Namespace(duplicates_max=books.BEHIND_MAX + CONCURRENCY_MAX, forget_max=5.0)
    faults, duplicates = books.judge(haul.ledgers, status, bounds)
    whole = 60 * options.minutes
    if not options.short:
        faults["growth"] = haul.watch.growth(lambda s: s["seconds"] / whole, ("memory", "files"))
    if haul.watch.most("memory") > options.memory_max_mb * samples.MB:
        faults["memory"].append(f"{haul.watch.most('memory') / samples.MB:.0f} MB, more than {options.memory_max_mb}")
    if haul.watch.most("disk") > options.disk_max_mb * samples.MB:
        faults["disk"].append(f"{haul.watch.most('disk') / samples.MB:.0f} MB, more than {options.disk_max_mb}")
    return faults, duplicates


def report(haul, options, faults, duplicates):
    ledgers, watch, (count, most, _) = haul.ledgers, haul.watch, duplicates
    for title, found in sorted(faults.items()):
        common.print_faults(title, found)
    print("operator: " + ", ".join(f"{n} {act}" for act, n in haul.hands.done.items()))
    print("faults: " + ", ".join(f"{n} {fault}" for fault, n in sorted(ledgers.faults.items())) + f"; received {len(ledgers.receipts)}")
    verdict = "FAILED" if any(faults.values()) else "held"
    deaths = ", ".join(f"{n} by {how}" for how, n in sorted(haul.deaths.items()))
    median = lambda what, unit=1: f"{watch.median(what) / unit:.0f} / {watch.most(what) / unit:.0f}"
    common.print_row(**{
        "harness": "longhaul", "seconds": round(watch.samples[-1]["seconds"]), "ends of a life": deaths, "seed": options.seed,
        "acknowledged": len(ledgers.accepted), "lost": len(faults["lost"]), "duplicated": f"{count}, at most {most} for one end",
        "out of order": len(faults["order"]), "early": len(faults["early"]), "verdict": verdict})
    common.print_row(**{
        "median / most": "", "disk MB": median("disk", samples.MB), "memory MB": median("memory", samples.MB),
        "descriptors": median("files"), "ack p99 ms": f"{watch.median('p99_ms'):g} / {max(s['p99_ms'] or 0 for s in watch.samples):g}",
        "waiting": median("depth")})
    common.print_result("longhaul", f"moods of the destination and the disk, an operator; {deaths}", verdict, n=len(ledgers.kills),
                        seed=options.seed, acknowledged=len(ledgers.accepted), lost=len(faults["lost"]), duplicated=count,
                        out_of_order=len(faults["order"]))
    return verdict


def run(options):
    if not shutil.which("prlimit"):
        print("longhaul: SKIPPED: it needs prlimit")
        common.print_result("longhaul", "", "skipped", seed=options.seed)
        return 0
    binary, workdir = common.find_binary(options.bin), common.make_workdir(options.workdir, "longhaul")
    haul = Haul(options, binary, workdir)
    if not haul.shim:
        print("without gcc the disk is well all the time", flush=True)
    status = asyncio.run(haul.run())
    faults, duplicates = judge(haul, status, options)
    if options.record:
        haul.watch.record(options.record, "longhaul", haul.marks)
    if any(faults.values()):
        print(f"kept for a look: {workdir}")
    else:
        shutil.rmtree(workdir)
    return 1 if report(haul, options, faults, duplicates) == "FAILED" else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="run for long while everything goes wrong in turn (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--minutes", type=float, default=20.0)
    p.add_argument("--life", type=float, default=30.0, help="seconds that the daemon lives, on average")
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--senders", type=int, default=24)
    p.add_argument("--waiting", type=int, default=5_000, help="senders pause while more events wait")
    p.add_argument("--every", type=float, default=10.0, help="seconds between printed lines")
    p.add_argument("--memory-max-mb", type=int, default=400)
    p.add_argument("--disk-max-mb", type=int, default=200)
    p.add_argument("--record", type=pathlib.Path, help="a folder for longhaul.csv and longhaul.svg")
    p.add_argument("--short", action="store_true", help="20 seconds, lives of 4 s")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.minutes, options.life, options.every = 1 / 3, 4.0, 5.0
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("longhaul", lambda: run(arguments), arguments.seed))
