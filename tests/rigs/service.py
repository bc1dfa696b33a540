#!/usr/bin/env python3
"""The packages as an administrator uses them, under a real systemd.

Shows: the deb installs, starts, accepts and delivers; an upgrade under load refuses no connection, loses nothing and
keeps order; a downgrade below the store's format is refused and what ran goes on; a daemon whose storage thread stands
still is killed by its watchdog and comes back; a broken configuration is not started; a removal keeps the data and a
purge deletes them; the rpm installs and goes away. Everything under the unit's restrictions.

How: a Debian root made by debootstrap (kept under the target folder) is booted with systemd-nspawn on the network of
this machine. Two versions of the package are made of one binary. Senders outside open a connection for each event, at
a steady rate, and a destination outside takes the deliveries.

--short boots nothing: the packages are built, linted, unpacked, and systemd judges the units.

Run, as root: tests/rigs/service.py [--short] [--bin FILE] [--rate N] [--upgrades N] [--seed N]
Needs: Linux, Python 3.11, root, the release binary, packages debootstrap, systemd-container, lintian, rpm, rpmlint.
Exit 0: held (or the machine cannot run it, which is said); 1: not.
"""
import argparse
import asyncio
import collections
import ctypes
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time

import common

EXPOSURE_MAX = 12        # in tenths, as systemd-analyze counts
LATE_MAX_S = 10.0        # the longest that a sender may wait for its answer
LIB = "usr/lib/systemd/system"
CONFIG = "/etc/holdline/holdline.toml"


def sh(*command, check=True, cwd=None):
    """Runs a command -> what it printed on either channel, and its exit code."""
    done = subprocess.run([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, cwd=cwd, check=False)
    if check and done.returncode:
        raise common.RigError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout, done.returncode


class Checks:
    """What was looked at, and how it was."""

    def __init__(self):
        self.failed = 0
        self.count = 0

    def that(self, what, holds, detail=""):
        self.count += 1
        print(f"  {'ok  ' if holds else 'FAIL'} {what}" + (f": {detail}" if detail and not holds else ""), flush=True)
        self.failed += not holds


# ---- packages --------------------------------------------------------------------------------------------------

def build_packages(binary, out, version):
    sh(common.ROOT / "packaging/release.sh", "--binary", binary, "--out", out, "--version", version, "--without-sbom",
       cwd=common.ROOT)
    debs, rpms = list(out.glob("*.deb")), list(out.glob("*.rpm"))
    if len(debs) != 1 or len(rpms) != 1:
        raise common.RigError(f"not one deb and one rpm in {out}: {debs} {rpms}")
    return debs[0], rpms[0]


def lint(deb, rpm, checks):
    said, code = sh("lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags", "bad-distribution-in-changes-file",
                    deb, check=False)
    checks.that("lintian is content", code == 0, said)
    said, code = sh("rpmlint", "--config", common.ROOT / "packaging/rpm/rpmlint.toml", rpm, check=False)
    checks.that("rpmlint is content", code == 0, said)


def look_inside(deb, rpm, work, checks):
    """Unpacks both, and lets systemd judge the units."""
    root = work / "unpacked"
    sh("dpkg-deb", "-x", deb, root)
    for path in ("usr/bin/holdline", f"{LIB}/holdline.service", f"{LIB}/holdline.socket", "etc/holdline/holdline.toml",
                 "usr/share/man/man1/holdline.1.gz", "usr/share/man/man1/holdline-serve.1.gz",
                 "usr/share/bash-completion/completions/holdline", "usr/share/doc/holdline/OPERATIONS.md",
                 "usr/share/doc/holdline/copyright", "usr/lib/sysusers.d/holdline.conf"):
        checks.that(f"the deb holds {path}", (root / path).exists())
    conffiles, _ = sh("dpkg-deb", "--info", deb, "conffiles")
    checks.that("the configuration is a conffile", CONFIG in conffiles, conffiles)
    said, code = sh(root / "usr/bin/holdline", "check", "--config", root / CONFIG.lstrip("/"), check=False)
    checks.that("the packaged configuration is usable", code == 0, said)
    files, _ = sh("rpm", "-qpl", rpm)
    checks.that("the rpm holds program and units", all(f"/{path}\n" in files for path in (
        "usr/bin/holdline", f"{LIB}/holdline.service", f"{LIB}/holdline.socket")), files)
    audit, _ = sh("readelf", "-S", "--wide", root / "usr/bin/holdline")
    checks.that("the binary carries its list of dependencies", ".dep-v0" in audit)
    judge_units(root, work, checks)


def judge_units(root, work, checks):
    units = work / "units"
    units.mkdir()
    for name in ("holdline.service", "holdline.socket"):
        text = (root / LIB / name).read_text().replace("/usr/bin/holdline", str(root / "usr/bin/holdline"))
        (units / name).write_text(text)
    said, code = sh("systemd-analyze", "verify", "--man=no", units / "holdline.service", units / "holdline.socket",
                    check=False)
    checks.that("systemd-analyze verify", code == 0 and "holdline" not in said, said)
    said, code = sh("systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE_MAX}",
                    units / "holdline.service", check=False)
    checks.that(f"exposure at most {EXPOSURE_MAX / 10}", code == 0, said[-200:])
    print(f"       {said.strip().splitlines()[-1]}")


# ---- a machine -------------------------------------------------------------------------------------------------

class Machine:
    """A Debian root that is booted with systemd-nspawn, on the network of this machine."""

    def __init__(self, root, log):
        self.root, self.log = root, log
        self.nspawn = None
        self.leader = None

    def boot(self, limit=60):
        with open(self.log, "ab") as log:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "-D", self.root, "--register=no", "--keep-unit", "-b", "--console=pipe",
                 f"--machine=holdline-rig-{os.getpid()}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            children, _ = sh("pgrep", "-P", self.nspawn.pid, check=False)
            self.leader = children.split()[0] if children.split() else None
            if self.leader and self.run("systemctl", "is-system-running", check=False)[0].strip() in ("running", "degraded"):
                return
            time.sleep(0.2)
        raise common.RigError(f"the machine did not boot within {limit} s; see {self.log}")

    def run(self, *command, check=True):
        """Runs a command inside -> what it printed, and its exit code."""
        return sh("nsenter", "-t", self.leader, "-a", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
                  "DEBIAN_FRONTEND=noninteractive", *command, check=check)

    def show(self, unit, what):
        return self.run("systemctl", "show", "-P", what, unit)[0].strip()

    def main_pid(self):
        """Of the daemon, as this machine's kernel numbers it outside."""
        inside = self.show("holdline.service", "MainPID")
        pids, _ = sh("pgrep", "-f", "/usr/bin/holdline serve", check=False)
        for pid in pids.split():
            status = pathlib.Path(f"/proc/{pid}/status")
            if status.exists() and f"NSpid:\t{pid}\t{inside}\n" in status.read_text():
                return int(pid)
        return None

    def until(self, what, probe, limit=60):
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if probe():
                return
            time.sleep(0.1)
        journal, _ = self.run("journalctl", "-u", "holdline", "-n", "30", "--no-pager", check=False)
        raise common.RigError(f"it never came to this: {what}\n{journal}")

    def is_active(self):
        return self.run("systemctl", "is-active", "holdline.service", check=False)[0].strip() == "active"

    def journal(self):
        return self.run("journalctl", "-u", "holdline", "--no-pager", "-o", "cat")[0]

    def off(self):
        if self.nspawn and self.nspawn.poll() is None:
            if self.leader:
                sh("nsenter", "-t", self.leader, "-a", "systemctl", "poweroff", "--no-block", check=False)
            try:
                self.nspawn.wait(30)
            except subprocess.TimeoutExpired:
                self.nspawn.terminate()
                self.nspawn.wait(30)


def make_root(workdir):
    """A root to boot, as a copy of one that is made once."""
    base = common.target_dir() / "rig-debian"
    if not (base / "rig-complete").exists():
        print("debootstrap makes a Debian root; it is kept for the next time", flush=True)
        shutil.rmtree(base, ignore_errors=True)
        sh("debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus,init-system-helpers", "bookworm", base)
        (base / "rig-complete").touch()
    root = workdir / "root"
    sh("cp", "-a", "--reflink=auto", base, root)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    return root


# ---- load ------------------------------------------------------------------------------------------------------

class Load:
    """Senders at a steady rate, each event over a connection of its own; what they saw."""

    def __init__(self, port, rate, seed):
        self.port, self.rate = port, rate
        self.rng = random.Random(seed)
        self.acknowledged = {}          # event id -> (interaction, n)
        self.trouble = collections.Counter()
        self.slowest_s = 0.0
        self.stop = asyncio.Event()

    async def run(self, senders=50):
        await asyncio.gather(*(self.send(i, senders / self.rate) for i in range(senders)))

    async def send(self, number, pause):
        """One interaction after the other; the next event once the one before is acknowledged."""
        n, due = 0, time.monotonic() + self.rng.random() * pause
        while not self.stop.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += pause
            n += 1
            interaction = f"call-{self.port}-{number}-{n // 200}"
            event_id = f"{interaction}-{n}"
            body = common.make_body(self.rng, event_id, interaction, n, 1000)
            begin = time.monotonic()
            while not await self.post(body):
                await asyncio.sleep(0.05)
            self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
            self.acknowledged[event_id] = (interaction, n)

    async def post(self, body):
        sender = common.Sender(self.port)
        try:
            answer = await sender.post(body)
        except ConnectionRefusedError:
            self.trouble["refused"] += 1
            return False
        except common.CUTS as e:
            self.trouble[f"cut ({type(e).__name__})"] += 1
            return False
        finally:
            sender.close()
        if answer.status != 202:
            self.trouble[f"answered {answer.status}"] += 1
        return answer.status == 202


class Received:
    """What reached the destination, in order."""

    def __init__(self):
        self.events = []

    def receive(self, request):
        event = json.loads(request.body)
        self.events.append((event["eventId"], event["data"]["interactionId"], event["data"]["n"]))
        return common.Reply(200)

    def ids(self):
        return {event_id for event_id, _, _ in self.events}

    def out_of_order(self):
        """Events that came after a later one of their interaction; a repetition of the latest is none."""
        latest, wrong = {}, []
        for event_id, interaction, n in self.events:
            if n < latest.get(interaction, 0):
                wrong.append(event_id)
            latest[interaction] = max(n, latest.get(interaction, 0))
        return wrong


# ---- the story -------------------------------------------------------------------------------------------------

def configure(machine, ports):
    """The one file that an administrator edits, and the address of the socket."""
    intake, admin, receiver = ports
    config = machine.root / CONFIG.lstrip("/")
    text = config.read_text().replace('# url = "https://crm.internal/hooks/events"', f'url = "http://localhost:{receiver}/"')
    text = text.replace('listen = "127.0.0.1:8081"', f'listen = "127.0.0.1:{admin}"')
    text = text.replace('profile = "auto"', 'profile = "interaction"').replace('"512MiB"', '"16MiB"')
    config.write_text(text)
    drop_in = machine.root / "etc/systemd/system/holdline.socket.d"
    drop_in.mkdir(parents=True, exist_ok=True)
    (drop_in / "address.conf").write_text(f"[Socket]\nListenStream=\nListenStream=127.0.0.1:{intake}\n")


def install(machine, deb, *options):
    shutil.copy(deb, machine.root / "root" / deb.name)
    return machine.run("dpkg", "-i", *options, f"/root/{deb.name}", check=False)


def first_start(machine, deb, ports, checks):
    said, code = install(machine, deb)
    checks.that("install", code == 0, said)
    checks.that("started with the packaged configuration, ready means ready", machine.is_active(), machine.journal())
    checks.that("enabled", machine.run("systemctl", "is-enabled", "holdline.service", "holdline.socket",
                                       check=False)[0].split() == ["enabled", "enabled"])
    configure(machine, ports)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", "holdline.socket", "holdline.service")
    machine.run("systemctl", "start", "holdline.socket", "holdline.service")
    modes, _ = machine.run("stat", "-c", "%U:%G %a", "/var/lib/holdline", "/etc/holdline", CONFIG)
    checks.that("owners and modes", modes.split("\n")[:3] ==
                ["holdline:holdline 700", "root:holdline 750", "root:holdline 640"], modes)
    durability = machine.journal()
    checks.that("inode flags may be set under the restrictions", "inode-sync" in durability, durability)


async def settle(received, load, limit=60.0):
    """Waits until everything acknowledged has arrived."""
    end = time.monotonic() + limit
    while time.monotonic() < end and not load.acknowledged.keys() <= received.ids():
        await asyncio.sleep(0.1)
    return [e for e in load.acknowledged if e not in received.ids()]


async def upgrade_under_load(machine, debs, ports, received, options, checks):
    load = Load(ports[0], options.rate, options.seed)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(2)
    gaps = []
    for i in range(options.upgrades):
        before = machine.show("holdline.service", "MainPID")
        said, code = await asyncio.to_thread(install, machine, debs[(i + 1) % 2])
        checks.that(f"upgrade {i + 1} to {debs[(i + 1) % 2].name}", code == 0, said)
        checks.that("it runs anew", machine.is_active() and machine.show("holdline.service", "MainPID") != before)
        await asyncio.sleep(1)
    load.stop.set()
    await running
    lost = await settle(received, load)
    wrong = received.out_of_order()
    checks.that("no connection was refused", load.trouble["refused"] == 0, dict(load.trouble))
    checks.that("no connection was cut, every answer was 202", not load.trouble, dict(load.trouble))
    checks.that("nothing was lost", not lost, lost[:5])
    checks.that("order was kept", not wrong, wrong[:5])
    checks.that(f"nobody waited longer than {LATE_MAX_S} s", load.slowest_s < LATE_MAX_S, load.slowest_s)
    return load, lost, wrong


def refuse_downgrade(machine, older, checks):
    """The store's format is raised by hand; the running daemon has read it already."""
    form = machine.root / "var/lib/holdline/format"
    known = form.read_text()
    form.write_text("99\n")
    pid = machine.show("holdline.service", "MainPID")
    said, code = install(machine, older)
    checks.that("a version that cannot read the store is refused", code != 0 and "was written by a newer holdline" in said, said)
    checks.that("what ran goes on", machine.is_active() and machine.show("holdline.service", "MainPID") == pid)
    version, _ = machine.run("dpkg-query", "-W", "-f", "${Status} ${Version}", "holdline")
    checks.that("and stays installed", version.startswith("install ok installed"), version)
    machine.run("systemctl", "restart", "holdline.service", check=False)
    checks.that("the daemon refuses it as well, and says why", "was written by a newer holdline (format 99" in machine.journal())
    form.write_text(known)
    machine.until("it starts by itself once the store is right again", machine.is_active)
    checks.that("it starts by itself once the store is right again", True)


class Halt:
    """Stops one thread of another process, by ptrace, until the process is gone."""

    ATTACH = 16

    def __init__(self, tid):
        self.tid = tid
        self.tracer = threading.Thread(target=self.trace, daemon=True)
        self.held = threading.Event()
        self.tracer.start()
        if not self.held.wait(10):
            raise common.RigError(f"thread {tid} could not be stopped")

    def trace(self):
        ptrace = ctypes.CDLL(None, use_errno=True).ptrace
        ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        if ptrace(self.ATTACH, self.tid, None, None):
            return
        wall = 0x40000000
        os.waitpid(self.tid, wall)
        self.held.set()
        while True:  # it stays stopped until the kill takes it; then it must be waited for, or the process never ends
            try:
                _, status = os.waitpid(self.tid, wall)
            except ChildProcessError:
                return
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                return


def watchdog(machine, ports, checks):
    drop_in = machine.root / "etc/systemd/system/holdline.service.d"
    drop_in.mkdir(parents=True, exist_ok=True)
    (drop_in / "watchdog.conf").write_text("[Service]\nWatchdogSec=4s\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "holdline.service")
    before = machine.show("holdline.service", "MainPID")
    time.sleep(6)
    checks.that("a daemon that works is left alone", machine.show("holdline.service", "MainPID") == before)
    pid = machine.main_pid()
    threads = pathlib.Path(f"/proc/{pid}/task")
    tid = next(int(t.name) for t in threads.iterdir() if (t / "comm").read_text().strip() == "committer")
    begin = time.monotonic()
    Halt(tid)
    machine.until("the watchdog kills it and it is back",
                  lambda: machine.show("holdline.service", "MainPID") not in (before, "0") and machine.is_active())
    checks.that("a storage thread that stands still: killed by the watchdog, and back by itself",
                "Watchdog timeout" in machine.journal(), machine.journal()[-1500:])
    print(f"       back after {time.monotonic() - begin:.1f} s with WatchdogSec=4s")
    checks.that("the log names the thread", "the store's thread" in machine.journal())
    (drop_in / "watchdog.conf").unlink()
    machine.run("systemctl", "daemon-reload")


def reload_and_faults(machine, checks):
    config = machine.root / CONFIG.lstrip("/")
    good = config.read_text()
    config.write_text(good + '\n[[source]]\nname = "other"\n')
    said, code = machine.run("systemctl", "reload", "holdline.service", check=False)
    checks.that("reload", code == 0 and "the configuration was reloaded" in machine.journal(), said)
    config.write_text(good + "\nnonsense = 1\n")
    said, code = machine.run("systemctl", "reload", "holdline.service", check=False)
    checks.that("a reload of a broken file fails, and what ran goes on", code != 0 and machine.is_active(), said)
    config.write_text(good)


def broken_configuration(machine, deb, checks):
    config = machine.root / CONFIG.lstrip("/")
    good = config.read_text()
    config.write_text(good + "\nnonsense = 1\n")
    pid = machine.show("holdline.service", "MainPID")
    said, code = install(machine, deb)
    checks.that("an upgrade with a broken configuration: installed, not restarted, and said so",
                code == 0 and "was not started" in said and machine.show("holdline.service", "MainPID") == pid, said)
    config.write_text(good)


def removal(machine, checks):
    data = machine.root / "var/lib/holdline"
    said, code = machine.run("dpkg", "-r", "holdline", check=False)
    checks.that("remove", code == 0 and not machine.is_active(), said)
    checks.that("remove keeps the data and the configuration",
                (data / "queue").is_dir() and (machine.root / CONFIG.lstrip("/")).exists())
    said, code = machine.run("dpkg", "-P", "holdline", check=False)
    checks.that("purge", code == 0, said)
    checks.that("purge deletes the data and the configuration",
                not data.exists() and not (machine.root / CONFIG.lstrip("/")).exists())
    failed, _ = machine.run("systemctl", "--failed", "--no-legend", "--plain")
    checks.that("nothing is left that failed", not failed.strip(), failed)


def rpm_in_a_root(rpm, work, checks):
    """Installs and removes the rpm in an empty root; its scriptlets need a system of that family and are not run."""
    root = work / "rpm-root"
    root.mkdir()
    common_options = ("--root", root, "--dbpath", "/var/lib/rpm", "--noscripts", "--nodeps")
    sh("rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--initdb")
    said, code = sh("rpm", *common_options, "-i", rpm, check=False)
    checks.that("the rpm installs", code == 0 and (root / "usr/bin/holdline").exists(), said)
    (root / "var/lib/holdline").mkdir(parents=True)
    (root / CONFIG.lstrip("/")).write_text("# edited\n")
    said, code = sh("rpm", *common_options, "-e", "holdline", check=False)
    checks.that("the rpm goes, the data stay, and an edited configuration is kept",
                code == 0 and not (root / "usr/bin/holdline").exists() and (root / "var/lib/holdline").exists()
                and (root / (CONFIG.lstrip("/") + ".rpmsave")).exists(), said)
    for script in sorted((common.ROOT / "packaging/rpm").glob("*.sh")):
        said, code = sh("sh", "-n", script, check=False)
        checks.that(f"{script.name} is shell", code == 0, said)


async def story(machine, debs, options, checks):
    ports = common.free_ports(3)
    received = Received()
    destination = common.Destination(received.receive, lambda *_: None)
    await destination.listen(ports[2])
    try:
        machine.boot()
        await asyncio.to_thread(first_start, machine, debs[0], ports, checks)
        load, lost, wrong = await upgrade_under_load(machine, debs, ports, received, options, checks)
        await asyncio.to_thread(reload_and_faults, machine, checks)
        await asyncio.to_thread(refuse_downgrade, machine, debs[0], checks)
        await asyncio.to_thread(watchdog, machine, ports, checks)
        await asyncio.to_thread(broken_configuration, machine, debs[0], checks)
        await asyncio.to_thread(removal, machine, checks)
    finally:
        machine.off()
        await destination.close()
    return load, lost, wrong, received


def run_and_judge(options):
    missing = [p for p in ("lintian", "rpmlint", "rpm", "dpkg-deb", "systemd-analyze", "readelf")
               + (() if options.short else ("debootstrap", "systemd-nspawn", "nsenter")) if not shutil.which(p)]
    if missing or os.geteuid() != 0:
        print(f"service: skipped, it needs root and {', '.join(missing) or 'no more programs'}")
        common.print_result("service", "", "skipped")
        return 0
    work, checks = common.make_workdir(options.workdir, "service"), Checks()
    binary = common.find_binary(options.bin)
    deb, rpm = build_packages(binary, work / "v1", "0.1.0")
    lint(deb, rpm, checks)
    look_inside(deb, rpm, work, checks)
    rpm_in_a_root(rpm, work, checks)
    columns = {"harness": "service", "seed": options.seed}
    if not options.short:
        newer, _ = build_packages(binary, work / "v2", "0.1.1")
        machine = Machine(make_root(work), work / "machine.log")
        load, lost, wrong, received = asyncio.run(story(machine, (deb, newer), options, checks))
        columns |= {"upgrades": options.upgrades, "rate": options.rate, "acknowledged": len(load.acknowledged),
                    "received": len(received.events), "lost": len(lost), "out of order": len(wrong),
                    "refused": load.trouble["refused"], "longest wait": f"{load.slowest_s * 1000:.0f} ms"}
    common.print_row(**columns, checks=checks.count, failed=checks.failed,
                     verdict="FAILED" if checks.failed else "held")
    if checks.failed:
        print(f"kept for a look: {work}")
    common.print_result("service", "package upgrades under load", "FAILED" if checks.failed else "held",
                        n=columns.get("upgrades", 0), seed=options.seed, acknowledged=columns.get("acknowledged"),
                        lost=columns.get("lost"), out_of_order=columns.get("out of order"))
    if checks.failed:
        return 1
    shutil.rmtree(work)
    return 0


def parse_arguments():
    p = argparse.ArgumentParser(description="the packages under a real systemd (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--short", action="store_true", help="boot nothing: build, lint, unpack, judge the units")
    p.add_argument("--rate", type=float, default=500.0, help="events a second")
    p.add_argument("--upgrades", type=int, default=10)
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    return p.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("service", lambda: run_and_judge(arguments), arguments.seed))
