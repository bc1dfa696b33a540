#!/usr/bin/env python3
"""Break the daemon on purpose, once for each patch in this folder, and see whether the harness that must notice it does.

A harness that has never failed shows nothing. Each patch is applied to a copy of the tree (HEAD), built without
optimisation, and run under its harnesses; each must end with 1. The unpatched build comes first and must hold under
all of them. tests/it/repository/proof.rs holds that every patch still applies and stands in the table below.

Run, as root: tests/mutants/run.py [--only NAME,NAME] [--seed N]
Needs: cargo, git, what the rigs need. Takes an hour. Exit 0: all are noticed; 1: not.
"""
import argparse
import filecmp
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "rigs"))
import common  # noqa: E402

WRITES = ["--short", "--calls", "pwrite64"]
SYNCS = ["--short", "--calls", "sync_file_range"]
LIVES = ["--kills", "15", "--events-min", "4000"]
# patch -> the harnesses that must notice it, each with how it is run
MUTANTS = {
    "acknowledged-before-sync": [("inject", WRITES)],
    "no-sync": [("powercut", ["--cuts", "100"])],
    "deduplication-in-a-commit-of-its-own": [("inject", WRITES)],
    "failed-commit-taken-for-done": [("inject", WRITES)],
    "nobody-woken-after-a-failed-write": [("inject", SYNCS)],
    "settled-before-2xx": [("killloop", LIVES), ("longhaul", ["--short"])],
    "order-forgotten-at-start": [("killloop", LIVES)],
    "retry-after-forgotten-at-start": [("clock", ["--short"])],
    "wall-clock": [("clock", ["--short"])],
    "log-not-looked-through": [("damage", ["--short"])],
    "no-bound-on-what-is-behind": [("scarce", ["--short", "--only", "stalled"])],
    "failed-exchange-keeps-its-buffers": [("hostile", ["--short"])],
    "disk-not-watched": [("fulldisk", ["--short"])],
    "delivered-pages-kept": [("soak", ["--events", "60000", "--remembered", "20000", "--disk-max-mb", "45"]),
                             ("backlog", ["--events", "100000"])],
    "nobody-gives-way": [("slowsenders", ["--short"])],
    "backup-without-what-came-meanwhile": [("backup", ["--short"])],
    "markup-rendered": [("dashboard", ["--short"])],
}
# harnesses that are noticed to fail by what is set up, on the unbroken build
WITHOUT = [("outage", ["--short", "--without", what]) for what in ("breaker", "ramp", "order", "hold")] + [
    ("drift", ["--short", "--without", "adaptive"])]


class Yard:
    """A copy of the tree to break and build, with a target folder of its own."""

    def __init__(self):
        self.base = common.target_dir() / "mutants"
        self.tree, self.target = self.base / "tree", self.base / "target"

    def fresh(self):
        shutil.rmtree(self.tree, ignore_errors=True)
        self.tree.mkdir(parents=True)
        archive = subprocess.Popen(["git", "archive", "HEAD"], cwd=common.ROOT, stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "-C", self.tree], stdin=archive.stdout, check=True)
        if archive.wait():
            raise common.RigError("git archive HEAD failed")

    def build(self, patch):
        self.fresh()
        if patch:
            # the tree may lie within a repository, and there git would pass over what is not below the folder it is in
            subprocess.run(["git", "apply", "--whitespace=nowarn", HERE / f"{patch}.patch"], cwd=self.tree, check=True,
                           env={**os.environ, "GIT_DIR": "/nonexistent"})
            for source in self.tree.glob("src/**/*.rs"):
                os.utime(source)        # an archive has the time of its commit, which cargo takes for old
        done = subprocess.run(["cargo", "build", "--quiet", "--bin", "holdline"], cwd=self.tree,
                              env={**os.environ, "CARGO_TARGET_DIR": str(self.target)}, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise common.RigError(f"{patch} does not build:\n{done.stderr[-2000:]}")
        binary = self.base / (patch or "unbroken")
        shutil.copy(self.target / "debug" / "holdline", binary)
        if patch and filecmp.cmp(binary, self.base / "unbroken", shallow=False):
            raise common.RigError(f"{patch} changes nothing: the build is the unbroken one")
        return binary


def run_harness(binary, harness, arguments, log):
    """-> (exit code, what its last line says)"""
    command = [sys.executable, common.ROOT / "tests" / "rigs" / f"{harness}.py", "--bin", binary, *arguments]
    with open(log, "w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    try:
        return code, json.loads(log.read_text().strip().splitlines()[-1])
    except (IndexError, ValueError):
        return code, {}


class Trials:
    """What each harness said of the unbroken build and of the broken ones."""

    def __init__(self, yard, seed):
        self.yard, self.seed, self.rows, self.held = yard, seed, [], {}
        self.unbroken = yard.build(None)

    def of(self, binary, name, harness, arguments):
        seed = [] if "--seed" not in (common.ROOT / "tests" / "rigs" / f"{harness}.py").read_text() else ["--seed", str(self.seed)]
        return run_harness(binary, harness, [*arguments, *seed], self.yard.base / f"{name}-{harness}.log")

    def unbroken_says(self, harness, arguments):
        way = (harness, *arguments)
        if way not in self.held:
            code, result = self.of(self.unbroken, "unbroken", harness, arguments)
            self.held[way] = result.get("verdict", f"ended with {code}")
        return self.held[way]

    def try_one(self, name, binary, harness, arguments, unbroken):
        begin = time.monotonic()
        code, result = self.of(binary, name, harness, arguments)
        noticed = code == 1 and result.get("verdict") == "FAILED"
        verdict = "noticed" if noticed else f"NOT NOTICED ({code})"
        if unbroken == "skipped":
            verdict = "skipped"
        self.rows.append({"broken on purpose": name, "harness": " ".join((harness, *arguments)), "unbroken": unbroken,
                          "broken": verdict, "N": result.get("n", ""), "lost": result.get("lost", ""),
                          "out of order": result.get("out_of_order", ""), "seconds": round(time.monotonic() - begin)})
        print(f"{name}, {harness}: {verdict}", flush=True)

    def missed(self):
        return [row for row in self.rows if row["broken"] not in ("noticed", "skipped") or row["unbroken"] not in ("held", "skipped")]


def run(options):
    yard = Yard()
    yard.base.mkdir(parents=True, exist_ok=True)
    trials = Trials(yard, options.seed)
    for name in options.only or MUTANTS:
        binary = None
        for harness, arguments in MUTANTS[name]:
            unbroken = trials.unbroken_says(harness, arguments)
            binary = binary or yard.build(name)
            trials.try_one(name, binary, harness, arguments, unbroken)
        binary.unlink()
    for harness, arguments in [] if options.only else WITHOUT:
        trials.try_one(f"without {arguments[-1]}", trials.unbroken, harness, arguments, trials.unbroken_says(harness, ["--short"]))
    print()
    common.print_table(trials.rows)
    missed = trials.missed()
    common.print_result("mutants", "builds broken on purpose", "FAILED" if missed else "held", n=len(trials.rows), seed=options.seed)
    return 1 if missed else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="builds broken on purpose, and who notices (see the file's head)")
    p.add_argument("--only", type=lambda text: text.split(","), help="names of patches, separated by commas")
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("mutants", lambda: run(arguments), arguments.seed))
