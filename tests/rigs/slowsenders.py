#!/usr/bin/env python3
"""Beset the intake with slow senders by the thousand while an honest one goes on, and see what it costs the honest one.

Shows: connections that wait for nothing hold up each other and nobody else, and memory stays bounded. An honest sender
posts at a steady pace, first alone, then beside each attack: heads that never end, bodies that never end, and peers
that ask and ask and read no answer. Its 99th percentile must stay within twice what it was alone (or below 20 ms), and
each of its events must be accepted. Then many short connections: TLS, one event, `Connection: close`, 300 a second.

Run: tests/rigs/slowsenders.py [--short] [--connections N] [--seconds S] [--memory-max-mb N] [--bin FILE]
Needs: Linux, Python 3.11, the release binary, openssl for the last part (skipped without it, and said so).
Exit 0: within the limits; 1: not.
"""
import argparse
import asyncio
import random
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time

import common

MB = 1 << 20
HONEST_PER_S = 100
SHORT_PER_S = 300
# Below it a percentile says more about the scheduling of two busy cores than about the intake.
FLOOR_MS = 20.0
PAUSE_S = 1.0


def head(length):
    return (f"POST /in/default HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {length}\r\n\r\n").encode()


async def drip(writer, first, pieces):
    writer.write(first)
    for piece in pieces:
        await writer.drain()
        await asyncio.sleep(PAUSE_S)
        writer.write(piece)


async def slow_head(_, writer):
    await drip(writer, b"POST /in/default HTTP/1.1\r\n", (f"X-{n}: 1\r\n".encode() for n in range(1000)))


async def slow_body(_, writer):
    await drip(writer, head(100_000), (b" " for _ in range(1000)))


async def no_reader(_, writer):
    # so many refusals that they fill what the kernel holds for a peer that does not read
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    writer.transport.pause_reading()
    await drip(writer, (head(2) + b"{]") * 400, (head(2) + b"{]" for _ in range(1000)))


# So few of those that read nothing that all find a seat: what they cost is to be seen, not what asking costs.
NO_READERS_MAX = 800

ATTACKS = {"heads without an end": slow_head, "bodies without an end": slow_body, "answers that nobody reads": no_reader}


async def attacker(port, attack, rng):
    """One hostile connection after the other."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await attack(reader, writer)
            finally:
                writer.transport.abort()
        except OSError:
            pass
        await asyncio.sleep(PAUSE_S * (0.5 + rng.random()))


def besiege(port, name, connections, seed):
    """The other process: attacks until it is killed."""
    async def run():
        rng = random.Random(seed)
        for n in range(connections):
            asyncio.get_running_loop().create_task(attacker(port, ATTACKS[name], rng))
            if n % 50 == 0:
                await asyncio.sleep(0.01)
        await asyncio.Event().wait()
    asyncio.run(run())


async def honest(port, seconds, rng, label):
    """Posts at a steady pace -> (latencies in ms, faults)."""
    latencies, faults = [], []
    senders = [common.Sender(port) for _ in range(8)]

    async def one(sender, n):
        body = common.make_body(rng, f"{label}-{n}-{rng.getrandbits(48):x}", f"call-{n % 20}", n, 1100)
        begin = time.monotonic()
        for _ in range(3):
            try:
                answer = await sender.post(body)
                break
            except common.CUTS:
                continue  # its idle connection had given way: it connects anew, as any client does
        else:
            faults.append("cut three times")
            return
        latencies.append((time.monotonic() - begin) * 1000)
        if answer.status != 202:
            faults.append(f"answered {answer.status}")

    begin, n = time.monotonic(), 0
    while (now := time.monotonic() - begin) < seconds:
        due = int(now * HONEST_PER_S)
        if n < due:
            await one(senders[n % len(senders)], n)
            n += 1
        else:
            await asyncio.sleep(0.001)
    for sender in senders:
        sender.close()
    return latencies, faults


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("inf")


async def short_connections(port, cert, seconds, rng):
    """TLS, one event, and close; at 300 a second -> (latencies in ms, faults)."""
    context = ssl.create_default_context(cafile=str(cert))
    latencies, faults, tasks = [], [], []

    async def one(n):
        body = common.make_body(rng, f"short-{n}-{rng.getrandbits(48):x}", f"call-{n % 20}", n, 1100)
        begin = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
            writer.write(head(len(body)).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
            answer = await reader.read()
            writer.close()
        except OSError as e:
            faults.append(f"{type(e).__name__}: {e}")
            return
        latencies.append((time.monotonic() - begin) * 1000)
        if not answer.startswith(b"HTTP/1.1 202"):
            faults.append(f"answered {answer[:60]!r}")

    begin, n = time.monotonic(), 0
    while (now := time.monotonic() - begin) < seconds:
        while n < int(now * SHORT_PER_S):
            tasks.append(asyncio.get_running_loop().create_task(one(n)))
            n += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return latencies, faults


def start(binary, workdir, tls):
    ports = common.free_ports(2)
    config = workdir / f"{'tls' if tls else 'plain'}.toml"
    settings = {"tls": f'{{ cert = "{workdir}/cert.pem", key = "{workdir}/key.pem" }}'} if tls else {}
    data = workdir / f"data-{'tls' if tls else 'plain'}"
    common.write_config(config, intake=ports[0], admin=ports[1], data=data, intake_settings=settings)
    daemon = common.Daemon(binary, ["--config", config], data, ports[1], workdir / "daemon.log")
    daemon.start()
    daemon.wait_ready()
    return daemon, ports[0]


def sieges(options, daemon, port, rng):
    """Each attack in turn -> (rows, faults)."""
    alone, faults = asyncio.run(honest(port, options.seconds, rng, "alone"))
    before = percentile(alone, 0.99)
    rows = [("nobody", len(alone), before, daemon.memory_bytes())]
    for name in ATTACKS:
        connections = min(options.connections, NO_READERS_MAX) if ATTACKS[name] is no_reader else options.connections
        siege = subprocess.Popen([sys.executable, __file__, "--besiege", name, "--port", str(port), "--connections",
                                  str(connections), "--seed", str(options.seed)])
        try:
            time.sleep(5)
            latencies, cuts = asyncio.run(honest(port, options.seconds, rng, name[:5]))
            daemon.check_alive()
            peak = daemon.memory_bytes("VmHWM")
        finally:
            siege.kill()
            siege.wait()
        p99 = percentile(latencies, 0.99)
        rows.append((name, len(latencies), p99, peak))
        faults += [f"{name}: {cut}" for cut in cuts]
        if p99 > max(2 * before, FLOOR_MS):
            faults.append(f"{name}: p99 {p99:.1f} ms, alone {before:.1f} ms")
        if peak > options.memory_max_mb * MB:
            faults.append(f"{name}: {peak // MB} MB of memory")
    return rows, faults


def run(options):
    binary = common.find_binary(options.bin)
    rng = random.Random(options.seed)
    workdir = common.make_workdir(None, "slowsenders")
    daemon = secure = None
    try:
        daemon, port = start(binary, workdir, tls=False)
        rows, faults = sieges(options, daemon, port, rng)
        accepted = daemon.status()["counters"]["accepted"]
        if accepted < sum(count for _, count, _, _ in rows):
            faults.append(f"only {accepted} accepted")
        daemon.stop()
        if shutil.which("openssl"):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2",
                            "-keyout", workdir / "key.pem", "-out", workdir / "cert.pem"], check=True,
                           stderr=subprocess.DEVNULL)
            secure, port = start(binary, workdir, tls=True)
            latencies, cuts = asyncio.run(short_connections(port, workdir / "cert.pem", options.seconds, rng))
            rows.append((f"short TLS connections, {SHORT_PER_S}/s", len(latencies), percentile(latencies, 0.99),
                         secure.memory_bytes("VmHWM")))
            faults += [f"short connections: {cut}" for cut in cuts]
            secure.stop()
        else:
            print("slowsenders: short TLS connections SKIPPED: openssl is not installed")
        for name, count, p99, memory in rows:
            common.print_row(beside=name, seed=options.seed, connections=options.connections, accepted=count,
                             p99_ms=f"{p99:.1f}", memory_mb=memory // MB)
        common.print_faults("faults", faults)
        common.print_result("slowsenders", "slow senders of each kind", "FAILED" if faults else "held",
                            n=options.connections, seed=options.seed, acknowledged=sum(row[1] for row in rows))
        return 1 if faults else 0
    finally:
        for process in (daemon, secure):
            if process:
                process.kill()
        shutil.rmtree(workdir, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="what CI runs")
    parser.add_argument("--connections", type=int, help="hostile ones (default 4000; short 1500)")
    parser.add_argument("--seconds", type=float, help="of each part (default 15; short 4)")
    parser.add_argument("--memory-max-mb", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2900)
    parser.add_argument("--bin")
    parser.add_argument("--besiege", choices=ATTACKS, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.connections = options.connections or (1500 if options.short else 4000)
    options.seconds = options.seconds or (4 if options.short else 15)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.besiege:
        return besiege(options.port, options.besiege, options.connections, options.seed)
    return common.run_rig("slowsenders", lambda: run(options), options.seed)


if __name__ == "__main__":
    sys.exit(main())
