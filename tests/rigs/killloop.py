#!/usr/bin/env python3
"""Kill the daemon repeatedly, and check it against records made outside of it.

Shows: an event answered 202 is never lost or changed; its idempotency key is stable; the events of an interaction arrive in
order and one at a time; an event is delivered twice only after a kill or a cut connection, and the number of deliveries
repeated after a kill is bounded; no request is sent before a `Retry-After` has passed; the counters balance.

How: senders post events over keep-alive connections (the next of an interaction only after the previous one was
acknowledged; after a cut the same one again). A destination answers most with 200 and some with 503, with 429 and
`Retry-After`, some with 400 (a dead letter), or cuts the connection before or after its answer. Meanwhile an operator
pauses, opens the breaker, closes intake, redrives, takes backups and reloads. The history is trimmed after a minute. The
daemon is killed with SIGKILL at random times, one time in four while it starts, one in eight while it drains after a
SIGTERM, one in eight while it makes a backup. At the end all blocks are removed, the queue drains, the records are checked.

Run: tests/rigs/killloop.py [--short] [--kills N] [--events-min N] [--seed N] [--bin FILE]
Needs: Linux, Python 3.11, the release binary. Exit 0: held; 1: did not.
"""
import argparse
import asyncio
import random
import shutil
import signal
import sys
import time

import books
import common

CONCURRENCY_MAX = 32


# ---- the run ---------------------------------------------------------------------------------------------------

async def kill_and_restart(daemon, destination, ledgers, rng, hands):
    daemon.check_alive()
    dice = rng.random()
    if dice < 1 / 8:
        ledgers.faults["kill while draining"] += 1
        daemon.signal(signal.SIGTERM)
        await asyncio.sleep(rng.uniform(0, 0.1))
    backup = asyncio.create_task(hands.backup()) if 1 / 8 <= dice < 1 / 4 else None
    if backup:
        ledgers.faults["kill during a backup"] += 1
        await asyncio.sleep(rng.uniform(0, 0.05))
    await asyncio.to_thread(daemon.kill)
    ledgers.kills.append(time.monotonic())
    await destination.until_deserted()
    ledgers.life += 1
    daemon.start()


async def until_acknowledged(ledgers, count, daemon, limit=60.0):
    """Waits until `count` more events are acknowledged."""
    goal, end = len(ledgers.accepted) + count, time.monotonic() + limit
    while len(ledgers.accepted) < goal:
        daemon.check_alive()
        if time.monotonic() > end:
            missing = goal - len(ledgers.accepted)
            raise common.RigError(f"{missing} of {count} events were not acknowledged in {limit} s")
        await asyncio.sleep(0.005)


async def kill_again_and_again(daemon, destination, ledgers, rng, hands, options):
    """Kills the daemon: one time in four during the start, otherwise after a random number of acknowledgements or later."""
    mean = options.events_min / options.kills
    during_start = 0
    for _ in range(options.kills):
        if ledgers.life and rng.random() < 0.25:
            during_start += 1
            await asyncio.sleep(rng.uniform(0, 0.15))
        else:
            await daemon.until_ready()
            await until_acknowledged(ledgers, int(rng.uniform(0.05, 2.6) * mean), daemon)
            await asyncio.sleep(rng.uniform(0, rng.choice((0.02, 1.5))))
        await kill_and_restart(daemon, destination, ledgers, rng, hands)
    await daemon.until_ready()
    await until_acknowledged(ledgers, max(0, options.events_min - len(ledgers.accepted)), daemon, limit=300)
    return during_start


def write_config(path, ports, data):
    intake, admin, receiver = ports
    common.write_config(
        path, intake=intake, admin=admin, data=data, intake_settings={"disk_reserve": '"16MiB"'},
        source={"dedup_window": '"60s"'},
        destination={"url": f'"http://127.0.0.1:{receiver}/events"', "timeout": '"10s"',
                     "concurrency": f"{{ max = {CONCURRENCY_MAX} }}",
                     "retry": '{ base = "20ms", factor = 2.0, max = "500ms", attempts = 1000 }',
                     "breaker": '{ min_calls = 5, open_duration = "300ms" }'})


async def run(binary, workdir, options):
    rng = random.Random(options.seed)
    ports = common.free_ports(3)
    write_config(workdir / "holdline.toml", ports, workdir / "data")
    daemon = common.Daemon(binary, ["--config", workdir / "holdline.toml"], workdir / "data", ports[1],
                           workdir / "daemon.log")
    ledgers = books.Ledgers()
    receiver = books.Receiver(ledgers, random.Random(rng.random()))
    destination = common.Destination(receiver.receive, receiver.settled)
    await destination.listen(ports[2])
    stop, operator = asyncio.Event(), None
    hands = ledgers.hands = common.Hands(daemon, random.Random(rng.random()), workdir / "holdline.toml")
    try:
        daemon.start()
        await daemon.until_ready()
        stories = [common.Story(str(i), random.Random(rng.random()), (100, 32 << 10)) for i in range(options.senders)]
        senders = [asyncio.create_task(books.send(ports[0], story, ledgers, stop)) for story in stories]
        operator, watch = asyncio.create_task(hands.run()), asyncio.create_task(ledgers.watch_lateness())
        during_start = await kill_again_and_again(daemon, destination, ledgers, rng, hands, options)
        stop.set()
        await hands.end(operator)
        watch.cancel()
        receiver.mended = True
        await asyncio.gather(*senders)
        await hands.let_go()
        status = await daemon.until_drained(options.drain_timeout)
    finally:
        daemon.kill()
        await destination.close()
    return ledgers, status, during_start


# ---- the report ------------------------------------------------------------------------------------------------

def report(ledgers, options, during_start, faults, duplicates):
    count, most, forgotten_s = duplicates
    for title, found in sorted(faults.items()):
        common.print_faults(title, found)
    print("operator: " + ", ".join(f"{n} {act}" for act, n in ledgers.hands.done.items()))
    print("answers: " + ", ".join(f"{n} {fault}" for fault, n in sorted(ledgers.faults.items()))
          + f"; received {len(ledgers.receipts)}; oldest delivery that a kill forgot: {forgotten_s * 1000:.0f} ms")
    common.print_row(**{
        "harness": "killloop",
        "faults injected": f"SIGKILL ({during_start} during start, {ledgers.faults['kill while draining']} while draining, "
                           f"{ledgers.faults['kill during a backup']} in a backup), 400, 503, 429, cut connections",
        "N": len(ledgers.kills), "seed": options.seed, "acknowledged": len(ledgers.accepted),
        "lost": len(faults["lost"]), "duplicated": count, "max duplicates per kill": most,
        "out of order": len(faults["order"]), "early": len(faults["early"]),
        "verdict": "FAILED" if any(faults.values()) else "held"})


def print_result(ledgers, options, faults, count):
    common.print_result("killloop", "SIGKILL, also in start, drain, backup", "FAILED" if any(faults.values()) else "held",
                        n=len(ledgers.kills), seed=options.seed, acknowledged=len(ledgers.accepted),
                        lost=len(faults["lost"]), duplicated=count, out_of_order=len(faults["order"]))


def parse_arguments():
    p = argparse.ArgumentParser(description="kill the daemon again and again (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--kills", type=int, default=100)
    p.add_argument("--events-min", type=int, default=50_000)
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--senders", type=int, default=12)
    p.add_argument("--short", action="store_true", help="10 kills, 3,000 events")
    p.add_argument("--duplicates-max", type=int, default=books.BEHIND_MAX + CONCURRENCY_MAX, help="most repeats for one kill")
    p.add_argument("--forget-max", type=float, default=2.0, help="seconds: the oldest delivery that a kill may forget")
    p.add_argument("--drain-timeout", type=float, default=300.0)
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.kills, options.events_min = 10, 3_000
    return options


def run_and_judge(options):
    binary = common.find_binary(options.bin)
    workdir = common.make_workdir(options.workdir, "killloop")
    ledgers, status, during_start = asyncio.run(run(binary, workdir, options))
    faults, duplicates = books.judge(ledgers, status, options)
    report(ledgers, options, during_start, faults, duplicates)
    failed = any(faults.values())
    if failed:
        print(f"kept for a look: {workdir}")
    else:
        shutil.rmtree(workdir)
    print_result(ledgers, options, faults, duplicates[0])
    return 1 if failed else 0


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("killloop", lambda: run_and_judge(arguments), arguments.seed))
