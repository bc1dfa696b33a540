#!/usr/bin/env python3
"""Cut the power under a running daemon, again and again, without a virtual machine.

Shows: what was acknowledged before a power cut is there after it. Either it had been delivered (a destination's 2xx),
or the daemon that starts on the cut disk delivers it, byte for byte and in order, or it lies among its dead letters.

How: the data folder lies on an image with a filesystem of its own, and the image on XFS, which can clone a file in an
instant. The clone is the block device as it stood at that instant: whatever only the kernel's memory held is gone, as
in a power cut. It is mounted (its journal is replayed) and the same binary starts on it, with a destination that takes
everything. The daemon under test is stopped meanwhile and goes on after, so one run gives many independent cuts. Its
destination is slow and fails at times, so that the store always holds queued, delayed, delivered and dead events; an
operator pauses, opens the breaker, closes intake, redrives, takes backups and reloads; what is remembered is trimmed after
a minute. One cut in six falls into the start after a kill, one in six into the drain after a SIGTERM, one in six into a backup.

What it does not show: a device that reorders writes or lies about a flush.

Run, as root: tests/rigs/powercut.py [--short] [--cuts N] [--seed N] [--fs ext4|xfs] [--bin FILE] [--expect-loss]
--expect-loss runs the daemon with HOLDLINE_DEV_UNSAFE_NO_SYNC=1 and succeeds only if cuts lose something: it shows
that the rig would see a loss.
Needs: Linux, root, loop devices, mkfs.xfs, mkfs.ext4, cp --reflink (packages xfsprogs, e2fsprogs, coreutils).
Exit 0: every cut held (or the machine cannot run it, which is said); 1: not.
"""
import argparse
import asyncio
import collections
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import common

SIZES = (100, 256 << 10)
IMAGE_MB = 1536
# Events that wait in the live store: enough of every state, few enough that a check takes a second or two.
BACKLOG_MAX = 250
CONCURRENCY_MAX = 16
ATTEMPTS_MAX = 4
CHECK_LIMIT_S = 60
# When a cut falls; half of them fall into plain work.
MOMENTS = ("start", "drain", "backup")
UNSAFE = {"HOLDLINE_DEV_UNSAFE_NO_SYNC": "1"}


# ---- the disk --------------------------------------------------------------------------------------------------

def sh(*command):
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise common.RigError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


def cannot_run():
    """Why this machine cannot run the rig, or None."""
    if os.geteuid() != 0:
        return "needs root and loop devices"
    if not os.path.exists("/dev/loop-control") and not os.path.exists("/dev/loop0"):
        return "needs root and loop devices"
    for program, package in (("mkfs.xfs", "xfsprogs"), ("mkfs.ext4", "e2fsprogs")):
        if not shutil.which(program):
            subprocess.run(["apt-get", "install", "-y", "-qq", package], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        if not shutil.which(program):
            return f"needs {program}, and package {package} could not be installed"
    return None


class Disk:
    """An image mounted at `live`, which can be cloned while it is written to; the clone is mounted at `copy`."""

    def __init__(self, base, fs):
        self.fs = fs
        self.host, self.live, self.copy = (base / name for name in ("host", "live", "copy"))
        self.outer, self.image, self.clone = base / "outer.img", self.host / "disk.img", self.host / "cut.img"
        self.mounted = []

    def make(self):
        for folder in (self.host, self.live, self.copy):
            folder.mkdir()
        self.make_image(self.outer, 3 * IMAGE_MB, "xfs", "-m", "reflink=1")
        self.mount(self.outer, self.host)
        self.make_image(self.image, IMAGE_MB, self.fs)
        self.mount(self.image, self.live)

    @staticmethod
    def make_image(path, megabytes, fs, *options):
        with open(path, "wb") as f:
            f.truncate(megabytes << 20)
        sh(f"mkfs.{fs}", "-q", *options, path)

    def mount(self, image, where):
        # An XFS clone carries the UUID of the original, which is mounted.
        options = "loop,nouuid" if image == self.clone and self.fs == "xfs" else "loop"
        sh("mount", "-o", options, image, where)
        self.mounted.append(where)

    def cut(self):
        """The moment of the power cut."""
        sh("cp", "--reflink=always", self.image, self.clone)

    def mount_clone(self):
        self.mount(self.clone, self.copy)

    def drop_clone(self):
        if self.copy in self.mounted:
            self.unmount(self.copy)
        self.clone.unlink(missing_ok=True)

    def unmount(self, where):
        for _ in range(50):
            if subprocess.run(["umount", where], stderr=subprocess.DEVNULL).returncode == 0:
                break
            time.sleep(0.1)
        else:
            sh("umount", "-l", where)
        self.mounted.remove(where)

    def close(self):
        for where in reversed(list(self.mounted)):
            self.unmount(where)


# ---- the daemon under test -------------------------------------------------------------------------------------

@dataclasses.dataclass(slots=True)
class Accepted:
    """An acknowledged event, by holdline's id."""
    event_id: str
    interaction: str
    n: int
    digest: str


class Live:
    """Senders, the daemon under test and its slow destination, with the ledgers of both sides."""

    def __init__(self, binary, workdir, data, rng, env):
        self.rng = rng
        self.accepted = {}          # holdline's id -> Accepted
        self.delivered = set()      # ids answered 2xx
        self.finished = set()       # ids that are certainly not queued any more: delivered, or refused for good
        self.ports = common.free_ports(3)
        write_config(workdir / "live.toml", self.ports, data, ATTEMPTS_MAX)
        self.daemon = common.Daemon(binary, ["--config", workdir / "live.toml"], data, self.ports[1],
                                    workdir / "live.log", env)
        self.destination = common.Destination(self.receive, self.settled)
        self.hands = common.Hands(self.daemon, random.Random(rng.random()), workdir / "live.toml")
        self.senders, self.operator = [], None

    async def start(self):
        await self.destination.listen(self.ports[2])
        self.daemon.start()
        await self.daemon.until_ready()
        self.senders = [asyncio.create_task(self.send(common.Story(str(i), random.Random(self.rng.random()), SIZES)))
                        for i in range(12)]
        self.operator = asyncio.create_task(self.hands.run())

    async def send(self, story):
        sender = common.Sender(self.ports[0])
        while True:
            while len(self.accepted) - len(self.finished) > BACKLOG_MAX:
                await asyncio.sleep(0.01)
            event_id, interaction, n, body = story.next()
            answer = await sender.post_until_accepted(body)
            self.accepted[answer["id"]] = Accepted(event_id, interaction, n, common.digest(body))

    def receive(self, request):
        dice = self.rng.random()
        if dice < 0.01:
            return common.Reply(400, delay=0.01)
        if dice < 0.25:
            return common.Reply(503, delay=0.01)
        return common.Reply(200, delay=self.rng.choice((0.0, 0.01, 0.1)))

    def settled(self, request, reply):
        key, attempt = request.headers["idempotency-key"], int(request.headers.get("holdline-attempt", 1))
        if reply.status == 200:
            self.delivered.add(key)
        if reply.status in (200, 400) or attempt >= ATTEMPTS_MAX:
            self.finished.add(key)

    def check(self):
        self.daemon.check_alive()
        for sender in self.senders:
            if sender.done():
                sender.result()

    async def prepare(self, moment):
        """Brings the daemon to the moment of the cut."""
        match moment:
            case "start":
                await asyncio.to_thread(self.daemon.kill)
                await self.destination.until_deserted()
                self.daemon.start()
                await asyncio.sleep(self.rng.uniform(0, 0.2))
            case "drain":
                self.daemon.signal(signal.SIGTERM)
                await asyncio.sleep(self.rng.uniform(0, 0.15))
            case "backup":
                self.backup = asyncio.create_task(self.hands.backup())
                await asyncio.sleep(self.rng.uniform(0, 0.05))

    async def go_on(self, moment):
        """After the check of the cut."""
        if moment == "drain":
            await asyncio.to_thread(self.daemon.process.wait, 60)
            await self.destination.until_deserted()
            self.daemon.start()
        if moment == "backup":
            await self.backup
        await self.daemon.until_ready()

    async def stop(self):
        if self.operator:
            await self.hands.end(self.operator)
        for sender in self.senders:
            sender.cancel()
        await asyncio.gather(*self.senders, return_exceptions=True)
        self.daemon.kill()
        await self.destination.close()


def write_config(path, ports, data, attempts):
    intake, admin, receiver = ports
    common.write_config(
        path, intake=intake, admin=admin, data=data, intake_settings={"disk_reserve": '"16MiB"'},
        source={"dedup_window": '"60s"'},
        destination={"url": f'"http://127.0.0.1:{receiver}/events"', "timeout": '"60s"',
                     "concurrency": f"{{ max = {CONCURRENCY_MAX} }}",
                     "retry": f'{{ base = "50ms", factor = 2.0, max = "1s", attempts = {attempts} }}',
                     "breaker": '{ min_calls = 5, open_duration = "300ms" }'})


# ---- the check of one cut --------------------------------------------------------------------------------------

class Copy:
    """The same binary on the disk as the cut left it, with a destination that takes everything."""

    def __init__(self, binary, workdir, data):
        self.received = []          # (id, digest, whether it was redriven) in order of arrival
        self.ports = common.free_ports(3)
        write_config(workdir / "copy.toml", self.ports, data, 1000)
        self.log = workdir / "copy.log"
        self.log.unlink(missing_ok=True)
        self.daemon = common.Daemon(binary, ["--config", workdir / "copy.toml"], data, self.ports[1], self.log)
        self.destination = common.Destination(self.receive, lambda request, reply: None)

    def receive(self, request):
        self.received.append((request.headers["idempotency-key"], common.digest(request.body),
                              "holdline-redriven" in request.headers))
        return common.Reply(200)

    async def run_dry(self):
        """Starts and delivers all that is queued -> (status, {id of a dead letter: digest of its body})."""
        await self.destination.listen(self.ports[2])
        try:
            self.daemon.start()
            await self.daemon.until_ready(CHECK_LIMIT_S)
            await common.Hands(self.daemon, random.Random(0), self.log).let_go(redrive=False)
            status = await self.daemon.until_drained(CHECK_LIMIT_S)
            return status, await asyncio.to_thread(self.read_dead)
        finally:
            self.daemon.kill()
            await self.destination.close()

    def read_dead(self):
        """Every dead letter; the body of every fourth is read as well."""
        dead = {}
        for count, item in enumerate(self.daemon.items("/v1/dlq")):
            event_id = item.get("id") or item["event"]["id"]
            dead[event_id] = None
            if count % 4 == 0:
                status, body = self.daemon.ask(f"/v1/dlq/{event_id}/body")
                dead[event_id] = common.digest(body) if status == 200 else f"status {status}"
        return dead


def judge_cut(accepted, must_be_there, received, dead, status):
    """What is wrong after one cut, as a list of sentences."""
    faults = []
    there = {key for key, _, _ in received} | dead.keys()
    lost = [key for key in must_be_there if key not in there]
    if lost:
        examples = ", ".join(accepted[key].event_id for key in lost[:3])
        faults.append(f"{len(lost)} of {len(must_be_there)} that had to be there are lost ({examples})")
    changed = [key for key, digest in [*(r[:2] for r in received), *dead.items()]
               if digest and key in accepted and accepted[key].digest != digest]
    if changed:
        faults.append(f"{len(changed)} bodies changed ({accepted[changed[0]].event_id})")
    faults += judge_order(accepted, received)
    if status["queue"]["depth"]:
        faults.append(f"{status['queue']['depth']} were still queued after {CHECK_LIMIT_S} s")
    fault = common.sums_fault(status)
    if fault:
        faults.append(fault)
    return faults


def judge_order(accepted, received):
    latest, twice = collections.defaultdict(int), collections.Counter(key for key, _, _ in received)
    faults = [f"{key} was delivered {count} times after the cut" for key, count in twice.items() if count > 1]
    for key, _, redriven in received:
        event = accepted.get(key)
        if event is None or redriven:
            continue                # not acknowledged before the cut, or late because an operator sent it again
        if event.n < latest[event.interaction]:
            faults.append(f"{event.event_id} came after number {latest[event.interaction]}")
        latest[event.interaction] = max(event.n, latest[event.interaction])
    return faults[:3]


def freeze(daemon, number):
    try:
        daemon.signal(number)
    except ProcessLookupError:
        pass                        # it had drained before the cut


async def cut_and_check(disk, live, binary, workdir):
    """One cut -> (how many had to be there, faults)."""
    before = list(live.accepted)
    await asyncio.to_thread(disk.cut)
    freeze(live.daemon, signal.SIGSTOP)
    try:
        must_be_there = [key for key in before if key not in live.delivered]
        await asyncio.to_thread(disk.mount_clone)
        copy = Copy(binary, workdir, disk.copy / "data")
        try:
            status, dead = await copy.run_dry()
        except common.RigError as e:
            return len(must_be_there), [f"it did not start or ended: {e}"]
        return len(must_be_there), judge_cut(live.accepted, must_be_there, copy.received, dead, status)
    finally:
        freeze(live.daemon, signal.SIGCONT)
        await asyncio.to_thread(disk.drop_clone)


# ---- the run ---------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Tally:
    cuts: int = 0
    failed: int = 0
    had_to_be_there: int = 0
    acknowledged: int = 0
    moments: collections.Counter = dataclasses.field(default_factory=collections.Counter)


async def run(binary, workdir, disk, options):
    rng, tally = random.Random(options.seed), Tally()
    await asyncio.to_thread(disk.make)
    live = Live(binary, workdir, disk.live / "data", rng, UNSAFE if options.expect_loss else {})
    try:
        await live.start()
        while len(live.accepted) < BACKLOG_MAX:
            live.check()
            await asyncio.sleep(0.05)
        for number in range(1, options.cuts + 1):
            await asyncio.sleep(rng.uniform(0.05, 0.8))
            live.check()
            begin, moment = time.monotonic(), rng.choice((*MOMENTS, *["work"] * len(MOMENTS)))
            tally.moments[moment] += 1
            await live.prepare(moment)
            count, faults = await cut_and_check(disk, live, binary, workdir)
            tally.cuts, tally.had_to_be_there = number, tally.had_to_be_there + count
            tally.failed += bool(faults)
            for fault in faults:
                print(f"cut {number}, {moment}: {fault}", flush=True)
            if options.verbose:
                print(f"cut {number}, {moment}: {count} had to be there, {time.monotonic() - begin:.1f} s", flush=True)
            if faults and options.short and options.expect_loss:
                break
            await live.go_on(moment)
    finally:
        await live.stop()
        tally.acknowledged = len(live.accepted)
    return tally


def run_and_judge(options):
    reason = cannot_run()
    if reason:
        print(f"powercut: skipped: {reason}")
        common.print_result("powercut", "", "skipped")
        return 0
    binary = common.find_binary(options.bin)
    workdir = common.make_workdir(options.workdir, "powercut")
    disk = Disk(workdir, options.fs)
    try:
        tally = asyncio.run(run(binary, workdir, disk, options))
    finally:
        disk.close()
        shutil.rmtree(workdir, ignore_errors=True)
    held = tally.cuts == options.cuts and not tally.failed
    passed = tally.failed > 0 if options.expect_loss else held
    unsafe = ", no sync" if options.expect_loss else ""
    print("moments of the cuts: " + ", ".join(f"{n} {moment}" for moment, n in tally.moments.items()))
    common.print_row(**{
        "harness": "powercut", "faults injected": f"power cut, {options.fs}{unsafe}",
        "N": tally.cuts, "seed": options.seed, "acknowledged": tally.acknowledged,
        "had to be there": tally.had_to_be_there, "cuts failed": tally.failed,
        "verdict": ("loss seen, as expected" if passed else "FAILED: no loss seen") if options.expect_loss
        else ("held" if passed else "FAILED")})
    common.print_result("powercut", f"power cut, {options.fs}{unsafe}", "held" if passed else "FAILED", n=tally.cuts,
                        seed=options.seed, acknowledged=tally.acknowledged, cuts_failed=tally.failed)
    return 0 if passed else 1


def parse_arguments():
    p = argparse.ArgumentParser(description="cut the power under a running daemon (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--cuts", type=int, default=40)
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--fs", choices=["ext4", "xfs"], default="ext4")
    p.add_argument("--expect-loss", action="store_true", help="run unsafely, and succeed only if cuts lose something")
    p.add_argument("--short", action="store_true", help="4 cuts; with --expect-loss 150 at most, until one loses something")
    p.add_argument("--verbose", action="store_true", help="a line for each cut")
    p.add_argument("--workdir", type=pathlib.Path, help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.cuts = 150 if options.expect_loss else 4
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("powercut", lambda: run_and_judge(arguments), arguments.seed))
