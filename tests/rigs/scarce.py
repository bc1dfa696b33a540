#!/usr/bin/env python3
"""Starve the daemon: of a quick disk, of file descriptors, of memory.

Shows: on a disk whose every write takes long the daemon answers late and truly, and keeps its books; killed while a write
hangs, it repeats no more deliveries than it may. Without descriptors
it turns away who it cannot serve, goes on by itself when there are some again, and stops in order. Without memory it goes
on or stops, and in either case what was acknowledged is delivered after the next start, in order. In all of it an answer
is 202, or 429 or 503 with `Retry-After`, or none.

How: the slow disk is a library before the C library (shim.c) that delays each write and sync of the store's file; the
limits are RLIMIT_NOFILE and RLIMIT_DATA, set by prlimit, the latter found by starting the daemon once without. Senders post
all the while; a part ends with a start without limits, which delivers everything.

Run: tests/rigs/scarce.py [--short] [--seconds N] [--seed N] [--only PART,PART] [--bin FILE]
Needs: Linux, Python 3.11, the release binary, gcc for the slow disk and prlimit for the others; says what it skips.
Exit 0: held; 1: not.
"""
import argparse
import asyncio
import collections
import random
import shutil
import sys
import time

import books
import common

MB = 1 << 20
DELAY_MS = 40
FILES = 80
CROWD = 300
# What the daemon may take beyond what it takes by itself, at least and at most; the seed decides.
MEMORY_MB = (1, 4)
LARGE = (256 << 10, 1000 << 10)
CONCURRENCY_MAX = 16
BACKLOG = 4000
STALL_MS = 2000
PARTS = ("slow", "stalled", "files", "memory")
NEEDS = {"slow": ("gcc",), "stalled": ("gcc",), "files": ("prlimit",), "memory": ("prlimit",)}


class Part:
    """A daemon that lacks something, its senders and its destination."""

    def __init__(self, name, options, binary, workdir):
        self.name, self.options, self.binary = name, options, binary
        self.rng = random.Random(f"{options.seed} {name}")
        self.folder = workdir / name
        self.folder.mkdir()
        self.ports, self.ledgers = common.free_ports(3), books.Ledgers()
        self.receiver = books.Receiver(self.ledgers, random.Random(self.rng.random()))
        self.receiver.draw = lambda: "slow" if self.rng.random() < 0.1 else None
        self.destination = common.Destination(self.receiver.receive, self.receiver.settled)
        self.answers, self.faults, self.latencies = collections.Counter(), [], []
        self.pending, self.senders = {}, []
        common.write_config(
            self.folder / "holdline.toml", intake=self.ports[0], admin=self.ports[1], data=self.folder / "data",
            intake_settings={"disk_reserve": '"16MiB"'},
            destination={"url": f'"http://127.0.0.1:{self.ports[2]}/events"', "concurrency": f"{{ max = {CONCURRENCY_MAX} }}",
                         "retry": '{ base = "20ms", max = "500ms", attempts = 1000 }',
                         "breaker": "{ min_calls = 1000000 }"})

    def make_daemon(self, prefix=(), env=None):
        daemon = common.Daemon(self.binary, ["--config", self.folder / "holdline.toml"], self.folder / "data",
                               self.ports[1], self.folder / "daemon.log", env)
        daemon.command = [*prefix, *daemon.command]
        return daemon

    async def send(self, number, sizes, end):
        """One sender: the next event only after the one before was acknowledged; what was not stays pending."""
        story, sender = common.Story(str(number), random.Random(self.rng.random()), sizes), common.Sender(self.ports[0])
        while time.monotonic() < end:
            event = self.pending.get(number) or story.next()
            self.pending[number] = event
            await self.post(sender, number, event)
        sender.close()

    async def post(self, sender, number, event):
        event_id, interaction, n, body = event
        began = time.monotonic()
        try:
            answer = await asyncio.wait_for(sender.post(body), 30)
        except (*common.CUTS, TimeoutError):
            self.answers["none"] += 1
            await asyncio.sleep(0.05)
            return
        self.answers[answer.status] += 1
        if answer.status == 202:
            self.latencies.append(time.monotonic() - began)
            self.ledgers.acknowledge(common.json.loads(answer.body), event_id, interaction, n, body)
            del self.pending[number]
        elif answer.status in (408, 429, 503):
            if answer.status != 408 and int(answer.headers.get("retry-after", 0)) < 1:
                self.faults.append(f"{answer.status} without Retry-After")
            await asyncio.sleep(0.05)
        else:
            self.faults.append(f"answered {answer.status}: {answer.body[:80]!r}")

    async def run(self, daemon, senders, sizes):
        """Senders at work on the starved daemon, then a start in plenty -> the status at the end."""
        await self.destination.listen(self.ports[2])
        end = time.monotonic() + self.options.seconds
        try:
            daemon.start()
            while not await asyncio.to_thread(daemon.is_ready) and daemon.process.poll() is None:
                await asyncio.sleep(0.02)
            await asyncio.gather(*(self.send(number, sizes, end) for number in range(senders)))
            await self.judge_alive(daemon)
            await self.kill(daemon)
            daemon = self.make_daemon()
            daemon.start()
            await daemon.until_ready()
            for number, event in list(self.pending.items()):
                while number in self.pending:
                    await self.post(common.Sender(self.ports[0]), number, event)
            status = await daemon.until_drained(120)
            if code := await asyncio.to_thread(daemon.stop):
                self.faults.append(f"it ended with {code} when told to stop, in plenty")
            return status
        finally:
            daemon.kill()
            await self.destination.close()

    async def judge_alive(self, daemon):
        """After the load it answers and takes events, or it has stopped and said why."""
        code = daemon.process.poll()
        if code is not None:
            self.answers[f"ended with {code}"] += 1
            words = daemon.last_words()
            if self.name != "memory" or code == 0 or "memory" not in words and "error" not in words.lower():
                self.faults.append(f"it ended with {code}: {words}")
            return
        number, end = max(self.pending, default=0), time.monotonic() + 20
        event = self.pending.get(number) or common.Story("last", self.rng, (100, 200)).next()
        self.pending[number], before = event, len(self.ledgers.accepted)
        while len(self.ledgers.accepted) == before and time.monotonic() < end:
            await self.post(common.Sender(self.ports[0]), number, event)
        if len(self.ledgers.accepted) == before:
            self.faults.append("it took no event after the load was over")
        if not await asyncio.to_thread(daemon.is_ready):
            self.faults.append("it was not ready after the load")

    async def whole(self):
        faults = collections.defaultdict(list)
        status = await getattr(self, self.name)()
        faults["answers"] = self.faults
        books.judge_contents(self.ledgers, faults)
        books.judge_order(self.ledgers, faults)
        bounds = argparse.Namespace(duplicates_max=books.BEHIND_MAX + CONCURRENCY_MAX, forget_max=10.0)
        duplicated, _, _ = books.judge_duplicates(self.ledgers, faults, bounds)
        books.judge_sums(self.ledgers, status, faults)
        return faults, duplicated

    def make_slow_daemon(self, delay_ms):
        env = {"LD_PRELOAD": str(common.build_shim(self.folder)), "SHIM_FOLDER": str(self.folder / "data" / "queue" / "db"),
               "SHIM_FAULT": "DELAY", "SHIM_DELAY_US": str(delay_ms * 1000), "SHIM_CALL": "pwrite64", "SHIM_FOREVER": "1"}
        return self.make_daemon(env=env)

    async def slow(self):
        return await self.run(self.make_slow_daemon(DELAY_MS), 32, (100, 8 << 10))

    async def stalled(self):
        """A backlog is delivered on a disk that hangs in each write, and the daemon is killed in one -> the status at the end."""
        self.receiver.draw = lambda: None
        await self.destination.listen(self.ports[2])
        daemon = self.make_daemon()
        try:
            daemon.start()
            await daemon.until_ready()
            await self.order(daemon, "pause")
            await asyncio.gather(*(self.fill(number) for number in range(64)))
            await asyncio.to_thread(daemon.kill)
            daemon = self.make_slow_daemon(STALL_MS)
            daemon.start()
            await daemon.until_ready(180)
            await self.order(daemon, "resume")
            # until nothing more comes for want of a commit, or long enough into the next one
            await asyncio.sleep(STALL_MS / 1000 * 1.7)
            await self.kill(daemon)
            daemon = self.make_daemon()
            daemon.start()
            await daemon.until_ready()
            return await daemon.until_drained(120)
        finally:
            daemon.kill()
            await self.destination.close()

    async def order(self, daemon, what):
        status, body = await asyncio.to_thread(daemon.ask, f"/v1/destinations/default/{what}", 60, {"reason": "rig"})
        if status != 200:
            raise common.RigError(f"{what} was answered {status}: {body[:200]!r}")

    async def fill(self, number):
        story, sender = common.Story(str(number), random.Random(self.rng.random()), (100, 1 << 10)), common.Sender(self.ports[0])
        for _ in range(BACKLOG // 64):
            self.pending[number] = story.next()
            await self.post(sender, number, self.pending[number])
        sender.close()

    async def kill(self, daemon):
        await asyncio.to_thread(daemon.kill)
        self.ledgers.kills.append(time.monotonic())
        await self.destination.until_deserted()
        self.ledgers.life += 1

    async def files(self):
        return await self.run(self.make_daemon(["prlimit", f"--nofile={FILES}"]), CROWD, (100, 8 << 10))

    async def memory(self):
        daemon = self.make_daemon()
        daemon.start()
        try:
            await daemon.until_ready()
            limit = daemon.memory_bytes("VmData") + self.rng.randint(*MEMORY_MB) * MB
        finally:
            daemon.kill()
        return await self.run(self.make_daemon(["prlimit", f"--data={limit}"]), 64, LARGE)


def run(options):
    binary, workdir = common.find_binary(options.bin), common.make_workdir(options.workdir, "scarce")
    totals, failed = collections.Counter(), False
    for name in options.only or PARTS:
        if missing := [p for p in NEEDS[name] if not shutil.which(p)]:
            print(f"scarce, {name}: SKIPPED: it needs {', '.join(missing)}", flush=True)
            continue

        async def whole():
            part = Part(name, options, binary, workdir)
            return part, *await part.whole()
        part, faults, duplicated = asyncio.run(whole())
        for title, found in sorted(faults.items()):
            common.print_faults(f"{name}, {title}", found)
        bad = any(faults.values())
        failed |= bad
        times = sorted(part.latencies) or [0.0]
        common.print_row(**{
            "harness": "scarce", "lacking": name, "seed": options.seed, "acknowledged": len(part.ledgers.accepted),
            "answers": ", ".join(f"{n} {what}" for what, n in part.answers.items()), "lost": len(faults["lost"]),
            "duplicated": duplicated, "out of order": len(faults["order"]),
            "p50 / p99 ms": f"{times[len(times) // 2] * 1000:.0f} / {times[int(len(times) * 0.99)] * 1000:.0f}",
            "verdict": "FAILED" if bad else "held"})
        totals.update(n=1, acknowledged=len(part.ledgers.accepted), lost=len(faults["lost"]), duplicated=duplicated,
                      out_of_order=len(faults["order"]))
    if failed:
        print(f"kept for a look: {workdir}")
    common.print_result("scarce", "a slow disk, no descriptors, no memory", "FAILED" if failed else "held" if totals else "skipped",
                        seed=options.seed, **totals)
    if failed:
        return 1
    shutil.rmtree(workdir)
    return 0


def parse_arguments():
    p = argparse.ArgumentParser(description="starve the daemon of disk, descriptors, memory (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--seconds", type=float, default=60.0, help="of each part")
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--only", type=lambda text: text.split(","), help=f"of {', '.join(PARTS)}")
    p.add_argument("--short", action="store_true", help="6 seconds of each")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.seconds = 6.0
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("scarce", lambda: run(arguments), arguments.seed))
