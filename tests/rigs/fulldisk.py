#!/usr/bin/env python3
"""Let the disk run full under a running daemon, first of bytes, then of inodes, and free it again.

Shows: intake answers 503 `disk_low` before a write of the store can fail; deliveries go on meanwhile; intake opens again by
itself; each acknowledged event is delivered. The data lies on a small ext4 image. A sender posts all the time while the
image is filled from outside, held full, and freed.

Run: tests/rigs/fulldisk.py [--short] [--bin FILE]
Needs: root, loop devices, mkfs.ext4, Linux, Python 3.11, the release binary. Without root or mkfs.ext4 it says so and skips.
Exit 0: all of that holds; 1: not.
"""
import argparse
import asyncio
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
# What stays free when "full": well below the reserve, and enough for the few files of the store.
LEFT_MB = 8
LEFT_INODES = 20


class Image:
    """A mounted ext4 image."""

    def __init__(self, workdir):
        self.file, self.mount = workdir / "disk.img", workdir / "disk"
        self.mount.mkdir()
        with open(self.file, "wb") as image:
            image.truncate(IMAGE_MB * MB)
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

    def clear(self):
        (self.mount / "filler").unlink(missing_ok=True)
        shutil.rmtree(self.mount / "many", ignore_errors=True)

    def unmount(self):
        subprocess.run(["umount", str(self.mount)], check=False)


class Traffic:
    """Posts until told to stop, and keeps a ledger of what was acknowledged."""

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
        """Waits until the last twenty answers were this one."""
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
    """Answers 200 to everything and remembers the keys."""
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


async def whole(options, binary, workdir, image):
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
    common.print_row(seed=options.seed, times_full=2 * options.rounds, acknowledged=traffic.acknowledged,
                     received=len(received), refused=sum(traffic.refusals.values()), faults=len(faults))
    common.print_faults("faults", faults)
    common.print_result("fulldisk", "disk full, of bytes and of inodes", "FAILED" if faults else "held",
                        n=2 * options.rounds, seed=options.seed, acknowledged=traffic.acknowledged,
                        lost=max(0, traffic.acknowledged - len(received)))
    return 1 if faults else 0


def run(options):
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        print("fulldisk: SKIPPED: it needs root and mkfs.ext4")
        common.print_result("fulldisk", "", "skipped")
        return 0
    binary = common.find_binary(options.bin)
    workdir = common.make_workdir(None, "fulldisk")
    image = Image(workdir)
    try:
        return asyncio.run(whole(options, binary, workdir, image))
    finally:
        image.unmount()
        shutil.rmtree(workdir, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="what CI runs")
    parser.add_argument("--rounds", type=int, help="times full, of each kind (default 5; short 1)")
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--bin")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.short else 5)
    return common.run_rig("fulldisk", lambda: run(options), options.seed)


if __name__ == "__main__":
    sys.exit(main())
