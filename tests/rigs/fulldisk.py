#!/usr/bin/env python3
"""Let the disk become full under a running daemon: from outside, in bytes and in inodes, and by the daemon's own writes.

Shows: intake answers 503 `disk_low` before a write of the store can fail; deliveries continue meanwhile; intake opens again
by itself; each acknowledged event is delivered. The data is on a small ext4 image. A sender posts all the time while the
image is filled from outside, kept full, and freed.

Then, on another image: intake is filled up to `disk_low`, and the destination fails each event, so that each is written once
more, as a dead letter (422) or as a delayed delivery (503). The daemon continues with free space left. Then the image is
filled from outside to the last byte and inode: the daemon starts on it after a stop and after a kill, purges, redrives and
delivers; and when space is free again, intake opens and the ballast is created again. Nothing is lost. If every delivery
fails while the disk is already full, sending stops before the ballast is used up, reports this, and continues by itself when
space is free.

Run: tests/rigs/fulldisk.py [--short] [--only outside,letters,retries,stopped] [--bin FILE]
Needs: root, loop devices, mkfs.ext4, Linux, Python 3.11, the release binary. Without root or mkfs.ext4 the rig prints that
it is skipped. Exit 0: all of this holds; 1: not.
"""
import argparse
import asyncio
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import time

import common

MB = 1 << 20
RESERVE_MB = 48
IMAGE_MB = 400
INODES = 4096
# Free space when "full": well below the reserve, and enough for the few files of the store.
LEFT_MB = 8
LEFT_INODES = 20
SMALL_IMAGE_MB = 200
SIZES = (4_000, 200_000)


class Image:
    """A mounted ext4 image."""

    def __init__(self, workdir, megabytes):
        self.file, self.mount = workdir / "disk.img", workdir / "disk"
        self.mount.mkdir()
        with open(self.file, "wb") as image:
            image.truncate(megabytes * MB)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-N", str(INODES), str(self.file)], check=True)
        subprocess.run(["mount", "-o", "loop", str(self.file), str(self.mount)], check=True)

    def free(self):
        s = os.statvfs(self.mount)
        return s.f_bavail * s.f_frsize, s.f_ffree

    def fill_bytes(self):
        amount = self.free()[0] - LEFT_MB * MB
        with open(self.mount / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, amount)

    def fill_inodes(self):
        folder = self.mount / "many"
        folder.mkdir()
        for n in range(self.free()[1] - LEFT_INODES):
            (folder / str(n)).touch()

    def fill_up(self):
        """Fills the image to the last inode and the last byte, as a program does that writes until it fails."""
        folder = self.mount / "many"
        folder.mkdir(exist_ok=True)
        (self.mount / "filler").touch()
        n = len(os.listdir(folder))
        try:
            while True:
                (folder / str(n)).touch()
                n += 1
        except OSError:
            pass
        for size in (MB, 4096, 1):
            try:
                with open(self.mount / "filler", "ab", buffering=0) as filler:
                    while filler.write(bytes(size)):
                        pass
            except OSError:
                pass
        os.sync()

    def clear(self):
        (self.mount / "filler").unlink(missing_ok=True)
        shutil.rmtree(self.mount / "many", ignore_errors=True)

    def unmount(self):
        subprocess.run(["umount", str(self.mount)], check=False)
        self.file.unlink()
        self.mount.rmdir()


class Traffic:
    """Posts until it is stopped, and records what was acknowledged."""

    def __init__(self, port, rng):
        self.port, self.rng = port, rng
        self.acknowledged, self.refusals, self.faults = 0, {}, []
        self.codes = []
        self.stop = False

    async def run(self):
        sender, n = common.Sender(self.port), 0
        while not self.stop:
            n += 1
            body = common.make_body(self.rng, f"e-{n}-{self.rng.getrandbits(48):x}", f"call-{n % 50}", n, 2000)
            try:
                answer = await sender.post(body)
            except common.CUTS:
                continue
            if answer.status == 202:
                self.acknowledged += 1
                self.codes.append("202")
            else:
                code = json.loads(answer.body)["error"]["code"]
                self.codes.append(code)
                self.refusals[code] = self.refusals.get(code, 0) + 1
                if answer.status != 503 or code != "disk_low" or int(answer.headers.get("retry-after", 0)) < 1:
                    self.faults.append(f"answered {answer.status} {code}, Retry-After {answer.headers.get('retry-after')}")
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.002)
        sender.close()

    async def until(self, code, what, timeout=30.0):
        """Waits until the last twenty answers had this status."""
        end = time.monotonic() + timeout
        while self.codes[-20:] != [code] * 20:
            if time.monotonic() > end:
                raise common.RigError(f"{what}: the last answers are {self.codes[-5:]}")
            await asyncio.sleep(0.05)


async def scenario(options, daemon, image, destination, traffic):
    received = destination
    posting = asyncio.get_running_loop().create_task(traffic.run())
    await traffic.until("202", "before anything is full")
    for fill, name in ((image.fill_bytes, "bytes"), (image.fill_inodes, "inodes")):
        for _ in range(options.rounds):
            await asyncio.to_thread(fill)
            await traffic.until("disk_low", f"full of {name}")
            depth = (await daemon.until_drained(30))["queue"]["depth"]
            if depth:
                raise common.RigError(f"full of {name}: {depth} deliveries did not go on")
            daemon.check_alive()
            await asyncio.to_thread(image.clear)
            await traffic.until("202", f"freed of {name}")
    traffic.stop = True
    await posting
    status = await daemon.until_drained(60)
    faults = list(traffic.faults)
    if fault := common.sums_fault(status):
        faults.append(fault)
    if status["counters"]["accepted"] != traffic.acknowledged:
        faults.append(f"{traffic.acknowledged} acknowledged, {status['counters']['accepted']} accepted")
    if len(received) < traffic.acknowledged:
        faults.append(f"{traffic.acknowledged} acknowledged, {len(received)} received")
    return faults


async def serve_receiver(received):
    """Answers 200 to everything and records the keys."""
    async def connection(reader, writer):
        try:
            while True:
                message = await common.read_message(reader)
                received.add(message.headers.get("idempotency-key"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        except common.CUTS:
            pass
        finally:
            writer.close()
    return await asyncio.start_server(connection, "127.0.0.1", 0, limit=common.READ_LIMIT)


class Failing:
    """A destination that gives every request the same answer, and records what it has accepted."""

    def __init__(self):
        self.status, self.taken, self.failed = 503, set(), 0

    async def serve(self, reader, writer):
        try:
            while True:
                message = await common.read_message(reader)
                if self.status == 200:
                    self.taken.add(message.headers.get("idempotency-key"))
                else:
                    self.failed += 1
                writer.write(f"HTTP/1.1 {self.status} Said\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (*common.CUTS, asyncio.CancelledError):
            pass
        finally:
            writer.close()


def ordinary_body(rng, event_id, interaction, n, size):
    """A typical body of a contact centre: with many repeated words, so that it compresses."""
    participant = lambda: {"purpose": rng.choice(("agent", "customer", "acd")), "state": rng.choice(("connected", "alerting")),
                           "address": f"tel:+49{rng.randrange(10 ** 9)}", "queueId": rng.getrandbits(32), "direction": "inbound"}
    data = {"interactionId": interaction, "n": n, "participants": [participant() for _ in range(max(1, size // 130))]}
    return json.dumps({"eventType": "interaction.updated", "eventId": event_id, "data": data}).encode()


async def post(port, rng, make, prefix, until, acknowledged):
    """Posts ordinary bodies until intake refuses one, or until the maximum is reached -> the code of the refusal."""
    sender = common.Sender(port)
    try:
        for n in range(until):
            size = common.pick_size(rng, *SIZES)
            answer = await sender.post(make(rng, f"{prefix}-{n}", f"call-{prefix}-{n}", n, size))
            if answer.status != 202:
                return json.loads(answer.body)["error"]["code"]
            acknowledged.append(n)
    finally:
        sender.close()
    return None


class OnSmallDisk:
    """A daemon on a small disk whose destination fails everything, and the steps of the test."""

    def __init__(self, options, binary, workdir, image, status, make):
        self.rng, self.image, self.status, self.make = random.Random(options.seed), image, status, make
        self.destination, self.acknowledged, self.faults, self.rows = Failing(), [], [], {}
        self.ports = common.free_ports(2)
        self.config = workdir / "holdline.toml"
        self.daemon = common.Daemon(binary, ["--config", self.config], image.mount / "data", self.ports[1], workdir / "daemon.log")

    def check(self, what, holds, found=""):
        if not holds:
            self.faults.append(f"{what}: {found}")

    def wish(self, path, wish):
        code, body = self.daemon.ask(path, 60.0, wish)
        if code != 200:
            raise common.RigError(f"{path} was answered {code}: {body[:200]!r}")
        return json.loads(body)

    async def until(self, what, holds, timeout=30.0):
        """Waits for a condition of the status -> the last status."""
        end = time.monotonic() + timeout
        while True:
            self.daemon.check_alive()
            status = await asyncio.to_thread(self.daemon.status)
            if holds(status):
                return status
            if time.monotonic() > end:
                self.faults.append(f"{what}: not within {timeout:.0f} s: {status['queue']} {status['dlq']} {status['disk']}")
                return status
            await asyncio.sleep(0.05)

    async def until_running(self, timeout=60.0):
        """Waits until the daemon answers; `/readyz` reports not ready as long as intake is closed."""
        end = time.monotonic() + timeout
        while True:
            self.daemon.check_alive()
            try:
                if (await asyncio.to_thread(self.daemon.status))["state"] == "running":
                    return
            except (OSError, http.client.HTTPException, common.RigError):
                pass
            if time.monotonic() > end:
                raise common.RigError(f"not running after {timeout:.0f} s; its last words:\n{self.daemon.last_words()}")
            await asyncio.sleep(0.02)

    async def restart(self, how):
        """Stops or kills the daemon and starts it again -> seconds until it is ready."""
        if how == "stop":
            self.check("a stop on a full disk", await asyncio.to_thread(self.daemon.stop) == 0, self.daemon.last_words())
        else:
            self.daemon.kill()
        self.image.fill_up()
        free = self.image.free()
        began = time.monotonic()
        self.daemon.start()
        await self.until_running()
        seconds = time.monotonic() - began
        self.rows[f"start_after_{how}"] = f"{seconds:.2f}s"
        self.check("free before the start", free[0] < 4096 and free[1] == 0, free)

    async def fail_all(self):
        """Fills the queue while the destination is paused, then lets every delivery fail."""
        self.wish("/v1/destinations/default/pause", {"reason": "rig"})
        code = await post(self.ports[0], self.rng, self.make, "first", 1_000_000, self.acknowledged)
        self.check("intake closes", code == "disk_low", code)
        self.destination.status = self.status
        free = self.image.free()[0]
        self.rows |= {"acknowledged": len(self.acknowledged), "free_at_disk_low": f"{free >> 20}MB"}
        self.wish("/v1/destinations/default/resume", {})
        self.wish("/v1/destinations/default/breaker", {"state": "closed", "reason": "rig", "for": "10m"})
        lowest, still, last = free, 0, -1
        # until each has failed once, or nothing more is sent
        end = time.monotonic() + 60
        while self.destination.failed < len(self.acknowledged) and still < 30 and time.monotonic() < end:
            await asyncio.sleep(0.1)
            self.daemon.check_alive()
            lowest = min(lowest, self.image.free()[0])
            still, last = (still + 1 if self.destination.failed == last else 0), self.destination.failed
        status = await self.until("settles", lambda s: s["queue"]["in_flight"] == 0)
        self.rows |= {"failed": self.destination.failed, "lowest_free": f"{lowest >> 20}MB", "dead": status["dlq"]["depth"]}
        self.check("each event has failed once", self.destination.failed >= len(self.acknowledged), self.destination.failed)
        self.check("room is left", lowest > 16 * MB, lowest)
        if fault := common.sums_fault(status):
            self.faults.append(fault)

    async def work_on_a_full_disk(self):
        self.image.fill_up()
        for how in ("kill", "stop", "kill"):
            await self.restart(how)
        dead = (await asyncio.to_thread(self.daemon.status))["dlq"]["depth"]
        gone = 0
        if dead:
            page = await asyncio.to_thread(self.daemon.ask_json, f"/v1/dlq?limit={min(1000, dead // 2)}")
            ids = [item["id"] for item in page["items"]]
            gone = (await asyncio.to_thread(self.wish, "/v1/dlq/purge", {"ids": ids}))["done"]
            self.check("a purge on a full disk", gone == len(ids), (gone, len(ids)))
        self.image.fill_up()
        self.destination.status = 200
        await asyncio.to_thread(self.wish, "/v1/dlq/redrive", {"all": True})
        end = lambda s: s["queue"]["depth"] == 0 and s["dlq"]["depth"] == 0
        status = await self.until("redriven and drained on a full disk", end, 60)
        self.check("what was not purged is delivered", len(self.destination.taken) == len(self.acknowledged) - gone,
                   (len(self.destination.taken), len(self.acknowledged), gone))
        self.rows |= {"purged": gone, "delivered_full": len(self.destination.taken)}
        if fault := common.sums_fault(status):
            self.faults.append(fault)
        return gone

    async def free_again(self, case, gone):
        await asyncio.to_thread(self.image.clear)
        await self.until("intake opens", lambda s: s["intake"]["open"])
        await self.until("the ballast is made again", lambda s: s["disk"].get("ballast_bytes", 0) >= 32 * MB)
        if case == "stopped":
            self.wish("/v1/destinations/other/resume", {})
        await post(self.ports[0], self.rng, self.make, "second", 200, self.acknowledged)
        status = await self.until("drained", lambda s: s["queue"]["depth"] == 0)
        self.check("all is delivered", len(self.destination.taken) == len(self.acknowledged) - gone,
                   (len(self.destination.taken), len(self.acknowledged), gone))
        accounts = [d["counters"] for d in status["destinations"]]
        self.check("the sums are right", all(c["accepted"] == c["delivered"] + c["discarded"] for c in accounts), accounts)

    async def fail_on_a_full_disk(self):
        """Waiting deliveries fail while the disk is full, and also wait for another destination, so that no page is freed:
        sending stops before the ballast is used up, and continues when space is free."""
        for name in ("default", "other"):
            self.wish(f"/v1/destinations/{name}/pause", {"reason": "rig"})
        code = await post(self.ports[0], self.rng, self.make, "first", 1_000_000, self.acknowledged)
        self.check("intake closes", code == "disk_low", code)
        await asyncio.to_thread(self.image.fill_up)
        self.destination.status = self.status
        self.wish("/v1/destinations/default/resume", {})
        self.wish("/v1/destinations/default/breaker", {"state": "closed", "reason": "rig", "for": "10m"})
        gates = lambda s: [hold["blocker"] for hold in s["destinations"][0]["blocked_by"]]
        status = await self.until("it stops, and says why", lambda s: "disk" in gates(s) and s["queue"]["in_flight"] == 0)
        ballast, failed = status["disk"]["ballast_bytes"], self.destination.failed
        self.rows |= {"acknowledged": len(self.acknowledged), "failed": failed, "dead": status["dlq"]["depth"], "ballast": f"{ballast >> 20}MB"}
        self.check("some of the ballast is left", ballast >= 8 * MB, ballast)
        self.check("it has stopped before the end", 0 < status["dlq"]["depth"] < len(self.acknowledged), status["dlq"])
        await self.restart("kill")
        await asyncio.sleep(1)
        self.check("it stays stopped", self.destination.failed == failed, (self.destination.failed, failed))
        dead = (await asyncio.to_thread(self.daemon.status))["dlq"]["depth"]
        gone = (await asyncio.to_thread(self.wish, "/v1/dlq/purge", {"all": True}))["done"]
        self.check("a purge when nothing is left", gone == dead > 0, (gone, dead))
        given_up = self.wish("/v1/destinations/other/discard", {"all": True, "reason": "rig"})["done"]
        self.check("a discard when nothing is left", given_up == len(self.acknowledged), given_up)
        self.destination.status = 200
        return gone

    async def run(self, case):
        server = await asyncio.start_server(self.destination.serve, "127.0.0.1", 0, limit=common.READ_LIMIT)
        to = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        settings = {"url": json.dumps(to), "concurrency": '{ max = 16, adaptive = false, ramp_up = "0s" }',
                    "retry": '{ base = "20s", max = "20s", jitter = "none" }',
                    "breaker": "{ permanent_answers = 1000000 }"}     # every event must become a dead letter
        destinations = [settings, settings | {"name": '"other"'}] if case == "stopped" else settings
        common.write_config(self.config, intake=self.ports[0], admin=self.ports[1], data=self.daemon.data, destination=destinations,
                            intake_settings={"disk_reserve": f'"{RESERVE_MB}MiB"'})
        try:
            self.daemon.start()
            await self.daemon.until_ready()
            if case == "stopped":
                gone = await self.fail_on_a_full_disk()
            else:
                await self.fail_all()
                gone = await self.work_on_a_full_disk()
            await self.free_again(case, gone)
            if code := await asyncio.to_thread(self.daemon.stop):
                self.faults.append(f"it ended with {code}")
        except (common.RigError, OSError) as trouble:
            self.faults.append(f"{trouble}; the daemon's last words:\n{self.daemon.last_words()}")
        finally:
            self.daemon.kill()
            server.close()


async def outside(options, binary, workdir, image):
    received = set()
    server = await serve_receiver(received)
    to = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    ports = common.free_ports(2)
    config, data = workdir / "holdline.toml", image.mount / "data"
    common.write_config(config, intake=ports[0], admin=ports[1], data=data, destination={"url": json.dumps(to)},
                        intake_settings={"disk_reserve": f'"{RESERVE_MB}MiB"'})
    daemon = common.Daemon(binary, ["--config", config], data, ports[1], workdir / "daemon.log")
    traffic = Traffic(ports[0], random.Random(options.seed))
    try:
        daemon.start()
        await daemon.until_ready()
        faults = await scenario(options, daemon, image, received, traffic)
        if code := await asyncio.to_thread(daemon.stop):
            faults.append(f"it ended with {code}")
    finally:
        traffic.stop = True
        daemon.kill()
        server.close()
    common.print_row(case="outside", seed=options.seed, times_full=2 * options.rounds, acknowledged=traffic.acknowledged,
                     received=len(received), refused=sum(traffic.refusals.values()), faults=len(faults))
    return faults, traffic.acknowledged, max(0, traffic.acknowledged - len(received))


async def failing(options, binary, workdir, image, case):
    on = OnSmallDisk(options, binary, workdir, image, *{"letters": (422, ordinary_body), "retries": (503, common.make_body),
                                                          "stopped": (422, common.make_body)}[case])
    await on.run(case)
    common.print_row(case=case, seed=options.seed, **on.rows, faults=len(on.faults))
    return on.faults, len(on.acknowledged), 0


def run(options):
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        print("fulldisk: SKIPPED: it needs root and mkfs.ext4")
        common.print_result("fulldisk", "", "skipped")
        return 0
    binary = common.find_binary(options.bin)
    workdir = common.make_workdir(None, "fulldisk")
    faults, acknowledged, lost = [], 0, 0
    try:
        for case in options.only.split(","):
            image = Image(workdir, IMAGE_MB if case == "outside" else SMALL_IMAGE_MB)
            try:
                of_case = outside(options, binary, workdir, image) if case == "outside" else failing(options, binary, workdir, image, case)
                found, sent, missing = asyncio.run(of_case)
            finally:
                image.unmount()
            faults += [f"{case}: {fault}" for fault in found]
            acknowledged, lost = acknowledged + sent, lost + missing
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    common.print_faults("faults", faults)
    common.print_result("fulldisk", "disk full, of bytes and of inodes, from outside and by what fails", "FAILED" if faults else "held",
                        n=2 * options.rounds + 3, seed=options.seed, acknowledged=acknowledged, lost=lost)
    return 1 if faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="what CI runs")
    parser.add_argument("--rounds", type=int, help="times full, of each kind (default 5; short 1)")
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--only", help="some of these cases, with commas between (default all of them; short without retries)")
    parser.add_argument("--bin")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.short else 5)
    options.only = options.only or ("outside,letters,stopped" if options.short else "outside,letters,retries,stopped")
    return common.run_rig("fulldisk", lambda: run(options), options.seed)


if __name__ == "__main__":
    sys.exit(main())
