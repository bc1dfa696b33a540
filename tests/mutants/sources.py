#!/usr/bin/env python3
"""Change the sources of the core one place at a time, and see whether the tests notice: all mutants in one build.

cargo-mutants says what could be changed; to compile each of its mutants for itself takes a day. Here a copy of the tree is
rewritten (schemata/) so that each place asks at run time which mutant it is to be, and built once. What does not compile is
taken out. Each test then runs once by itself, and tells which mutants it comes by; a mutant is run under the tests that come
by it, the likeliest first, until one fails. The tests that read the sources are left out, and those that fail unchanged.

Run: tests/mutants/sources.py [--file 'src/rules/**' ...] [--sample N] [--seed N] [--jobs N]
     [--patience SECONDS] [--again all|missed]
Results go to target/mutants/schemata/results.jsonl as they come; a run that was stopped goes on where it was.
Needs: Linux with prlimit, Python 3.11, cargo-mutants (cargo install cargo-mutants). Exit 0: nothing survives; 1: something does.
"""
import argparse
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time

import trials

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BASE = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "mutants" / "schemata"
TREE = BASE / "tree"
ROOMS = ("src/rules/**", "src/scheduler/**", "src/store/**")
PROFILE = "[profile.dev]\nopt-level = 1\ndebug = false\n"
# What does not compile shows in turns: types first, then borrows.
ROUNDS_MAX = 12
WORDS = ("noticed", "survives", "survives so far", "not reached", "does not compile", "not tried here")
MISSED = ("survives", "survives so far", "not reached")


def cargo(*arguments, tree=TREE, **more):
    """Runs cargo -> what it says, as JSON, one message a line."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(BASE / "target"), "RUSTFLAGS": "--cap-lints allow"}
    done = subprocess.run(["cargo", *arguments, "--message-format=json"], cwd=tree, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    return done, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


# ---- the build that holds them all -----------------------------------------------------------------------------

def list_mutants(patterns):
    command = ["cargo", "mutants", "--dir", ROOT, "--list", "--json"]
    for pattern in patterns:
        command += ["--file", pattern]
    listed = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    listed.sort(key=lambda m: m["name"])
    return [{**mutant, "number": number} for number, mutant in enumerate(listed, 1)]


def lay_out():
    """The tree as it lies here, with what the mutants ask for."""
    TREE.mkdir(parents=True, exist_ok=True)
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    pack = subprocess.Popen(["tar", "-c", "-T", "-"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    unpack = subprocess.Popen(["tar", "-x", "-C", TREE], stdin=pack.stdout)
    pack.stdin.write(files.encode())
    pack.stdin.close()
    if pack.wait() or unpack.wait():
        raise SystemExit("the tree could not be copied")
    (TREE / "src" / "mutant.rs").write_text((HERE / "schemata" / "mutant.rs").read_text())
    with open(TREE / "src" / "lib.rs", "a") as root:
        root.write("pub mod mutant;\n")
    manifest = TREE / "Cargo.toml"
    manifest.write_text(manifest.read_text().replace('[profile.dev]\ndebug = "line-tables-only"\n', PROFILE))


def build_rewriter():
    done, messages = cargo("build", "--release", tree=HERE / "schemata")
    if done.returncode:
        raise SystemExit(done.stderr)
    return next(m["executable"] for m in messages if m.get("executable"))


def rewrite(rewriter, mutants, files):
    """Writes these into the copy, of which those files hold any -> where each lies, and why some have no place."""
    for file in files:
        shutil.copyfile(ROOT / file, TREE / file)
    listed = json.dumps(mutants)
    done = subprocess.run([rewriter, ROOT, TREE], input=listed, stdout=subprocess.PIPE, check=True, text=True)
    told = json.loads(done.stdout)
    return told["texts"], {int(number): why for number, why in told["without_place"].items()}


def blamed(message, texts):
    """The mutants whose text an error points at: those that it is about, else those that it mentions."""
    spans = sorted(message["spans"], key=lambda span: not span["is_primary"])
    for child in message["children"]:
        spans += child["spans"]
    for span in spans:
        found = {number for start, end, number in texts.get(span["file_name"], ())
                 if start <= span["byte_start"] and span["byte_end"] <= end}
        if found:
            return found
    return set()


def compiling(rewriter, mutants):
    """Takes out what does not compile, until the rest does -> fates of those that are not in the build."""
    fates, remaining = {}, mutants
    for turn in range(ROUNDS_MAX):
        texts, without_place = rewrite(rewriter, remaining, {m["file"] for m in mutants})
        for number, why in without_place.items():
            fates.setdefault(number, {"how": "not tried here", "why": why})
        done, messages = cargo("build", "--lib")
        if not done.returncode:
            return fates
        errors = [m["message"] for m in messages if m["reason"] == "compiler-message" and m["message"]["level"] == "error"]
        bad = set().union(*(blamed(error, texts) for error in errors))
        print(f"turn {turn}: {len(errors)} errors, {len(bad)} mutants taken out", flush=True)
        if not bad:
            raise SystemExit("\n".join(error["rendered"] for error in errors) or done.stderr)
        fates.update({number: {"how": "does not compile"} for number in bad})
        remaining = [m for m in remaining if m["number"] not in bad]
    raise SystemExit(f"it does not compile after {ROUNDS_MAX} turns")


def build_tests():
    done, messages = cargo("test", "--no-run", "--lib", "--test", "it")
    if done.returncode:
        raise SystemExit(done.stderr)
    return [m["executable"] for m in messages if m.get("executable") and m["profile"]["test"]]


# ---- the run -----------------------------------------------------------------------------------------------------

class Results:
    """One line for each mutant, written as soon as it is known."""

    def __init__(self, path, again):
        self.path, self.lock, self.known = path, threading.Lock(), {}
        if path.exists() and again != "all":
            self.known = {row["mutant"]: row for row in map(json.loads, path.read_text().splitlines())}
        if again == "missed":
            self.known = {name: row for name, row in self.known.items() if row["how"] not in MISSED}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in self.known.values()))

    def open(self, mutant, patience):
        """Whether it has no result yet, or only one for want of patience."""
        row = self.known.get(mutant["name"])
        return row is None or row.get("patience", patience) < patience

    def add(self, mutant, fate):
        row = {"mutant": mutant["name"], **fate}
        with self.lock:
            self.known[mutant["name"]] = row
            with open(self.path, "a") as out:
                out.write(json.dumps(row) + "\n")
        if fate["how"].startswith("survives"):
            print(f"{fate['how']}: {mutant['name']}", flush=True)

    def totals(self, mutants):
        """Room -> how many of each fate."""
        table = collections.defaultdict(collections.Counter)
        for mutant in mutants:
            if row := self.known.get(mutant["name"]):
                table[mutant["file"].split("/")[1]][row["how"]] += 1
        return table


def try_all(mutants, judges, results, jobs):
    begin, done = time.monotonic(), 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(judges.judge, m["number"]): m for m in mutants}
        for future in concurrent.futures.as_completed(waiting):
            results.add(waiting[future], future.result())
            done += 1
            if done % 100 == 0:
                print(f"{done} of {len(mutants)} in {time.monotonic() - begin:.0f} s", flush=True)


def prepared(mutants, jobs):
    """Fates of the mutants that are not in the build, and the tests with what they come by; kept while no source changes."""
    digest = hashlib.sha256(json.dumps([m["name"] for m in mutants]).encode())
    for file in sorted(path for part in ("src", "tests/it", "tests/mutants/schemata") for path in (ROOT / part).rglob("*.rs")):
        digest.update(file.read_bytes())
    path = BASE / "prepared.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    if kept.get("digest") != digest.hexdigest():
        lay_out()
        fates = compiling(build_rewriter(), mutants)
        tests = trials.look_through(build_tests(), TREE, jobs)
        kept = {"digest": digest.hexdigest(), "fates": list(fates.items()), "tests": [dataclasses.asdict(test) for test in tests]}
        path.write_text(json.dumps(kept))
    return dict(kept["fates"]), [trials.Test(**test) for test in kept["tests"]]


def run(options):
    mutants = list_mutants(options.file or ROOMS)
    results = Results(BASE / "results.jsonl", options.again)
    fates, tests = prepared(mutants, options.jobs)
    for mutant in mutants:
        if mutant["number"] in fates and mutant["name"] not in results.known:
            results.add(mutant, fates[mutant["number"]])
    remaining = [m for m in mutants if results.open(m, options.patience)]
    random.Random(options.seed).shuffle(remaining)
    judges = trials.Judges(tests, {m["number"]: m["file"] for m in mutants}, options.patience)
    try_all(remaining[:options.sample], judges, results, options.jobs)
    table = results.totals(mutants)
    for room, counts in table.items():
        print(f"{room}: {sum(counts.values())} mutants: " + ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word]))
    return 1 if any(counts["survives"] + counts["survives so far"] for counts in table.values()) else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="mutate the sources of the core (see the file's head)")
    p.add_argument("--file", action="append", help="which sources; else src/rules/**, src/scheduler/** and src/store/**")
    p.add_argument("--sample", type=int, help="so many of those that have no result yet, at random")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--patience", type=float, default=60, help="seconds for the tests of one mutant; what survived fewer is tried on")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--again", choices=("all", "missed"), help="forget the results of earlier runs, or those of what was not noticed")
    return p.parse_args()


if __name__ == "__main__":
    sys.exit(run(parse_arguments()))
