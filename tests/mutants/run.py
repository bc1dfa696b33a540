#!/usr/bin/env python3
"""Break the daemon on purpose, once for each patch in this folder, and see whether the harness that must notice it does.

A harness that has never failed shows nothing. Each patch is applied to a copy of the tree (HEAD), built without
optimisation, and run under its harness; the harness must end with 1. The unpatched build comes first and must hold under
all of them. tests/it/proof.rs holds that every patch still applies and stands in the table below.

Run, as root: tests/mutants/run.py [--only NAME,NAME] [--seed N]
Needs: cargo, git, what the rigs need. Takes some half an hour. Exit 0: all are noticed; 1: not.
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
# patch -> the harness that must notice it, and how it is run
MUTANTS = {
    "acknowledged-before-sync": ("inject", WRITES),
    "no-sync": ("powercut", ["--cuts", "40"]),
    "deduplication-in-a-commit-of-its-own": ("inject", WRITES),
    "failed-commit-taken-for-done": ("inject", WRITES),
    "nobody-woken-after-a-failed-write": ("inject", SYNCS),
    "settled-before-2xx": ("killloop", ["--kills", "15", "--events-min", "4000"]),
    "order-forgotten-at-start": ("killloop", ["--kills", "15", "--events-min", "4000"]),
    "retry-after-forgotten-at-start": ("clock", ["--short"]),
    "wall-clock": ("clock", ["--short"]),
}


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


def run_harness(binary, harness, arguments, seed, log):
    """-> (exit code, what its last line says)"""
    command = [sys.executable, common.ROOT / "tests" / "rigs" / f"{harness}.py", "--bin", binary, "--seed", str(seed), *arguments]
    with open(log, "w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    try:
        return code, json.loads(log.read_text().strip().splitlines()[-1])
    except (IndexError, ValueError):
        return code, {}


def run(options):
    yard, rows, missed = Yard(), [], 0
    yard.base.mkdir(parents=True, exist_ok=True)
    unbroken, held = yard.build(None), {}
    for name in options.only or MUTANTS:
        harness, arguments = MUTANTS[name]
        begin = time.monotonic()
        way = (harness, *arguments)
        if way not in held:
            code, result = run_harness(unbroken, harness, arguments, options.seed, yard.base / f"unbroken-{harness}.log")
            held[way] = result.get("verdict", f"ended with {code}")
        binary = yard.build(name)
        code, result = run_harness(binary, harness, arguments, options.seed, yard.base / f"{name}.log")
        noticed = code == 1 and result.get("verdict") == "FAILED"
        missed += not noticed or held[way] != "held"
        rows.append({"broken on purpose": name, "harness": " ".join(way), "unbroken": held[way],
                     "broken": "noticed" if noticed else f"NOT NOTICED ({code})",
                     "N": result.get("n", ""), "lost": result.get("lost", ""), "out of order": result.get("out_of_order", ""),
                     "seconds": round(time.monotonic() - begin)})
        print(f"{name}: {rows[-1]['broken']}", flush=True)
        binary.unlink()
    print()
    common.print_table(rows)
    common.print_result("mutants", "builds broken on purpose", "FAILED" if missed else "held", n=len(rows), seed=options.seed)
    return 1 if missed else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="builds broken on purpose, and who notices (see the file's head)")
    p.add_argument("--only", type=lambda text: text.split(","), help="names of patches, separated by commas")
    p.add_argument("--seed", type=int, default=1)
    return p.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("mutants", lambda: run(arguments), arguments.seed))
