#!/usr/bin/env python3
"""Change the sources of the core one place at a time, and see whether its tests notice: mutation by cargo-mutants.

The core (rules, scheduler, store, and the nouns they share) knows nothing of HTTP or of the daemon, so it is built here as a
small crate of its own, with its unit tests, the simulation, and the tests of the store: a mutant takes seconds, not the minute
that the whole takes. What survives here may still be noticed by the tests that run the daemon; each survivor is to be looked at.

Run: tests/mutants/sources.py --file 'src/rules/**' [--file ...] [--shard K/N] [--jobs N]
Needs: cargo-mutants (cargo install cargo-mutants). Exit 0: all were noticed; 2 and above as cargo-mutants says it.
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MODULES = ("clock", "delivery", "event", "latency", "rules", "scheduler", "store", "time")
# What the simulation drives of dispatch.
SEQUENCES = "mod sequences;\npub use sequences::Sequences;\n"
TESTS = ("damage", "events", "model", "simulation", "store")
# What only the rest of the crate needs is left out, so that the crate builds and links quickly.
DEPENDENCIES = ("base64", "bincode", "bytes", "crc32fast", "http", "httpdate", "humantime", "lz4_flex", "prometheus-client", "ring", "rustix", "serde", "serde_json",
                "sha2", "sled", "thiserror", "tokio", "tracing", "uuid")
PROFILE = "\n[profile.dev]\nopt-level = 1\ndebug = false\n\n[profile.dev.package.\"*\"]\nopt-level = 2\n"
# A part of what the suite runs: of each mutant there are many, and most are noticed at once.
SURROUNDINGS = {"HOLDLINE_SIM_SEEDS": "150", "HOLDLINE_MODEL_CASES": "40"}


def manifest():
    """The project's manifest without what the core does not need."""
    kept, section = [], ""
    for line in (ROOT / "Cargo.toml").read_text().splitlines():
        if line.startswith("["):
            section = line
        name = line.split(" = ")[0]
        if section == "[package]" and not name.startswith(("auto", "readme")):
            kept.append(line)
        elif section == "[dev-dependencies]" or section == "[dependencies]" and (line == section or name in DEPENDENCIES):
            kept.append(line)
    return "\n".join(kept) + PROFILE


def lay_out(crate):
    shutil.rmtree(crate, ignore_errors=True)
    (crate / "src").mkdir(parents=True)
    (crate / "tests" / "it").mkdir(parents=True)
    (crate / "Cargo.toml").write_text(manifest())
    shutil.copy(ROOT / "Cargo.lock", crate)
    for kind, names, root in (("src", MODULES, "lib.rs"), ("tests/it", TESTS, "main.rs")):
        for name in names:
            for found in (ROOT / kind).glob(f"{name}*"):
                if found.stem == name:
                    (shutil.copytree if found.is_dir() else shutil.copy)(found, crate / kind / found.name)
        public = "pub " if kind == "src" else ""
        (crate / kind / root).write_text("".join(f"{public}mod {name};\n" for name in names))
    shutil.copytree(ROOT / "tests" / "samples", crate / "tests" / "samples")
    (crate / "src" / "dispatch").mkdir()
    (crate / "src" / "dispatch" / "mod.rs").write_text(SEQUENCES)
    shutil.copy(ROOT / "src" / "dispatch" / "sequences.rs", crate / "src" / "dispatch")
    with open(crate / "src" / "lib.rs", "a") as root:
        root.write("pub mod dispatch;\n")


def main():
    p = argparse.ArgumentParser(description="mutate the sources of the core (see the file's head)")
    p.add_argument("--file", action="append", required=True, help="which sources: src/rules/**, src/scheduler/**, src/store/**")
    p.add_argument("--shard", help="K/N: every Nth mutant, from the Kth on")
    p.add_argument("--jobs", type=int, default=1)
    options = p.parse_args()
    crate = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "mutants" / "core"
    lay_out(crate)
    command = ["cargo", "mutants", "--dir", crate, "--output", crate.parent, "--jobs", str(options.jobs), "--gitignore", "false",
               "--timeout", "120"]
    for pattern in options.file:
        command += ["--file", pattern]
    if options.shard:
        command += ["--shard", options.shard, "--sharding", "round-robin"]
    if not any("store" in pattern for pattern in options.file):
        command += ["--", "--", *(f"--skip={name}::" for name in ("damage", "model", "store"))]
    return subprocess.run(command, env={**os.environ, **SURROUNDINGS}).returncode


if __name__ == "__main__":
    sys.exit(main())
