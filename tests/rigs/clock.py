#!/usr/bin/env python3
"""Step the wall clock by an hour, a day and a year, forward and back, while the daemon runs and between two runs.

Shows: no event is lost or stuck, and deliveries continue after each step; a delivery is retried no sooner than its backoff,
so there is no retry storm; no request is sent before a `Retry-After` has passed, also if the daemon is killed and the clock
stepped in either direction meanwhile; order is preserved, and an event is delivered twice only after a kill.

How: a preloaded library (shim.c) shifts CLOCK_REALTIME by an offset that the rig writes into a file; the clock of the
machine is not changed. Senders post all the time, and the destination answers some requests with 503 and some with 429.
Between runs the daemon is killed with deliveries waiting; before a step of a year they are delivered, since they would
expire.

Run: tests/rigs/clock.py [--short] [--rounds N] [--seed N] [--bin FILE]
Needs: Linux, Python 3.11, gcc, the release binary. Exit 0: held, or no gcc (which is said); 1: not.
"""
import argparse
import asyncio
import collections
import random
import shutil
import struct
import sys
import time

import books
import common

HOUR, DAY, YEAR = 3600, 86400, 365 * 86400
STEPS = (HOUR, -HOUR, DAY, -DAY, YEAR, -YEAR)
BACKOFF_S, RETRY_AFTER_S = 0.3, 2
# Deliveries that must succeed after a step, and the time limit for them.
PROGRESS, PROGRESS_LIMIT_S = 60, 20.0


class Receiver(books.Receiver):
    """Answers one in ten requests with 503, and occasionally one with 429."""

    def __init__(self, ledgers, rng):
        super().__init__(ledgers, rng)
        self.failed = collections.defaultdict(list)     # key -> (time, life) of each answer that causes a retry
        self.early = []
        self.ask_to_wait = False

    def receive(self, request):
        reply = super().receive(request)
        receipt, key = self.receipts[id(request)], request.headers["idempotency-key"]
        if self.failed[key]:
            at, life = self.failed[key][-1]
            if life == receipt.life and receipt.at - at < 0.9 * BACKOFF_S:
                self.early.append(f"{receipt.event_id} was tried again {receipt.at - at:.3f} s after a failure")
        return reply

    def draw(self):
        if self.ask_to_wait or (time.monotonic() > self.next_hold and self.rng.random() < 0.02):
            self.ask_to_wait, self.next_hold = False, time.monotonic() + 5
            return "429"
        return "503" if self.rng.random() < 0.1 else None

    def reply(self):
        fault = self.draw()
        if fault:
            self.ledgers.faults[fault] += 1
        headers = (f"Retry-After: {RETRY_AFTER_S}",) if fault == "429" else ()
        return common.Reply(int(fault or 200), headers)

    def settled(self, request, reply):
        if reply.status != 200:
            self.failed[request.headers["idempotency-key"]].append((time.monotonic(), self.ledgers.life))
        super().settled(request, reply)


class Rig:
    def __init__(self, options, binary, workdir, shim):
        self.options, self.rng = options, random.Random(options.seed)
        self.ledgers, self.faults = books.Ledgers(), []
        self.receiver = Receiver(self.ledgers, random.Random(self.rng.random()))
        self.destination = common.Destination(self.receiver.receive, self.receiver.settled)
        self.ports, self.clock = common.free_ports(3), workdir / "clock"
        self.steps = collections.Counter()
        self.started_at = 0             # the offset at the last start: the daemon's clock is based on it
        self.gate = asyncio.Event()
        self.posting = 0
        common.write_config(
            workdir / "holdline.toml", intake=self.ports[0], admin=self.ports[1], data=workdir / "data",
            intake_settings={"disk_reserve": '"16MiB"'},
            destination={"url": f'"http://127.0.0.1:{self.ports[2]}/events"', "concurrency": "{ max = 32, adaptive = false }",
                         "retry": f'{{ base = "{BACKOFF_S * 1000:.0f}ms", max = "{BACKOFF_S * 1000:.0f}ms", '
                                  'jitter = "none", attempts = 1000, max_age = "90d", retry_after_max = "3s" }',
                         "breaker": "{ min_calls = 1000000, permanent_answers = 1000000 }"})
        self.step_to(0)
        self.daemon = common.Daemon(binary, ["--config", workdir / "holdline.toml"], workdir / "data", self.ports[1],
                                    workdir / "daemon.log", {"LD_PRELOAD": str(shim), "SHIM_CLOCK": str(self.clock)})

    def step_to(self, offset_s):
        with open(self.clock, "r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("=q", offset_s * 1_000_000_000))

    async def send(self, story):
        sender = common.Sender(self.ports[0])
        while True:
            await self.gate.wait()
            self.posting += 1
            event_id, interaction, n, body = story.next()
            answer = await sender.post_until_accepted(body)
            self.ledgers.acknowledge(answer, event_id, interaction, n, body)
            self.posting -= 1
            await asyncio.sleep(story.rng.uniform(0.005, 0.03))

    async def progress(self, what):
        """Waits until enough deliveries have succeeded."""
        resolved = lambda: sum(r.resolved for r in self.ledgers.receipts)
        goal, end = resolved() + PROGRESS, time.monotonic() + PROGRESS_LIMIT_S
        while resolved() < goal:
            self.daemon.check_alive()
            if time.monotonic() > end:
                self.faults.append(f"{what}: only {PROGRESS + resolved() - goal} deliveries in {PROGRESS_LIMIT_S:.0f} s")
                return
            await asyncio.sleep(0.02)

    async def between_runs(self, offset_s):
        """Kills the daemon with deliveries waiting, and starts it at another time."""
        step_s = offset_s - self.started_at     # steps made during the run take effect now
        self.started_at = offset_s
        self.gate.clear()
        while self.posting:
            await asyncio.sleep(0.005)
        if step_s > 60 * DAY:
            await self.daemon.until_drained(30)
        else:
            self.receiver.ask_to_wait = True
            await asyncio.sleep(0.6)        # time to record it, then the wait spans the step
        await asyncio.to_thread(self.daemon.kill)
        self.ledgers.kills.append(time.monotonic())
        await self.destination.until_deserted()
        self.ledgers.life += 1
        self.step_to(offset_s)
        self.daemon.start()
        await self.daemon.until_ready()
        self.gate.set()

    async def run(self):
        await self.destination.listen(self.ports[2])
        self.daemon.start()
        senders = []
        try:
            await self.daemon.until_ready()
            senders = [asyncio.create_task(self.send(common.Story(str(i), random.Random(self.rng.random()), (100, 8 << 10))))
                       for i in range(8)]
            self.gate.set()
            await self.progress("before a step")
            offset = 0
            for _ in range(self.options.rounds):
                for step, running in self.rng.sample([(s, r) for s in STEPS for r in (True, False)], 2 * len(STEPS)):
                    offset += step
                    what = f"a step of {step} s " + ("while it runs" if running else "between two runs")
                    self.steps["running" if running else "between"] += 1
                    await (asyncio.to_thread(self.step_to, offset) if running else self.between_runs(offset))
                    await self.progress(what)
            self.gate.clear()
            while self.posting:
                await asyncio.sleep(0.005)
            return await self.daemon.until_drained(60)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)
            self.daemon.kill()
            await self.destination.close()

    def judge(self, status):
        faults = collections.defaultdict(list)
        faults["progress"], faults["storm"] = self.faults, self.receiver.early
        books.judge_contents(self.ledgers, faults)
        books.judge_order(self.ledgers, faults)
        bounds = argparse.Namespace(duplicates_max=8 * 32, forget_max=2.0)
        duplicated, _, _ = books.judge_duplicates(self.ledgers, faults, bounds)
        books.judge_sums(self.ledgers, status, faults)
        for at, life in self.ledgers.holds:
            unnoted = life < len(self.ledgers.kills) and self.ledgers.kills[life] < at + books.NOTICE_S
            early = [r for r in self.ledgers.receipts if at + books.NOTICE_S < r.at < at + RETRY_AFTER_S]
            if early and not unnoted:
                faults["early"].append(f"{early[0].event_id} came {early[0].at - at:.3f} s after a Retry-After of {RETRY_AFTER_S} s")
        return faults, duplicated


def run(options):
    binary, workdir = common.find_binary(options.bin), common.make_workdir(options.workdir, "clock")
    shim = common.build_shim(workdir)
    if shim is None:
        print("clock: SKIPPED: it needs gcc")
        common.print_result("clock", "", "skipped")
        return 0

    async def whole():
        rig = Rig(options, binary, workdir, shim)
        return rig, await rig.run()
    rig, status = asyncio.run(whole())
    faults, duplicated = rig.judge(status)
    for title, found in sorted(faults.items()):
        common.print_faults(title, found)
    verdict = "FAILED" if any(faults.values()) else "held"
    steps, ledgers = sum(rig.steps.values()), rig.ledgers
    common.print_row(**{
        "harness": "clock", "steps while running": rig.steps["running"], "between runs": rig.steps["between"],
        "seed": options.seed, "acknowledged": len(ledgers.accepted), "answers": dict(ledgers.faults),
        "lost": len(faults["lost"]), "duplicated": duplicated, "out of order": len(faults["order"]),
        "early": len(faults["early"]), "too soon": len(faults["storm"]), "verdict": verdict})
    if verdict != "held":
        print(f"kept for a look: {workdir}")
    common.print_result("clock", "clock stepped by an hour, a day, a year, both ways", verdict, n=steps, seed=options.seed,
                        acknowledged=len(ledgers.accepted), lost=len(faults["lost"]), duplicated=duplicated,
                        out_of_order=len(faults["order"]))
    if verdict == "held":
        shutil.rmtree(workdir)
        return 0
    return 1


def parse_arguments():
    p = argparse.ArgumentParser(description="step the wall clock under a running daemon (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--rounds", type=int, default=10, help="of twelve steps each")
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--short", action="store_true", help="one round")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.rounds = 1
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("clock", lambda: run(arguments), arguments.seed))
