#!/usr/bin/env python3
"""Let the daemon deliver to a destination that misbehaves in every way, and measure its descriptors and memory.

The destination resets, closes, breaks off in the middle of heads and bodies, sends single bytes slowly, stays silent, sends
huge heads and endless bodies, redirects, and sometimes succeeds. Shows: every outcome is counted under its name, and no
resource leaks. After half of the run the daemon has met every case many times; from then on neither descriptors nor memory
may grow. When the destination works again, every event is delivered.

Run: tests/rigs/hostile.py [--short] [--events N] [--seed N] [--bin FILE]
Needs: Linux, Python 3.11, the release binary.
Exit 0: no leak; 1: a leak or a fault.
"""
import argparse
import asyncio
import random
import shutil
import sys
import time

import common

MB = 1 << 20
CONCURRENCY = 32
TIMEOUT = 0.3
# Growth until caches are full; a leak of a connection's buffers over a run is many times that.
MEMORY_SLACK = 16 * MB


class Hostile:
    """A destination that misbehaves at random until it is told to behave."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.behaves = False
        self.requests = self.open = 0

    async def listen(self, port):
        return await asyncio.start_server(self.serve, "127.0.0.1", port, limit=common.READ_LIMIT, backlog=1024)

    async def serve(self, reader, writer):
        self.open += 1
        try:
            while True:
                await common.read_message(reader)
                self.requests += 1
                if not await self.answer(reader, writer):
                    return
        except common.CUTS:
            pass
        finally:
            self.open -= 1
            writer.transport.abort()

    async def until_deserted(self):
        while self.open:
            await asyncio.sleep(0.01)

    async def answer(self, reader, writer):
        """Answers one request -> whether the connection stays open."""
        way = "well" if self.behaves else self.rng.choice(WAYS)
        if way in WHOLE:
            writer.write(WHOLE[way])
            await writer.drain()
            return way in ("well", "busy")
        if way == "silence":
            await reader.read()
        elif way.startswith("dribble"):
            writer.write(b"HTTP/1.1 200 x\r\n" if way == "dribble head" else b"HTTP/1.1 503 x\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        return False


WHOLE = {
    "well": b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\nok",
    "busy": b"HTTP/1.1 503 x\r\nContent-Length: 4\r\n\r\nbusy",
    "half head": b"HTTP/1.1 200 x\r\nContent-Le",
    "half body": b"HTTP/1.1 503 x\r\nContent-Length: 1000\r\n\r\nhalf",
    "huge head": b"HTTP/1.1 200 x\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
    "huge body": b"HTTP/1.1 503 x\r\n\r\n" + b"x" * 2_000_000,
    "no http": b"220 mail.internal ESMTP\r\n",
    "redirect": b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
}
WAYS = [*WHOLE, "reset", "silence", "dribble head", "dribble body"]


async def post(ports, events, seed):
    sender, rng = common.Sender(ports[0]), random.Random(seed)
    for n in range(events):
        await sender.post_until_accepted(common.make_body(rng, str(n), f"call-{n}", 1, 500))
    sender.close()


async def watch(daemon, options):
    """Samples of (descriptors, memory) for `seconds`."""
    samples, end = [], time.monotonic() + options.seconds
    while time.monotonic() < end:
        daemon.check_alive()
        samples.append((daemon.open_files(), daemon.memory_bytes()))
        await asyncio.sleep(0.1)
    return samples


def judge(samples, seen, left, status, events):
    """(faults, the two halves of the samples)"""
    half = len(samples) // 2
    first, later = samples[:half], samples[half:]
    faults = []
    for name, at, slack in (("descriptors", 0, CONCURRENCY), ("memory", 1, MEMORY_SLACK)):
        before, after = max(s[at] for s in first), max(s[at] for s in later)
        if after > before + slack:
            faults.append(f"{name} grew from {before} to {after}")
    for outcome in ("answered", "timeout", "broken"):
        if not seen.get(outcome):
            faults.append(f"no attempt ended as `{outcome}`: {seen}")
    if left > CONCURRENCY:
        faults.append(f"{left} connections are open at the end")
    if status["counters"]["delivered"] + status["dlq"]["depth"] != events:
        faults.append(f"not every event has an end: {status['counters']}")
    fault = common.sums_fault(status)
    return faults + ([fault] if fault else []), first, later


async def run(options):
    binary, workdir = common.find_binary(options.bin), common.make_workdir(options.workdir, "hostile")
    ports = common.free_ports(3)
    retry = '{ base = "1ms", max = "20ms", attempts = 1000, statuses = [302, "5xx"] }'
    common.write_config(
        workdir / "holdline.toml", intake=ports[0], admin=ports[1], data=workdir / "data",
        destination={"url": f'"http://127.0.0.1:{ports[2]}/events"', "timeout": f'"{TIMEOUT * 1000:.0f}ms"',
                     "concurrency": f"{{ max = {CONCURRENCY}, adaptive = false }}", "retry": retry,
                     "breaker": "{ min_calls = 1000000, permanent_answers = 1000000 }"})
    daemon = common.Daemon(binary, ["--config", workdir / "holdline.toml"], workdir / "data", ports[1],
                           workdir / "daemon.log", env={"HOLDLINE_LOG": "warn"})
    hostile = Hostile(options.seed)
    server = await hostile.listen(ports[2])
    try:
        daemon.start()
        await daemon.until_ready()
        await post(ports, options.events, options.seed)
        samples = await watch(daemon, options)
        requests, seen = hostile.requests, daemon.attempts()
        hostile.behaves = True
        status = await daemon.until_drained(120)
        await asyncio.sleep(1)
        left = hostile.open
    finally:
        daemon.kill()
        server.close()
        await hostile.until_deserted()
        shutil.rmtree(workdir)
    faults, first, later = judge(samples, seen, left, status, options.events)
    common.print_faults("faults", faults)

    def both(at, unit):
        return " / ".join(f"{max(s[at] for s in half) / unit:.0f}" for half in (first, later))

    common.print_row(**{
        "harness": "hostile", "requests": requests, "seed": options.seed, "events": options.events,
        **{outcome: count for outcome, count in seen.items() if count},
        "descriptors max, first / second half": both(0, 1), "memory MB max, first / second half": both(1, MB),
        "connections left": left, "delivered": status["counters"]["delivered"],
        "verdict": "FAILED" if faults else "held"})
    common.print_result("hostile", "a destination that misbehaves", "FAILED" if faults else "held", n=requests,
                        seed=options.seed, acknowledged=options.events)
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="deliver to a destination that misbehaves (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--events", type=int, default=2_000)
    p.add_argument("--seconds", type=float, default=120.0, help="of misbehaviour")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--short", action="store_true", help="500 events, 15 seconds")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.events, options.seconds = 500, 15.0
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("hostile", lambda: asyncio.run(run(arguments)), arguments.seed))
