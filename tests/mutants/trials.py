"""The tests that judge a mutant: which there are, what each of them comes by, and what they say of one mutant."""
import collections
import concurrent.futures
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import time

# These read the sources, which are rewritten here.
READERS = ("architecture::", "proof::")
# A part of what the suite runs: of each mutant there are many, and most are noticed at once.
SURROUNDINGS = {"HOLDLINE_SIM_SEEDS": "150", "HOLDLINE_MODEL_CASES": "40"}
# Beside another test and under a mutant that only slows down, a test may take longer than by itself.
SLOWER, AT_LEAST_SECONDS, AT_MOST_SECONDS = 10, 20, 60
# So long the tests of one mutant may run, all together.
PATIENCE_SECONDS = 60

# A mutant that never comes to an end may take memory all the while.
BOUNDED = ("prlimit", f"--as={8 << 30}")


@dataclasses.dataclass
class Test:
    binary: str
    name: str
    tree: str
    seconds: float = 0.0
    mutants: list[int] = dataclasses.field(default_factory=list)

    def run(self, timeout, **environment):
        """-> whether it passes within so many seconds, and how long it took; nothing that it began is left."""
        folder = tempfile.mkdtemp(prefix="hl")
        begin = time.monotonic()
        process = subprocess.Popen([*BOUNDED, self.binary, self.name, "--exact"], cwd=self.tree, start_new_session=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env={**os.environ, **SURROUNDINGS, "TMPDIR": folder, **environment})
        try:
            passes = process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            passes = False
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        seconds = time.monotonic() - begin
        shutil.rmtree(folder, ignore_errors=True)
        return passes, seconds

    def look(self):
        """Finds out what it comes by and how long it takes; nothing where it does not pass as things are, twice."""
        with tempfile.NamedTemporaryFile() as seen:
            passes, _ = self.run(AT_MOST_SECONDS * 3, HOLDLINE_MUTANTS_SEEN=seen.name)
            self.mutants = sorted({int(line) for line in seen.read().split()})
        again, self.seconds = self.run(AT_MOST_SECONDS * 3)
        if not (passes and again):
            print(f"left out, for it fails unchanged: {self.name}", flush=True)
            self.mutants = []


def look_through(binaries, tree, jobs):
    """The tests of these binaries, with what each comes by."""
    tests = []
    for binary in binaries:
        listed = subprocess.run([binary, "--list", "--format=terse"], cwd=tree, stdout=subprocess.PIPE, check=True, text=True)
        names = [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]
        tests += [Test(binary, name, str(tree)) for name in names if not name.startswith(READERS)]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(Test.look, tests))
    print(f"{len(tests)} tests, {sum(test.seconds for test in tests):.0f} s", flush=True)
    return tests


def by_mutant(tests):
    """Mutant -> the tests that come by it, the quickest first."""
    reached = collections.defaultdict(list)
    for test in sorted(tests, key=lambda test: test.seconds):
        for number in test.mutants:
            reached[number].append(test)
    return reached


def judge(number, tests):
    """What the tests that come by a mutant say of it."""
    if not tests:
        return {"how": "not reached"}
    begin = time.monotonic()
    for n, test in enumerate(tests):
        limit = min(max(test.seconds * SLOWER, AT_LEAST_SECONDS), max(AT_MOST_SECONDS, test.seconds * 2))
        passes, _ = test.run(limit, HOLDLINE_MUTANT=str(number))
        if not passes:
            return {"how": "noticed", "by": test.name, "after": n, "seconds": round(time.monotonic() - begin, 2)}
        if time.monotonic() - begin > PATIENCE_SECONDS and n + 1 < len(tests):
            return {"how": "survives so far", "tests": n + 1, "of": len(tests), "seconds": round(time.monotonic() - begin, 2)}
    return {"how": "survives", "tests": len(tests), "seconds": round(time.monotonic() - begin, 2)}
