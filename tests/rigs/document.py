#!/usr/bin/env python3
"""Hold the admin API against its own document, with whatever schemathesis thinks of.

Shows: no request that the document allows or forbids is answered with a server error, or with what the document does not
have: status, content type, headers, body. A daemon is given events, dead letters and what waits; then schemathesis asks every
operation, with all its checks, for bodies and parameters that fit the document, nearly fit it, and do not.

Run: tests/rigs/document.py [--short] [--examples N] [--seed N] [--bin FILE]
Needs: Linux, Python 3.11, the release binary, and schemathesis, which is installed into the target folder; without a network
it says so and skips. Exit 0: held; 1: did not.
"""
import argparse
import asyncio
import random
import re
import shutil
import subprocess
import sys
import time
import venv

import common

VERSION = "4.32.5"
EVENTS = 60
# What no document can say of a request: that an id of the right form is one of an event.
NOT_SAID = "positive_data_acceptance"


def install():
    """The program, installed on the first run -> its path; None where it cannot be had."""
    folder = common.target_dir() / f"schemathesis-{VERSION}"
    program = folder / "bin" / "schemathesis"
    if not program.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        done = subprocess.run([folder / "bin" / "pip", "install", "--quiet", f"schemathesis=={VERSION}"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
        if done.returncode:
            shutil.rmtree(folder)
            print(done.stdout.strip().splitlines()[-1][:200])
            return None
    return program


async def live(workdir, ports, daemon, rng):
    """Events that are delivered, dead, and waiting."""
    def receive(request):
        return common.Reply(422 if b'"n": 1' in request.body else 200)
    destination = common.Destination(receive, lambda *_: None)
    await destination.listen(ports[2])
    sender, story = common.Sender(ports[0]), common.Story("d", rng, (100, 2000))
    for _ in range(EVENTS):
        await sender.post_until_accepted(story.next()[3])
    sender.close()
    end = time.monotonic() + 30
    while (status := await asyncio.to_thread(daemon.status))["counters"]["delivered"] + status["dlq"]["depth"] < EVENTS:
        if time.monotonic() > end:
            raise common.RigError(f"not every event has an end: {status['counters']}")
        await asyncio.sleep(0.05)
    destination.go_away()
    await destination.until_deserted()


def run(options):
    program = install()
    if program is None:
        print("document: SKIPPED: schemathesis cannot be installed")
        common.print_result("document", "", "skipped", seed=options.seed)
        return 0
    binary, workdir = common.find_binary(options.bin), common.make_workdir(options.workdir, "document")
    ports, rng = common.free_ports(3), random.Random(options.seed)
    common.write_config(workdir / "holdline.toml", intake=ports[0], admin=ports[1], data=workdir / "data",
                        destination=[{"name": '"default"', "url": f'"http://127.0.0.1:{ports[2]}/events"'}, {"name": '"later"'}])
    daemon = common.Daemon(binary, ["--config", workdir / "holdline.toml"], workdir / "data", ports[1], workdir / "daemon.log")
    try:
        daemon.start()
        daemon.wait_ready()
        asyncio.run(live(workdir, ports, daemon, rng))
        (workdir / "openapi.json").write_bytes(daemon.ask("/openapi.json")[1])
        token = (daemon.data / "admin.token").read_text().strip()
        done = subprocess.run(
            [program, "run", workdir / "openapi.json", "--url", f"http://127.0.0.1:{ports[1]}", "--checks", "all",
             "--exclude-checks", NOT_SAID, "--max-examples", str(options.examples), "--workers", "1", "--seed", str(options.seed),
             "--suppress-health-check", "all", "--warnings", "off", "-H", f"Authorization: Bearer {token}"],
            cwd=workdir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1800)
        daemon.check_alive()
        fault = "panicked" in daemon.log.read_text()
    finally:
        daemon.kill()
    counted = re.search(r"(\d+) generated", done.stdout)
    failed = done.returncode or fault or not counted
    if failed:
        print(done.stdout[-6000:])
        print(f"kept for a look: {workdir}")
    else:
        shutil.rmtree(workdir)
    operations = re.search(r"Tested: (\d+)", done.stdout)
    cases, verdict = int(counted[1]) if counted else 0, "FAILED" if failed else "held"
    common.print_row(**{"harness": "document", "operations": operations[1] if operations else "?", "cases": cases,
                        "seed": options.seed, "verdict": verdict})
    common.print_result("document", "requests that fit the API's document, nearly, or not", verdict, n=cases, seed=options.seed)
    return 1 if failed else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="the admin API against its document (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--examples", type=int, default=100, help="of each operation, at most")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--short", action="store_true", help="10 examples")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.examples = 10
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("document", lambda: run(arguments), arguments.seed))
