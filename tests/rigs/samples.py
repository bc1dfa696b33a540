"""What a daemon takes and gives over time: samples of it, as a table and as a picture, and what grew.

A daemon that dies and is started again is one daemon here: its samples go on, and its deaths can be marked.
"""
import csv
import re
import statistics
import time

import common

MB = 1 << 20
# Fewer samples in a third of a run than this say nothing about growth.
FEWEST = 20


class AckLatency:
    """The 99th percentile of the time to an answer between two looks, from the daemon's own histogram."""

    def __init__(self, daemon):
        self.daemon, self.before = daemon, {}

    def p99_ms(self):
        """None where nothing was answered; else the upper bound of the bucket it falls into."""
        _, text = self.daemon.ask("/metrics")
        found = re.findall(r'^holdline_ack_seconds_bucket\{.*?le="([^"]+)".*?\} (\d+)', text.decode(), re.M)
        now = {float(bound): int(count) for bound, count in sorted(found, key=lambda f: float(f[0]))}
        if any(count < self.before.get(bound, 0) for bound, count in now.items()):
            self.before = {}        # it has been started again
        seen = {bound: count - self.before.get(bound, 0) for bound, count in now.items()}
        self.before = now
        total = max(seen.values(), default=0)
        return next((1000 * bound for bound, count in seen.items() if total and count >= 0.99 * total), None)


class Watch:
    """The samples of one run, each printed line so many seconds after the one before."""

    def __init__(self, daemon, every):
        self.daemon, self.every, self.begin = daemon, every, time.monotonic()
        self.latency, self.samples, self.printed = AckLatency(daemon), [], 0.0

    def take(self, last=False):
        status = self.daemon.status()
        self.samples.append({
            "seconds": time.monotonic() - self.begin, "accepted": status["counters"]["accepted"],
            "depth": status["queue"]["depth"], "disk": common.disk_bytes(self.daemon.data),
            "memory": self.daemon.memory_bytes(), "files": self.daemon.open_files(), "p99_ms": self.latency.p99_ms()})
        if last or self.samples[-1]["seconds"] >= self.printed:
            self.printed += self.every
            self.print_last()

    def print_last(self):
        s = self.samples[-1]
        print(f"{s['seconds']:7.0f} s  accepted {s['accepted']:9}  waiting {s['depth']:7}  disk {s['disk'] / MB:6.0f} MB  "
              f"memory {s['memory'] / MB:5.0f} MB  descriptors {s['files']:4}  ack p99 <= {s['p99_ms'] or 0:g} ms", flush=True)

    def most(self, what):
        return max(s[what] for s in self.samples)

    def median(self, what):
        return statistics.median(s[what] or 0 for s in self.samples)

    def rates(self):
        """Events accepted per second, from each sample to the next."""
        pairs = zip(self.samples, self.samples[1:])
        return [0.0, *((b["accepted"] - a["accepted"]) / max(b["seconds"] - a["seconds"], 0.001) for a, b in pairs)]

    def growth(self, progress, kinds):
        """What grew by more than a fifth from the second third of the run to the last, by `progress` (sample -> 0 to 1)."""
        thirds = [[s for s in self.samples if part <= 3 * progress(s) < part + 1] for part in (1, 2)]
        if not all(len(third) >= FEWEST for third in thirds):
            return []
        of = lambda third, what: statistics.median(s[what] for s in third)
        return [f"{what} grew from {of(thirds[0], what)} to {of(thirds[1], what)}" for what in kinds
                if of(thirds[1], what) > 1.2 * of(thirds[0], what)]

    def record(self, folder, name, marks=()):
        """NAME.csv, and NAME.svg with one curve for each thing that was watched, and a line at each of `marks` (seconds)."""
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{name}.csv", "w", newline="") as file:
            table = csv.DictWriter(file, self.samples[0])
            table.writeheader()
            table.writerows(self.samples)
        (folder / f"{name}.svg").write_text(self.picture(marks))

    def picture(self, marks):
        of = lambda what, unit=1: [(s[what] or 0) / unit for s in self.samples]
        curves = (("events/s", self.rates()), ("waiting", of("depth")), ("disk MB", of("disk", MB)),
                  ("memory MB", of("memory", MB)), ("descriptors", of("files")), ("ack p99 ms", of("p99_ms")))
        width, height, left = 800, 90, 120
        end = self.samples[-1]["seconds"] or 1
        bottom = len(curves) * (height + 30)
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{bottom + 30}" '
                 'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
        parts += [f'<path d="M{left + width * at / end:.1f},10V{bottom}" stroke="#fbb"/>' for at in marks]
        for place, (name, values) in enumerate(curves):
            top, most = 20 + place * (height + 30), max(values) or 1
            points = " ".join(f"{left + width * s['seconds'] / end:.1f},{top + height * (1 - v / most):.1f}"
                              for s, v in zip(self.samples, values))
            parts += [f'<text x="4" y="{top + 12}">{name}</text><text x="4" y="{top + 28}">at most {most:.0f}</text>',
                      f'<path d="M{left},{top}v{height}h{width}" fill="none" stroke="#999"/>',
                      f'<polyline points="{points}" fill="none" stroke="#06c"/>']
        parts.append(f'<text x="{left}" y="{bottom + 20}">{end:.0f} s, {self.samples[-1]["accepted"]} events</text></svg>')
        return "\n".join(parts) + "\n"
