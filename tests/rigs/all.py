#!/usr/bin/env python3
"""Run every rig, one after another, and print one table of the results.

`--short` is for continuous integration and takes about 10 minutes; `--long` is for a release and takes hours: 1,000 kills,
150 power cuts each on ext4 and XFS, a failure of every call on the data, upgrades, millions of events. `--seed` determines
the seed of each rig for `--long`; a failure prints the command that reproduces it.

Run, as root: tests/rigs/all.py --short | --long [--seed N] [--only RIG,RIG] [--bin FILE] [--log FOLDER]
Needs: what the rigs need; a rig that skips prints what is missing. Exit 0: every promise held or was skipped; 1: not.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import common

HERE = pathlib.Path(__file__).resolve().parent
# Not rigs: the shared modules, and this file.
OTHERS = ("books.py", "common.py", "samples.py", "all.py")
COLUMNS = ("n", "seed", "acknowledged", "lost", "duplicated", "out_of_order")
SHORT_LIMIT_S, LONG_LIMIT_S = 400, 4 * 3600
# Arguments of each rig without --short; a list of several runs where the rig has several variants.
SHORT = {"powercut": [["--fs", "ext4"], ["--fs", "xfs"], ["--expect-loss"]]}
LONG = {
    "killloop": [["--kills", "1000", "--events-min", "700000"]],
    "powercut": [["--cuts", "150", "--fs", "ext4"], ["--cuts", "150", "--fs", "xfs"], ["--cuts", "10", "--expect-loss"]],
    "inject": [[], ["--workdir", "/dev/shm"]],
}


def rigs(only):
    names = sorted(path.stem for path in HERE.glob("*.py") if path.name not in OTHERS)
    hidden = set(names) & sys.stdlib_module_names
    if hidden:      # its folder precedes others in the module search path
        raise common.RigError(f"a rig must not have the name of a module of Python's: {', '.join(sorted(hidden))}")
    unknown = set(only or ()) - set(names)
    if unknown:
        raise common.RigError(f"no rig is called {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    return [name for name in names if not only or name in only]


def takes(name, option):
    return f'"{option}"' in (HERE / f"{name}.py").read_text()


def run_one(name, arguments, limit, log):
    """Runs a rig -> (its last line, parsed; seconds)."""
    begin = time.monotonic()
    try:
        done = subprocess.run([sys.executable, HERE / f"{name}.py", *arguments], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=limit)
        output, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as e:
        output, code = (e.stdout or b"").decode(errors="replace") + f"\nnot done after {limit} s\n", 1
    log.write_text(output)
    try:
        result = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        result = {"harness": name, "verdict": "held" if code == 0 else "FAILED"}
    if code and result["verdict"] != "FAILED":
        result["verdict"] = f"FAILED ({code})"
    if result["verdict"].startswith("FAILED"):
        print(output, flush=True)
    return result, time.monotonic() - begin


def row(result, seconds):
    counts = {c.replace("_", " "): "" if result.get(c) is None else result[c] for c in COLUMNS}
    return {"harness": result["harness"], "faults injected": result.get("faults", ""), **counts,
            "verdict": result["verdict"], "seconds": round(seconds)}


def run(options):
    form, forms = ("--short", SHORT) if options.short else ("--long", LONG)
    options.log.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in rigs(options.only):
        for number, extra in enumerate(forms.get(name, [[]])):
            arguments = [*(["--short"] if options.short else []), *extra]
            if options.bin and takes(name, "--bin"):
                arguments += ["--bin", options.bin]
            if takes(name, "--seed"):
                arguments += ["--seed", str(options.seed)]
            print(f"{name} {' '.join(arguments)}", flush=True)
            log = options.log / f"{name}-{number + 1}.log"
            rows.append(run_one(name, arguments, SHORT_LIMIT_S if form == "--short" else LONG_LIMIT_S, log))
    print()
    common.print_table([row(*r) for r in rows])
    failed = [r["harness"] for r, _ in rows if r["verdict"].startswith("FAILED")]
    common.print_result("all", "", "FAILED" if failed else "held", n=len(rows), seed=options.seed, failed=failed)
    return 1 if failed else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="run every rig (see the file's head)")
    form = p.add_mutually_exclusive_group(required=True)
    form.add_argument("--short", action="store_true")
    form.add_argument("--long", action="store_true")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--seed", type=int, default=int(time.time()))
    p.add_argument("--only", type=lambda text: text.split(","), help="names of rigs, separated by commas")
    p.add_argument("--log", type=pathlib.Path, default=common.target_dir() / "rigs", help="where their output is kept")
    options = p.parse_args()
    if options.bin:
        options.bin = os.path.abspath(options.bin)
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("all", lambda: run(arguments), arguments.seed))
