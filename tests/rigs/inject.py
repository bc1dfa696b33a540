#!/usr/bin/env python3
"""Make every single call by which the daemon reads and writes its data fail or kill it: the N-th, for each N.

Shows: after a failed write or sync the daemon never answers 202 again and ends with a message; killed before any of these
calls, or in the middle of a write, it loses nothing that was acknowledged; changes that it confirmed to the operator (a
pause, a redrive) are in effect after the next start; duplicates are recognised; order is preserved; `holdline verify` finds
no fault in the store.

How: a fixed script (start, accept, deliver, dead letter, pause, redrive, backup, resume, stop) and a second one (start after
a kill with a backlog, accept, deliver, stop) are run once undisturbed, to count the calls of each kind below the data
folder. Then they are run once for each call and each fault, and the daemon is restarted undisturbed: the sender repeats all
events, everything is delivered, and the records are checked. There are two ways of injection:
- `shim`: a preloaded library (shim.c). It counts over all threads, so "every N" is every call. It can also
  tear a write (it does half of the write and kills the process), and make each 4096 bytes of the store's file unreadable.
- `strace`: `strace -f -e inject=CALL:error=...:when=N`, which sees system calls and needs no library. It counts per
  thread, so it injects into the first thread that reaches its N-th call; N rises until no call is hit.
The undisturbed run is made with both, and their counts must be equal: no call bypasses the shim.

Run: tests/rigs/inject.py [--short] [--seed N] [--bin FILE] [--workdir DIR] [--only LIFE:CALL:FAULT:N] [--jobs N]
--workdir on tmpfs (/dev/shm) tests the other way to make commits durable, with fdatasync.
Needs: Linux, Python 3.11, the release binary, gcc; strace for its part, and says so without. Exit 0: held; 1: not.
"""
import argparse
import asyncio
import collections
import dataclasses
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import common

LIVES = ("first", "recovery")
WRITES = ("pwrite64", "write")
SYNCS = ("sync_file_range", "fsync", "fdatasync")
READS = ("pread64", "read")
OTHERS = ("rename", "unlink", "ftruncate64", "mkdir", "open64")
# After a failure of one of these on sled's file nothing may be acknowledged. fsync is not included: sled calls it by a timer
# and ignores the result; no acknowledgement waits for it, and on a disk that fails it the awaited calls fail as well.
FATAL = ("pwrite64", "sync_file_range", "fdatasync")
PAGE = 4096
SHORT_TRIALS, SHORT_STRACE = 36, 6
STRACE_MISSES = 2
START_LIMIT_S, END_LIMIT_S, DRAIN_LIMIT_S = 20, 20, 30


@dataclasses.dataclass(frozen=True, slots=True)
class Injection:
    way: str        # shim, strace
    life: str       # the name of the script
    call: str
    fault: str      # EIO, ENOSPC, KILL, TORN, BAD (at is then the page that cannot be read); COUNT only counts
    at: int

    def __str__(self):
        return f"{self.life}:{self.call}:{self.fault}:{self.at}" + (" by strace" if self.way == "strace" else "")


def faults_of(call):
    if call in WRITES:
        return ("EIO", "ENOSPC", "KILL", "TORN")
    if call == "pread64":
        # only after the start: data that sled reads at the start has been read before, so it comes from memory; see BAD
        return ("EIO",)
    if call == "read":
        return ("EIO",)
    if call in SYNCS:
        return ("EIO", "KILL")
    return ("EIO", "ENOSPC", "KILL") if call in ("open64", "mkdir") else ("EIO", "KILL")


# ---- what is sent and what arrives -----------------------------------------------------------------------------

@dataclasses.dataclass(slots=True)
class Event:
    id: str
    interaction: str
    n: int
    body: bytes
    key: str | None = None      # holdline's id, once acknowledged
    poison: bool = False        # answered 400 at first: a dead letter
    flaky: bool = False         # answered 503 at first


@dataclasses.dataclass(slots=True)
class Receipt:
    life: int
    key: str
    event_id: str
    digest: str
    redriven: bool
    status: int


class Ledger:
    """Events and receipts of one injection, over both runs."""

    def __init__(self, rng):
        self.rng, self.life = rng, 0
        self.events, self.receipts, self.faults = {}, [], []
        self.counters = collections.Counter()

    def make(self, interaction, size=300, **kind):
        self.counters[interaction] += 1
        n = self.counters[interaction]
        event_id = f"{interaction}-{n}"
        event = Event(event_id, interaction, n, common.make_body(self.rng, event_id, interaction, n, size), **kind)
        self.events[event_id] = event
        return event

    def receive(self, request):
        data = json.loads(request.body)["data"]
        event, headers = self.events[data["id"]], request.headers
        first = headers.get("holdline-attempt") == "1"
        status = 400 if event.poison and first else 503 if event.flaky and first else 200
        self.receipts.append(Receipt(self.life, headers.get("idempotency-key"), event.id, common.digest(request.body),
                                     "holdline-redriven" in headers, status))
        return common.Reply(status)

    def copy(self):
        twin = Ledger(random.Random(0))
        twin.events = {e.id: dataclasses.replace(e) for e in self.events.values()}
        twin.receipts, twin.counters = list(self.receipts), collections.Counter(self.counters)
        twin.life = self.life + 1
        return twin


# ---- one daemon in one injection run ---------------------------------------------------------------------------

class Gone(Exception):
    """The daemon does not answer any more; the script ends."""


class Life:
    """A daemon on the folder of the injection run, the requests to it, and its answers."""

    def __init__(self, trial, injection):
        self.trial, self.ledger, self.injection = trial, trial.ledger, injection
        self.log, self.hits = trial.folder / f"daemon-{trial.ledger.life}.log", trial.folder / "hits"
        self.accepted_at = []       # wall clock: when a post began that was answered 202
        self.paused = self.redriven = None
        env = {}
        trial.lives.append(self)
        if injection and injection.way == "shim":
            env = {"LD_PRELOAD": str(trial.shim), "SHIM_FOLDER": str(trial.data), "SHIM_FAULT": injection.fault,
                   "SHIM_AT": str(injection.at), "SHIM_LOG": str(self.hits)}
            if injection.call != "all" and injection.fault != "BAD":
                env["SHIM_CALL"] = injection.call
            if injection.call == "pread64" and injection.fault == "EIO":
                env["SHIM_WAIT"] = str(trial.folder / "ready")
        self.daemon = common.Daemon(trial.binary, ["--config", trial.config], trial.data, trial.ports[1], self.log, env)
        if injection and injection.way == "strace":
            self.daemon.command = [*self.strace(), *self.daemon.command]

    def strace(self):
        i = self.injection
        name = {"ftruncate64": "ftruncate", "open64": "open,openat"}.get(i.call, i.call)
        base = ["strace", "-DD", "-f", "-ttt", "-y", "-o", str(self.hits)]
        if i.fault == "COUNT":
            calls = "pwrite64,write,sync_file_range,fsync,fdatasync,rename,unlink,ftruncate,pread64,read,mkdir"
            return [*base, "-e", f"trace={calls}"]
        what = "signal=SIGKILL" if i.fault == "KILL" else f"error={i.fault}"
        paths = ["-P", str(self.trial.data / "queue" / "db")] if i.call in FATAL else []
        return [*base, *paths, "-e", f"trace={name}", "-e", f"inject={name}:{what}:when={i.at}"]

    def first_hit(self):
        """(time of the first injection, its path), or None."""
        if not self.hits.exists():
            return None
        for line in self.hits.read_text(errors="replace").splitlines():
            if self.injection.way == "shim":
                _, _, at, path = line.split(" ", 3)
                return float(at), path
            # a process killed by strace dies in the call: its line has no result
            if "INJECTED" in line or (self.injection.fault == "KILL" and "killed by SIGKILL" in line):
                found = re.search(r"<(/[^>]+)>|\"([^\"]+)\"", line)
                return float(line.split()[1]), (found.group(1) or found.group(2)) if found else str(self.trial.data)
        return None

    def is_dead(self):
        return self.daemon.process.poll() is not None

    async def start(self):
        self.daemon.start()
        end = time.monotonic() + START_LIMIT_S
        while not await asyncio.to_thread(self.daemon.is_ready):
            if self.is_dead():
                raise Gone
            if time.monotonic() > end:
                raise common.RigError(f"neither ready nor ended after {START_LIMIT_S} s: {self.daemon.last_words()}")
            await asyncio.sleep(0.01)
        (self.trial.folder / "ready").touch()

    async def post(self, event):
        """Sends an event; `Gone` without an answer."""
        sender, began = common.Sender(self.trial.ports[0]), time.time()
        try:
            answer = await asyncio.wait_for(sender.post(event.body), END_LIMIT_S)
        except TimeoutError as e:
            raise common.RigError(f"no answer to a post in {END_LIMIT_S} s") from e
        except common.CUTS as e:
            raise Gone from e
        finally:
            sender.close()
        if answer.status == 202:
            self.accepted_at.append(began)
            told = json.loads(answer.body)
            if event.key and (told["status"], told["id"]) != ("duplicate", event.key):
                self.ledger.faults.append(f"{event.id} was {event.key}, and a copy was answered {told}")
            event.key = told["id"]
        elif answer.status != 503:
            self.ledger.faults.append(f"{event.id} was answered {answer.status}: {answer.body[:100]!r}")

    async def ask(self, path, wish=None):
        """(status, body) of the admin API."""
        try:
            return await asyncio.to_thread(self.daemon.ask, path, END_LIMIT_S, wish)
        except (OSError, common.http.client.HTTPException) as e:
            raise Gone from e

    async def until(self, holds, limit=5.0):
        """Waits for a condition of the status -> the last status."""
        end = time.monotonic() + limit
        while True:
            code, body = await self.ask("/v1/status")
            if code == 200:
                status = json.loads(body)
                if holds(status) or time.monotonic() > end:
                    return status
            await asyncio.sleep(0.02)

    async def end(self):
        """SIGTERM if it still runs -> its exit code; None if it does not end."""
        if not self.is_dead():
            self.daemon.signal(signal.SIGTERM)
        end = time.monotonic() + END_LIMIT_S
        while not self.is_dead() and time.monotonic() < end:
            await asyncio.sleep(0.01)
        code = self.daemon.process.poll()
        self.daemon.kill()
        return code


def drained(status):
    return status["queue"]["depth"] == 0


async def first_script(life, ledger):
    """The normal operations of a daemon."""
    await life.start()
    for number in range(6):
        await life.post(ledger.make(f"a{number % 2}", 40_000 if number == 3 else 300, poison=number == 2, flaky=number == 4))
    await asyncio.gather(*(life.post(ledger.make(f"b{number}")) for number in range(4)))
    await life.until(lambda s: drained(s) and s["dlq"]["depth"] == 1)
    code, _ = await life.ask("/v1/destinations/default/pause", {"reason": "rig"})
    life.paused = True if code == 200 else None
    for _ in range(2):
        await life.post(ledger.make("a0"))
    code, _ = await life.ask("/v1/dlq/redrive", {"all": True})
    life.redriven = code == 200
    await life.ask("/v1/backup")
    life.paused = None          # until the answer arrives both are possible
    code, _ = await life.ask("/v1/destinations/default/resume", {})
    life.paused = False if code == 200 else None
    await life.until(drained)


async def recovery_script(life, ledger):
    """A start after a kill with a backlog."""
    await life.start()
    for number in range(3):
        await life.post(ledger.make(f"a{number % 2}"))
    await life.until(drained)


SCRIPTS = {"first": first_script, "recovery": recovery_script}


# ---- an injection: a disturbed and an undisturbed run ----------------------------------------------------------

class Trial:
    def __init__(self, binary, shim, folder, ledger):
        self.binary, self.shim, self.folder, self.ledger = binary, shim, folder, ledger
        self.lives = []
        folder.mkdir(exist_ok=True)
        self.data, self.config, self.ports = folder / "data", folder / "holdline.toml", common.free_ports(3)
        common.write_config(
            self.config, intake=self.ports[0], admin=self.ports[1], data=self.data,
            intake_settings={"disk_reserve": '"16MiB"'},
            destination={"url": f'"http://127.0.0.1:{self.ports[2]}/events"',
                         "retry": '{ base = "20ms", max = "200ms", attempts = 1000 }'})
        self.destination = common.Destination(ledger.receive, lambda request, reply: None)

    async def disturbed(self, injection):
        """The script with the injection -> (life, exit code)."""
        life, script = Life(self, injection), SCRIPTS[injection.life]
        try:
            await script(life, self.ledger)
        except Gone:
            end = time.monotonic() + END_LIMIT_S
            while not life.is_dead() and time.monotonic() < end:
                await asyncio.sleep(0.01)
            if not life.is_dead():
                self.ledger.faults.append("it neither answered nor ended")
        return life, await life.end()

    async def undisturbed(self, before):
        """A restart without faults: the sender repeats everything, all is delivered, the daemon stops, and its store has no
        fault."""
        await self.destination.until_deserted()     # then everything that the dead daemon had sent has been read
        self.ledger.life += 1
        life = Life(self, None)
        await life.start()
        status = await life.until(lambda s: True)
        paused = any(h["blocker"] == "pause" for d in status["destinations"] for h in d.get("blocked_by", []))
        if before.paused is not None and paused != before.paused:
            self.ledger.faults.append(f"the pause was answered {before.paused}, and is {paused} after the restart")
        await life.ask("/v1/destinations/default/resume", {})
        for event in list(self.ledger.events.values()):
            await life.post(event)
        status = await life.until(drained, DRAIN_LIMIT_S)
        _, page = await life.ask("/v1/dlq?limit=100")
        dead = {item["id"] for item in json.loads(page)["items"]}
        if code := await life.end():
            self.ledger.faults.append(f"the undisturbed restart ended with {code}: {life.daemon.last_words()}")
        verified = await asyncio.to_thread(subprocess.run, [self.binary, "verify", "--data", self.data],
                                           capture_output=True, text=True)
        if verified.returncode:
            self.ledger.faults.append(f"verify: {verified.stdout}{verified.stderr}")
        return status, dead

    async def run(self, injection):
        """-> (whether the fault was hit, whether the daemon ended as if there was no fault)"""
        await self.destination.listen(self.ports[2])
        hit = code = None
        try:
            life, code = await self.disturbed(injection)
            hit = life.first_hit()
            judge_end(self.ledger, life, injection, hit, code)
            status, dead = await self.undisturbed(life)
            judge(self.ledger, life, status, dead)
        except Gone:
            self.ledger.faults.append(f"the undisturbed restart is gone: {self.lives[-1].daemon.last_words()}")
        except common.RigError as e:
            self.ledger.faults.append(str(e))
        finally:
            for life in self.lives:
                life.daemon.kill()
            await self.destination.close()
        return hit is not None, code == 0


def judge_end(ledger, life, injection, hit, code):
    """Checks how the disturbed run ended, and what the daemon answered after the fault."""
    log = life.log.read_text(errors="replace")
    if code is None:
        ledger.faults.append("it did not end")
    if hit is None or injection.fault in ("KILL", "TORN"):
        if code not in ((0,) if hit is None else (-9, 0)):
            ledger.faults.append(f"it ended with {code}: {life.daemon.last_words()}")
        return
    at, path = hit
    late = [began for began in life.accepted_at if began > at]
    if late and injection.call in FATAL and path.endswith("/queue/db"):
        ledger.faults.append(f"{len(late)} events were answered 202 after a failed {injection.call}")
    if code and code > 0 and not re.search(r"ERROR|[Ee]rror|cannot", log):
        ledger.faults.append(f"it ended with {code} and said nothing: {life.daemon.last_words()}")
    if code is not None and code < 0:
        ledger.faults.append(f"it died of signal {-code}: {life.daemon.last_words()}")


def judge(ledger, before, status, dead):
    """Checks that nothing is lost, changed or out of order over both runs."""
    resolved, latest = set(), {}
    for r in ledger.receipts:
        event = ledger.events[r.event_id]
        if r.digest != common.digest(event.body):
            ledger.faults.append(f"{event.id} arrived with another body")
        if event.key and r.key != event.key:
            ledger.faults.append(f"{event.id} was acknowledged as {event.key} and delivered as {r.key}")
        missing = [n for n in range(1, event.n) if f"{event.interaction}-{n}" not in resolved]
        if missing:
            ledger.faults.append(f"{event.id} came before number {missing[0]} was resolved")
        if not r.redriven and event.n < latest.get((r.life, event.interaction), 0):
            ledger.faults.append(f"{event.id} came after number {latest[r.life, event.interaction]}")
        if not r.redriven:
            latest[r.life, event.interaction] = max(event.n, latest.get((r.life, event.interaction), 0))
        if r.status in (200, 400):
            resolved.add(r.event_id)
    delivered = {r.event_id for r in ledger.receipts if r.status == 200}
    for event in ledger.events.values():
        if event.id not in delivered and event.key not in dead:
            ledger.faults.append(f"{event.id} is lost ({event.key})")
        if event.poison and before.redriven and event.key in dead:
            ledger.faults.append(f"{event.id}: the redrive was answered, and it is a dead letter")
    if status["queue"]["depth"]:
        ledger.faults.append(f"{status['queue']['depth']} still queued after the restart")
    if status["counters"]["accepted"] != len(ledger.events):
        ledger.faults.append(f"{status['counters']['accepted']} accepted, {len(ledger.events)} different ones sent")
    if fault := common.sums_fault(status):
        ledger.faults.append(fault)


# ---- the runs --------------------------------------------------------------------------------------------------

class Rig:
    def __init__(self, options, binary, workdir):
        self.options, self.binary, self.workdir = options, binary, workdir
        self.shim, self.made = common.build_shim(workdir), 0
        self.template = None
        self.tally, self.failed = collections.Counter(), []

    def new_trial(self, life):
        self.made += 1
        folder = self.workdir / f"trial-{self.made}"
        folder.mkdir()
        if life == "first":
            return Trial(self.binary, self.shim, folder, Ledger(random.Random(self.options.seed)))
        source, ledger = self.template
        subprocess.run(["cp", "-a", source, folder / "data"], check=True)
        return Trial(self.binary, self.shim, folder, ledger.copy())

    async def make_template(self):
        """A folder as left by a kill: a backlog, delayed deliveries, a dead letter, an older snapshot of sled's."""
        trial = self.new_trial("first")
        ledger, open_door = trial.ledger, True

        def receive(request):
            reply = ledger.receive(request)
            if not open_door:
                ledger.receipts[-1].status = reply.status = 503
            return reply
        trial.destination.receive = receive
        await trial.destination.listen(trial.ports[2])
        for round_number in range(3):
            life = Life(trial, None)
            await life.start()
            for number in range(4):
                await life.post(ledger.make(f"a{number % 2}", poison=round_number == 0 and number == 1))
            if round_number == 0:
                await life.until(lambda s: drained(s) and s["dlq"]["depth"] == 1)
                open_door = False
            await asyncio.sleep(0.3)
            life.daemon.kill()
            await trial.destination.until_deserted()
            ledger.life += 1
        await trial.destination.close()
        self.template = trial.data, ledger

    def used(self):
        """Bytes of the template's file that contain data; sled fills the rest with zeros."""
        return len((self.template[0] / "queue" / "db").read_bytes().rstrip(b"\0"))

    async def count(self, life, way):
        """Counts the calls of the undisturbed script, by name; the run must pass the checks."""
        injection = Injection(way, life, "all", "COUNT", 0)
        trial = self.new_trial(life)
        await trial.run(dataclasses.replace(injection))
        counts = collections.Counter()
        for line in (trial.folder / "hits").read_text(errors="replace").splitlines():
            if way == "shim":
                counts[line.split(" ")[1]] += 1
            elif str(trial.data) in line and "resumed>" not in line:
                name = line.split(None, 2)[2].split("(")[0]
                counts[{"ftruncate": "ftruncate64"}.get(name, name)] += 1
        if faults := [f for f in trial.ledger.faults if "202 after" not in f]:
            raise common.RigError(f"the undisturbed {life} run does not hold: {faults[:3]}")
        shutil.rmtree(trial.folder)
        return counts

    async def try_one(self, injection):
        trial = self.new_trial(injection.life)
        hit, went_on = await trial.run(injection)
        self.tally["trials"] += 1
        self.tally["hit"] += hit
        self.tally[f"{injection.fault} hit"] += hit
        self.tally["went on"] += hit and went_on
        self.tally["acknowledged"] += sum(1 for e in trial.ledger.events.values() if e.key)
        if self.options.verbose:
            print(f"{injection}: {'hit' if hit else 'not reached'}{', went on' if hit and went_on else ''}", flush=True)
        if trial.ledger.faults:
            self.failed.append((injection, trial.ledger.faults))
            print(f"{injection}: {'; '.join(trial.ledger.faults[:3])} (kept: {trial.folder})", flush=True)
        else:
            shutil.rmtree(trial.folder)
        return hit

    async def run_all(self, injections):
        """Runs several at once: they mostly wait."""
        waiting = iter(injections)

        async def worker():
            for injection in waiting:
                await self.try_one(injection)
        await asyncio.gather(*(worker() for _ in range(self.options.jobs)))

    async def sweep_strace(self, what):
        at, misses = 0, 0
        while misses < STRACE_MISSES:
            at += 1
            misses = 0 if await self.try_one(dataclasses.replace(what, at=at)) else misses + 1

    async def run(self):
        options, rng = self.options, random.Random(self.options.seed)
        await self.make_template()
        if options.only:
            life, call, fault, at = options.only.split(":")
            return await self.run_all([Injection(options.way, life, call, fault, int(at))])
        strace, plan, straced = shutil.which("strace"), [], []
        for life in LIVES:
            counts = await self.count(life, "shim")
            print(f"calls of the {life} script: " + ", ".join(f"{n} {c}" for c, n in sorted(counts.items())), flush=True)
            if strace:
                await self.compare(life, counts)
            for call, count in sorted(counts.items()):
                # two more than counted: the number of calls differs from run to run
                plan += [Injection("shim", life, call, fault, at) for fault in faults_of(call) for at in range(1, count + 3)]
                straced += [Injection("strace", life, call, fault, 0) for fault in faults_of(call)
                            if fault != "TORN" and call in (*FATAL, "rename", "unlink", "ftruncate64")]
        pages = -(-self.used() // PAGE)
        plan += [Injection("shim", "recovery", "pread64", "BAD", at) for at in range(1, pages + 1)]
        if options.calls:
            plan, straced = ([what for what in all if what.call in options.calls] for all in (plan, straced))
        if options.short:
            plan = rng.sample(plan, min(SHORT_TRIALS, len(plan)))
            straced = [dataclasses.replace(what, at=rng.randint(1, 3))
                       for what in rng.sample(straced, min(SHORT_STRACE, len(straced)))]
        await self.run_all(plan)
        if not strace:
            print("strace is not installed: its part is skipped", flush=True)
        elif options.short:
            await self.run_all(straced)
        else:
            waiting = iter(straced)

            async def worker():
                for what in waiting:
                    await self.sweep_strace(what)
            await asyncio.gather(*(worker() for _ in range(options.jobs)))

    async def compare(self, life, counts):
        """Both ways must count the same calls; calls caused by timers may differ by a few."""
        traced = await self.count(life, "strace")
        for call in (*WRITES, *SYNCS, *READS, "rename", "unlink", "ftruncate64", "mkdir"):
            few = max(6, counts[call] // 4)
            if (counts[call] == 0) != (traced[call] == 0) or abs(counts[call] - traced[call]) > few:
                raise common.RigError(f"{call}: {counts[call]} by the shim and {traced[call]} by strace, in {life}")


def run(options):
    binary, workdir = common.find_binary(options.bin), common.make_workdir(options.workdir, "inject")
    rig = Rig(options, binary, workdir)
    if rig.shim is None:
        print("inject: SKIPPED: it needs gcc")
        common.print_result("inject", "", "skipped")
        return 0
    try:
        asyncio.run(rig.run())
    finally:
        if not rig.failed:
            shutil.rmtree(workdir)
    by_fault = ", ".join(f"{n} {f.removesuffix(' hit')}" for f, n in sorted(rig.tally.items()) if f.endswith(" hit"))
    lost = sum("is lost" in fault for _, faults in rig.failed for fault in faults)
    disorder = sum(" came " in fault for _, faults in rig.failed for fault in faults)
    verdict = "FAILED" if rig.failed or not rig.tally["hit"] else "held"
    common.print_row(**{
        "harness": "inject", "faults injected": by_fault, "N": rig.tally["hit"], "runs": rig.tally["trials"],
        "seed": options.seed, "acknowledged": rig.tally["acknowledged"], "lost": lost, "out of order": disorder,
        "daemon went on": rig.tally["went on"], "runs failed": len(rig.failed), "verdict": verdict})
    common.print_result("inject", f"{by_fault}, in single calls", verdict, n=rig.tally["hit"], seed=options.seed,
                        acknowledged=rig.tally["acknowledged"], lost=lost, out_of_order=disorder)
    return 0 if verdict == "held" else 1


def parse_arguments():
    p = argparse.ArgumentParser(description="fail every single call on the data folder (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--short", action="store_true", help=f"{SHORT_TRIALS} of the calls, and {SHORT_STRACE} by strace")
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--only", help="one injection, as it is printed: LIFE:CALL:FAULT:N")
    p.add_argument("--calls", type=lambda text: text.split(","), help="only these, as pwrite64,rename")
    p.add_argument("--way", choices=["shim", "strace"], default="shim", help="with --only")
    p.add_argument("--jobs", type=int, default=3, help="trials at once")
    p.add_argument("--verbose", action="store_true", help="a line for each injection")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    return p.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("inject", lambda: run(arguments), arguments.seed))
