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
READERS = ("repository::architecture::", "repository::proof::")
# A part of what the suite runs: of each mutant there are many, and most are noticed at once.
SURROUNDINGS = {"HOLDLINE_SIM_SEEDS": "150", "HOLDLINE_MODEL_CASES": "40"}
# Beside another test and under a mutant that only slows down, a test may take longer than by itself.
SLOWER, AT_LEAST_SECONDS, AT_MOST_SECONDS = 10, 8, 60

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
        """-> whether it passes, fails or hangs, and how many seconds it took; nothing that it began is left."""
        folder = tempfile.mkdtemp(prefix="hl")
        begin = time.monotonic()
        process = subprocess.Popen([*BOUNDED, self.binary, self.name, "--exact"], cwd=self.tree, start_new_session=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env={**os.environ, **SURROUNDINGS, "TMPDIR": folder, **environment})
        try:
            end = "fails" if process.wait(timeout) else "passes"
        except subprocess.TimeoutExpired:
            end = "hangs"
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        seconds = time.monotonic() - begin
        shutil.rmtree(folder, ignore_errors=True)
        return end, seconds

    def notices(self, number):
        """How it notices this mutant, if it does. A busy machine makes failures, too: so one must come twice, and a test hangs
        only where it does not hang by itself just then."""
        limit = min(max(self.seconds * SLOWER, AT_LEAST_SECONDS), max(AT_MOST_SECONDS, self.seconds * 2))
        for _ in range(2):
            end, _ = self.run(limit, HOLDLINE_MUTANT=str(number))
            if end == "passes":
                return None
            if end == "hangs" and self.run(limit)[0] == "passes":
                return end
        return end if end == "fails" else None

    def look(self):
        """Finds out what it comes by and how long it takes; nothing where it does not pass as things are, twice."""
        with tempfile.NamedTemporaryFile() as seen:
            end, _ = self.run(AT_MOST_SECONDS * 3, HOLDLINE_MUTANTS_SEEN=seen.name)
            self.mutants = sorted({int(line) for line in seen.read().split()})
        again, self.seconds = self.run(AT_MOST_SECONDS * 3)
        if (end, again) != ("passes", "passes"):
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


class Judges:
    """Chooses who judges a mutant first: who is quick, knows more of its file than others do, and has noticed others there."""

    def __init__(self, tests, files, patience):
        self.files, self.patience = files, patience
        self.reached = collections.defaultdict(list)
        self.known, self.noticed = collections.Counter(), collections.Counter()
        for test in tests:
            for number in test.mutants:
                self.reached[number].append(test)
                self.known[files[number], test.name] += 1

    def in_order(self, number):
        tests, file = self.reached[number], self.files[number]
        least = min((self.known[file, test.name] for test in tests), default=0)

        def worth(test):
            return 1 + self.known[file, test.name] - least + self.noticed[file, test.name]
        return sorted(tests, key=lambda test: (test.seconds + 0.02) / worth(test))

    def judge(self, number):
        """What the tests that come by a mutant say of it."""
        tests = self.in_order(number)
        if not tests:
            return {"how": "not reached"}
        begin = time.monotonic()
        for n, test in enumerate(tests):
            end = test.notices(number)
            seconds = round(time.monotonic() - begin, 2)
            if end:
                self.noticed[self.files[number], test.name] += 1
                return {"how": "noticed", "by": test.name, "as it": end, "after": n, "seconds": seconds}
            if seconds > self.patience and n + 1 < len(tests):
                return {"how": "survives so far", "tests": n + 1, "of": len(tests), "patience": self.patience}
        return {"how": "survives", "tests": len(tests), "seconds": seconds}
