#!/usr/bin/env python3
"""Damage the files of a stopped store in one place at a time, and check how the daemon handles it.

One store is made by runs with deliveries, delays, dead letters and events blocked by them. Then a copy of it is repeatedly
damaged in one place (a flipped bit, a zeroed page, a truncation, garbage), mostly in sled's log, sometimes in any other
file, and a daemon is started on it. Either it starts and delivers, or it exits and says what to do; then `holdline verify
--salvage` makes a new folder, and a daemon is started on that. Shows: every delivered body was sent; every acknowledged
event is delivered, dead, or reported missing; no start hangs, loops or panics.

Run: tests/rigs/damage.py [--short] [--places N] [--seed N] [--bin FILE]
Needs: Linux, Python 3.11, the release binary.
Exit 0: it held; 1: a fault, a silent loss, or a hang.
"""
import argparse
import asyncio
import collections
import json
import random
import re
import shutil
import subprocess
import sys
import time

import common

SIZES = (200, 20_000)
PATIENCE = 30.0


class Receiver:
    """A destination that, while `picky`, accepts some events and refuses others permanently or temporarily."""

    def __init__(self, sent):
        self.sent = sent
        self.picky = True
        self.taken, self.wrong = set(), []
        self.destination = common.Destination(self.receive, self.settled)

    def receive(self, request):
        event_id = json.loads(request.body)["eventId"]
        if self.sent.get(event_id) != common.digest(request.body):
            self.wrong.append(event_id)
        dice = int(common.digest(event_id.encode())[:4], 16) % 10
        if not self.picky or dice < 5:
            return common.Reply(200)
        return common.Reply(400 if dice < 6 else 503)

    def settled(self, request, reply):
        if reply.status == 200:
            self.taken.add(json.loads(request.body)["eventId"])


class Bench:
    """The folders of the rig, and a daemon for any data folder in them."""

    def __init__(self, options):
        self.options = options
        self.binary, self.workdir = common.find_binary(options.bin), common.make_workdir(options.workdir, "damage")
        self.ports = common.free_ports(3)
        self.sent = {}
        self.receiver = Receiver(self.sent)

    def daemon(self, data, destination="default"):
        config, log = self.workdir / f"{data.name}.toml", self.workdir / f"{data.name}.log"
        log.unlink(missing_ok=True)
        common.write_config(
            config, intake=self.ports[0], admin=self.ports[1], data=data,
            destination={"name": f'"{destination}"', "url": f'"http://127.0.0.1:{self.ports[2]}/"', "concurrency": "{ max = 32 }",
                         "retry": '{ base = "20ms", max = "200ms", attempts = 1000 }',
                         "breaker": "{ min_calls = 1000000, permanent_answers = 1000000 }"})
        self.newest = common.Daemon(self.binary, ["--config", config], data, self.ports[1], log, env={"HOLDLINE_LOG": "warn"})
        return self.newest

    def end(self):
        """Kills any daemon that is still running."""
        if self.newest.process and self.newest.process.poll() is None:
            self.newest.kill()

    async def live(self, data):
        """Makes the store: a few runs, the last of which ends by a stop or by a kill."""
        rng = random.Random(self.options.seed)
        stories = [common.Story(f"s{n}", rng, SIZES, parallel=12, length=12) for n in range(4)]
        for life in range(3):
            daemon = self.daemon(data)
            daemon.start()
            await daemon.until_ready()
            await asyncio.gather(*(self.send(story) for story in stories))
            await asyncio.sleep(1)
            if life < 2 or rng.random() < 0.5:
                daemon.kill()
            elif daemon.stop() != 0:
                raise common.RigError("the daemon did not stop in order")
        await self.receiver.destination.until_deserted()

    async def send(self, story):
        sender = common.Sender(self.ports[0])
        for _ in range(self.options.events // 12):
            event_id, _, _, body = story.next()
            self.sent[event_id] = common.digest(body)
            await sender.post_until_accepted(body)
        sender.close()


def harm(rng, data):
    """Damages one place -> a description of the damage."""
    files = sorted(p for p in data.rglob("*") if p.is_file() and p.stat().st_size)
    log = data / "queue" / "db"
    file = log if rng.random() < 0.8 else rng.choice(files)
    content = bytearray(file.read_bytes())
    used = len(content.rstrip(b"\0")) or 1
    at, kind = rng.randrange(used), rng.choice(["flip", "zero", "cut", "garbage"])
    if kind == "flip":
        content[at] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        begin = at // 4096 * 4096
        content[begin:begin + 4096] = bytes(len(content[begin:begin + 4096]))
    elif kind == "cut":
        del content[at:]
    else:
        length = min(rng.randrange(1, 20_000), len(content) - at)
        content[at:at + length] = rng.randbytes(length)
    file.write_bytes(content)
    return f"{kind} at {at} of {used} in {file.name}"


async def start(daemon):
    """Starts the daemon and waits until it is ready or ends -> its exit code, None if it is ready."""
    daemon.start()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if daemon.process.poll() is not None:
            return daemon.process.returncode
        if await asyncio.to_thread(daemon.is_ready):
            return None
        await asyncio.sleep(0.01)
    daemon.kill()
    raise common.RigError(f"neither ready nor ended after {PATIENCE:.0f} s")


async def delivered(bench, daemon):
    """Waits until every delivery has ended -> (ids that are missing, number that the daemon reports as lost)"""
    end = time.monotonic() + PATIENCE
    while True:
        if daemon.process.poll() is not None:
            raise common.RigError(f"it started, and ended with {daemon.process.returncode}: {daemon.last_words()}")
        status = await asyncio.to_thread(daemon.status)
        if status["queue"]["depth"] == 0:
            break
        if time.monotonic() > end:
            raise common.RigError(f"{status['queue']['depth']} still wait after {PATIENCE:.0f} s")
        await asyncio.sleep(0.02)
    dead = await asyncio.to_thread(lambda: {item["sender_id"] for item in daemon.items("/v1/dlq")})
    # by destination: if the history of an event is lost, its destinations are unknown
    for books in status["destinations"]:
        c, waits = books["counters"], books["queue"]["depth"]
        if c["accepted"] != c["delivered"] + c["discarded"] + c["dead"] + waits:
            raise common.RigError(f"{books['name']}: accepted is not the sum: {c}, {waits} waiting")
    if daemon.stop() != 0:
        raise common.RigError(f"it did not stop in order: {daemon.last_words()}")
    told = status["counters"]["discarded"] + len(re.findall(r"ERROR", daemon.log.read_text()))
    return set(bench.sent) - bench.receiver.taken - dead, told


async def place(bench, source, seed, taken):
    """One damaged copy -> (the damage, the result)"""
    rng = random.Random(seed)
    hit, new = bench.workdir / "hit", bench.workdir / "new"
    for folder in (hit, new):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, hit)
    what = harm(rng, hit)
    bench.receiver.taken, bench.receiver.wrong = set(taken), []
    tried = bench.workdir / "tried"
    shutil.rmtree(tried, ignore_errors=True)
    shutil.copytree(hit, tried)
    daemon = bench.daemon(tried)
    code = await start(daemon)
    log = daemon.log.read_text()
    if "panicked" in log:
        raise common.RigError(f"{what}: a panic: {daemon.last_words()}")
    if code is None:
        missing, told = await delivered(bench, daemon)
        way = "started" if not missing else "started, told of loss"
    else:
        if code <= 0 or not re.search(r"--salvage|from a backup|install that version|is not|remove|set ", log):
            raise common.RigError(f"{what}: ended with {code} without advice: {daemon.last_words()}")
        missing, told, way = await salvage(bench, hit, new)
    if bench.receiver.wrong:
        raise common.RigError(f"{what}: a wrong body was delivered: {bench.receiver.wrong[:5]}")
    if len(missing) > told:
        raise common.RigError(f"{what}: {way}: {len(missing)} are missing, {told} told: {sorted(missing)[:5]}")
    return what, way, len(missing)


async def salvage(bench, hit, new):
    before = {p: p.read_bytes() for p in hit.rglob("*") if p.is_file()}
    run = await asyncio.to_thread(subprocess.run, [bench.binary, "verify", "--data", hit, "--salvage", new],
                                  capture_output=True, text=True, timeout=PATIENCE)
    if before != {p: p.read_bytes() for p in hit.rglob("*") if p.is_file()}:
        raise common.RigError("the salvage has written to the damaged folder")
    if not (new / "queue").exists():
        return set(), 0, "nothing to salvage: " + run.stderr.strip().splitlines()[-1][:100]
    numbers = re.search(r"([\d,]+) deliver\w+ that the counters know .* of ([\d,]+) event", run.stdout)
    unaccounted, unidentified = (int(n.replace(",", "")) for n in numbers.groups())
    # by name or by number: repeated events compensate others in the count
    named = re.search(r"^missing: ([\d,]+)$", run.stdout, re.M)
    told = max(unaccounted, int(named[1].replace(",", "")) if named else 0) + unidentified
    # if the name of the destination is lost, too, it is configured as the salvage suggests
    lost = re.search(r"configure them as `(.*?)`", run.stdout)
    daemon = bench.daemon(new, lost[1] if lost else "default")
    if (code := await start(daemon)) is not None:
        raise common.RigError(f"the salvaged folder does not start ({code}): {daemon.last_words()}")
    missing, _ = await delivered(bench, daemon)
    if run.returncode != (0 if told == 0 and "missing:" not in run.stdout else 1):
        raise common.RigError(f"the salvage ended with {run.returncode}: {run.stdout}{run.stderr}")
    return missing, told, "salvaged whole" if not missing else "salvaged in part"


async def run(options):
    bench = Bench(options)
    source = bench.workdir / "source"
    ways, lost, faults = collections.Counter(), 0, []
    await bench.receiver.destination.listen(bench.ports[2])
    try:
        await bench.live(source)
        bench.receiver.picky = False
        taken, n = set(bench.receiver.taken), 0
        end = time.monotonic() + options.seconds    # making the store has no time limit
        while n < options.places and time.monotonic() < end:
            n += 1
            try:
                what, way, missing = await place(bench, source, options.seed * 1_000_000 + n, taken)
                ways[way.split(":")[0]] += 1
                lost += missing
                if options.verbose:
                    print(f"{n}: {what}: {way}, {missing} missing", flush=True)
            except (common.RigError, subprocess.TimeoutExpired) as e:
                faults.append(f"place {n}: {e}")
                bench.end()
    finally:
        await bench.receiver.destination.close()
        if not faults:
            shutil.rmtree(bench.workdir)
    common.print_faults("faults", faults)
    common.print_row(**{"harness": "damage", "places": n, "seed": options.seed, "events": len(bench.sent), **ways,
                        "missing and told": lost, "verdict": "FAILED" if faults else "held"})
    common.print_result("damage", "bits, pages, cuts and garbage in a stopped store", "FAILED" if faults else "held", n=n,
                        seed=options.seed, acknowledged=len(bench.sent))
    return 1 if faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="damage a stopped store and start on it (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--places", type=int, default=3_000)
    p.add_argument("--events", type=int, default=1_200, help="in the store that is damaged")
    p.add_argument("--seconds", type=float, default=100_000.0, help="no new place after so many")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--short", action="store_true", help="as many places as 15 seconds have room for")
    p.add_argument("--verbose", action="store_true", help="a line for each place")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.seconds = 15.0
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("damage", lambda: asyncio.run(run(arguments)), arguments.seed))
