#!/usr/bin/env python3
"""Take one of three destinations down in every way, and see that the others go on and that it is helped back up.

Every event goes to three destinations. One of them refuses connections, then answers 503, then hangs. Shows: the other
two keep at least 95 % of their rate; the breaker of the one opens, and while it is open nothing is sent to it and no
attempt is spent (each attempt that was counted is a request that failed); half-open, it gets no more probes at once than
are set; when it is back its requests rise no faster than the ramp that is set; nothing is lost or out of order.

Then it answers with `Retry-After`, in seconds and as a date, and the daemon is killed with SIGKILL in the middle of the
wait. Shows: not one request comes before the wait is over, and the others go on.

Run: tests/rigs/outage.py [--short] [--rate N] [--seed N] [--bin FILE] [--without breaker|ramp|order|hold]
`--without` sets up the daemon without one of the things that are shown: the rig then fails.
Needs: Linux, Python 3.11, the release binary. Exit 0: held; 1: did not.
"""
import argparse
import asyncio
import collections
import datetime
import email.utils
import json
import math
import random
import shutil
import sys
import time

import common

NAMES = ("down", "left", "right")
WAYS = ("refused", "503", "hangs")
SENDERS = 8
CONCURRENCY = 32
PROBES = 3
ANSWER_S = 0.02
TIMEOUT_S = 1.0
KEPT_MIN = 0.95
# What may pass between what the daemon decides and what is seen of it, with two busy cores.
NOTICE_S = 0.25
# Between the daemon's milliseconds and ours.
ROUNDING_S = 0.005


class Receiver:
    """One destination. `way` is how it is down, or None; `wish` what it asks for."""

    def __init__(self, port):
        self.port = port
        self.server = common.Destination(self.receive, self.settled)
        self.way = self.wish = None
        self.under_way = {}         # id(request) -> its interaction, until it is answered
        self.arrivals = []          # (time, requests under way with this one)
        self.last = {}              # interaction -> its last number that was answered 200
        self.delivered = 0
        self.again = 0
        self.unanswered = 0         # requests that did not end in a 200
        self.spent = 0              # failed attempts of what was delivered, as Holdline-Attempt tells
        self.faults = []

    def receive(self, request):
        data = json.loads(request.body)["data"]
        if self.way in (None, "503") and data["interactionId"] in self.under_way.values():
            self.faults.append(f"{data['id']} came while another of its interaction was being answered")
        self.under_way[id(request)] = data["interactionId"]
        self.arrivals.append((time.time(), len(self.under_way)))
        if self.wish:
            return common.Reply(503, self.wish.headers())
        match self.way:
            case "503":
                return common.Reply(503, delay=ANSWER_S)
            case "refused":
                return common.Reply(200, cut="before")
            case "hangs":
                del self.under_way[id(request)]
                return common.Reply(200, delay=TIMEOUT_S + 0.5, cut="before")
        return common.Reply(200, delay=ANSWER_S)

    def settled(self, request, reply):
        self.under_way.pop(id(request), None)
        if self.wish and reply.status == 503:
            self.wish.asked()
        if reply.status != 200 or reply.cut:
            self.unanswered += 1
            return
        event = json.loads(request.body)["data"]
        last = self.last.get(event["interactionId"], 0)
        if event["n"] <= last:
            self.again += 1
            return
        if event["n"] > last + 1:
            self.faults.append(f"{event['id']} was delivered after number {last} of its interaction")
        self.last[event["interactionId"]] = event["n"]
        self.delivered += 1
        self.spent += int(request.headers["holdline-attempt"]) - 1

    async def go_down(self, way):
        self.way = way
        if way == "refused":
            await asyncio.sleep(3 * ANSWER_S)    # what had come is answered
            self.server.go_away()

    async def come_up(self):
        if self.way == "refused":
            await self.server.listen(self.port)
        self.way = None


class Wish:
    """A `Retry-After`: of so many seconds from each answer on, or until a date."""

    def __init__(self, form, seconds):
        self.form, self.seconds = form, seconds
        self.first = self.until = None
        self.date = math.ceil(time.time() + seconds)

    def headers(self):
        if self.form == "seconds":
            return (f"Retry-After: {self.seconds}",)
        return (f"Retry-After: {email.utils.formatdate(self.date, usegmt=True)}",)

    def asked(self):
        now = time.time()
        self.first = self.first or now
        self.until = max(self.until or 0, now + self.seconds) if self.form == "seconds" else self.date


class Load:
    """Senders that post at a steady rate in all, each its own interactions."""

    def __init__(self, port, rate, rng):
        self.port, self.rate = port, rate
        self.stories = [common.Story(str(i), random.Random(rng.random()), (200, 2000)) for i in range(SENDERS)]
        self.accepted = collections.Counter()      # interaction -> events
        self.tasks = []

    async def send(self, story, stop):
        sender, begin, n = common.Sender(self.port), time.monotonic(), 0
        while not stop.is_set():
            _, interaction, _, body = story.next()
            await sender.post_until_accepted(body)
            self.accepted[interaction] += 1
            n += 1
            await asyncio.sleep(max(0, begin + n * SENDERS / self.rate - time.monotonic()))
        sender.close()

    def start(self):
        self.stop = asyncio.Event()
        self.tasks = [asyncio.create_task(self.send(story, self.stop)) for story in self.stories]

    async def end(self):
        self.stop.set()
        await asyncio.gather(*self.tasks)


class Watch:
    """What the admin API says of the one destination, again and again."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.seen = []              # (time, breaker state, since, until, attempts, depth)
        self.task = asyncio.create_task(self.watch())

    def look(self):
        at = time.time()
        # before the state: in between it may turn
        attempts = sum(self.daemon.attempts("down").values())
        item = self.daemon.ask_json("/v1/destinations/down")
        breaker = item["breaker"]
        return (at, breaker["state"], seconds(breaker["since"]), seconds(breaker["until"]), attempts,
                item["queue"]["depth"])

    async def watch(self):
        while True:
            self.seen.append(await asyncio.to_thread(self.look))
            await asyncio.sleep(0.05)

    async def until(self, state, after, limit):
        """Waits until it is seen in this state -> since when."""
        end = time.time() + limit
        while time.time() < end:
            if self.task.done():
                self.task.result()
            for at, seen, since, *_ in reversed(self.seen):
                if at > after and seen == state:
                    return since
            await asyncio.sleep(0.02)
        raise common.RigError(f"the breaker was not {state} within {limit} s")


def seconds(rfc3339):
    return datetime.datetime.fromisoformat(rfc3339).timestamp() if rfc3339 else 0.0


class Rig:
    def __init__(self, options, workdir):
        self.options, self.rng = options, random.Random(options.seed)
        self.ports = common.free_ports(5)
        self.receivers = {name: Receiver(port) for name, port in zip(NAMES, self.ports[2:])}
        self.write_config(workdir)
        self.daemon = common.Daemon(common.find_binary(options.bin), ["--config", workdir / "holdline.toml"],
                                    workdir / "data", self.ports[1], workdir / "daemon.log", env={"HOLDLINE_LOG": "warn"})
        self.load = Load(self.ports[0], options.rate, self.rng)
        self.faults = []

    def write_config(self, workdir):
        o = self.options
        ramp = 0 if o.without == "ramp" else o.ramp
        min_calls = 1_000_000 if o.without == "breaker" else 10
        settings = {
            "timeout": f'"{TIMEOUT_S:.0f}s"',
            "concurrency": f'{{ max = {CONCURRENCY}, adaptive = false, ramp_up = "{ramp}s" }}',
            "retry": '{ base = "200ms", max = "2s", attempts = 40, retry_after_max = "%s" }'
                     % ("1s" if o.without == "hold" else "1h"),
            "breaker": f'{{ window = "2s", min_calls = {min_calls}, open_duration = "{o.open_for}s", probes = {PROBES} }}',
            "ordering": '{ mode = "%s" }' % ("none" if o.without == "order" else "interaction"),
        }
        destinations = [{"name": f'"{name}"', "url": f'"http://127.0.0.1:{r.port}/events"', **settings}
                        for name, r in self.receivers.items()]
        common.write_config(workdir / "holdline.toml", intake=self.ports[0], admin=self.ports[1],
                            data=workdir / "data", destination=destinations)

    def fault(self, what):
        self.faults.append(what)

    def mark(self):
        return time.monotonic(), {name: r.delivered for name, r in self.receivers.items()}

    @staticmethod
    def rates(before, after):
        return {name: (after[1][name] - before[1][name]) / (after[0] - before[0]) for name in NAMES}

    async def until_drained(self):
        status = await self.daemon.until_drained(60)
        if status["queue"]["depth"]:
            raise common.RigError(f"{status['queue']['depth']} deliveries still wait after a minute")

    # ---- an outage -------------------------------------------------------------------------------------------------

    async def outage(self, way):
        """Down and up again -> (row, ramp as rows)."""
        o, down = self.options, self.receivers["down"]
        failed, unanswered, spent = self.failed(), down.unanswered, down.spent
        self.load.start()
        await asyncio.sleep(1)
        start = self.mark()
        await asyncio.sleep(o.before)
        fell, at = self.mark(), time.time()
        watch = Watch(self.daemon)
        try:
            await down.go_down(way)
            opened = await watch.until("open", at, o.outage)
            await asyncio.sleep(max(0, o.outage - (time.time() - at)))
            end, up = self.mark(), time.time()
            backlog = watch.seen[-1][5]
            await down.come_up()
            closed = await watch.until("closed", up, 2 * o.open_for + 5)
            await asyncio.sleep(o.ramp + 1)
            await self.load.end()
            await self.until_drained()
        finally:
            watch.task.cancel()
        before, during = self.rates(start, fell), self.rates(fell, end)
        kept = {name: during[name] / before[name] for name in NAMES[1:]}
        for name, share in kept.items():
            if share < KEPT_MIN:
                self.fault(f"{way}: {name} kept {share:.0%} of its rate")
        self.judge_open(way, watch.seen, at, up)
        failed, unanswered, spent = self.failed() - failed, down.unanswered - unanswered, down.spent - spent
        if spent != failed or way != "refused" and failed != unanswered:
            self.fault(f"{way}: {spent} attempts spent, {failed} counted as failed, {unanswered} requests that failed")
        ramp, above = self.judge_ramp(way, up, closed)
        openings = len({since for _, state, since, *_ in watch.seen if state == "open"})
        return {
            "destination": way, "others before": per_second(before), "during": per_second(during),
            "kept": f"{min(kept.values()):.0%}", "opened after": f"{opened - at:.1f} s",
            "openings": openings, "attempts spent": spent, "backlog": backlog,
            "closed after": f"{closed - up:.1f} s", "above the ramp": above}, ramp

    def failed(self):
        """Attempts that failed, as the daemon counts them; before any kill."""
        delivered = self.daemon.ask_json("/v1/destinations/down")["counters"]["delivered"]
        return sum(self.daemon.attempts("down").values()) - delivered

    def judge_open(self, way, seen, fell, up):
        """Nothing is sent while the breaker is open, and no attempt counted once what was under way has ended."""
        arrivals = [at for at, _ in self.receivers["down"].arrivals if at >= fell]
        spans = {(since, until) for _, state, since, until, *_ in seen if state == "open"}
        for since, until in spans:
            early = [at for at in arrivals if since + NOTICE_S < at < until - ROUNDING_S]
            if early:
                self.fault(f"{way}: {len(early)} requests while the breaker was open, one {early[0] - since:.2f} s after")
            counts = [attempts for at, state, s, _, attempts, _ in seen
                      if state == "open" and s == since and at > since + TIMEOUT_S + NOTICE_S]
            if counts and counts[-1] != counts[0]:
                self.fault(f"{way}: {counts[-1] - counts[0]} attempts were counted while the breaker was open")

    def permitted(self, closed, at):
        """Requests at once that the settings allow then: the probes, and from the closing on the ramp."""
        if at < closed:
            return PROBES
        return min(CONCURRENCY, 1 + int((CONCURRENCY - 1) * (at - closed) / self.options.ramp))

    def judge_ramp(self, way, up, closed):
        """(Rows per second since the breaker closed, requests above what was permitted)"""
        arrivals = [(at, n) for at, n in self.receivers["down"].arrivals if at >= up]
        # the daemon began the request a moment before it was seen here
        above = [(at, n) for at, n in arrivals if n > self.permitted(closed, at + ROUNDING_S)]
        if above:
            at, n = above[0]
            self.fault(f"{way}: {n} requests at once {at - closed:.2f} s after the breaker closed, "
                       f"{self.permitted(closed, at)} permitted")
        rows = []
        for second in range(math.ceil(self.options.ramp) + 1):
            begin, end = closed + second, closed + second + 1
            here = [n for at, n in arrivals if begin <= at < end]
            # each answer takes so long, so that a place serves so many in a second
            steps = [self.permitted(closed, begin + i / 100) for i in range(100)]
            most = int(sum(steps) / 100 / ANSWER_S) + self.permitted(closed, end)
            if len(here) > most:
                self.fault(f"{way}: {len(here)} requests in second {second} after the breaker closed, {most} permitted")
            rows.append({"destination": way, "second": second, "permitted at once": self.permitted(closed, end),
                         "at once": max(here, default=0), "permitted/s": most, "requests/s": len(here)})
        return rows, len(above)

    # ---- Retry-After -----------------------------------------------------------------------------------------------

    async def retry_after(self, form):
        """A wait, with a kill in the middle -> row."""
        o, down = self.options, self.receivers["down"]
        self.load.start()
        await asyncio.sleep(1)
        start = self.mark()
        await asyncio.sleep(o.before)
        down.wish = wish = Wish(form, o.wait)
        while not wish.first:
            await asyncio.sleep(0.01)
        asked = self.mark()
        accepted = sum(self.load.accepted.values())
        await asyncio.sleep(o.wait * 0.4)
        await asyncio.to_thread(self.daemon.kill)
        killed = time.monotonic()
        self.daemon.start()
        await self.daemon.until_ready()
        away = time.monotonic() - killed
        await asyncio.sleep(max(0, wish.until - time.time() - 0.02))
        end, accepted = self.mark(), sum(self.load.accepted.values()) - accepted
        down.wish = None
        late = await self.first_after(wish.until)
        await self.load.end()
        await self.until_drained()
        notice = wish.first + NOTICE_S
        early = [at for at, _ in down.arrivals if notice < at < wish.until - ROUNDING_S]
        if early:
            self.fault(f"Retry-After ({form}): {len(early)} requests within the wait, the first "
                       f"{wish.until - early[0]:.2f} s early")
        before = self.rates(start, asked)
        kept = min((end[1][name] - asked[1][name]) / accepted for name in NAMES[1:])
        if kept < KEPT_MIN:
            self.fault(f"Retry-After ({form}): the others had {kept:.0%} of what was accepted in the wait")
        return {
            "Retry-After": form, "wait": f"{wish.until - wish.first:.1f} s", "killed after": f"{o.wait * 0.4:.1f} s",
            "away": f"{away:.2f} s", "requests within": len(early), "first after the wait": f"{late:.2f} s",
            "others before": per_second(before), "of the accepted, others had": f"{kept:.0%}"}

    async def first_after(self, until):
        """Seconds from the end of the wait to the first request."""
        while time.time() < until + 10:
            for at, _ in self.receivers["down"].arrivals[-200:]:
                if at >= until - ROUNDING_S:
                    return at - until
            await asyncio.sleep(0.01)
        raise common.RigError("no request came within 10 s after the wait")

    # ---- all of it -------------------------------------------------------------------------------------------------

    async def run(self):
        """(rows of outages, rows of ramps, rows of waits, the last status)"""
        outages, ramps, waits = [], [], []
        try:
            for receiver in self.receivers.values():
                await receiver.server.listen(receiver.port)
            self.daemon.start()
            await self.daemon.until_ready()
            for way in WAYS:
                row, ramp = await self.outage(way)
                outages.append(row)
                ramps += ramp
                common.print_table([row])
            for form in ("seconds", "date"):
                waits.append(await self.retry_after(form))
                common.print_table(waits[-1:])
            status = await asyncio.to_thread(self.daemon.status)
        finally:
            self.daemon.kill()
            for receiver in self.receivers.values():
                await receiver.server.close()
        return outages, ramps, waits, status

    def judge_ledgers(self, status):
        """(lost, out of order, delivered again)"""
        lost = again = disorder = 0
        accepted = self.load.accepted
        for name, receiver in self.receivers.items():
            missing = sum(n - receiver.last.get(interaction, 0) for interaction, n in accepted.items())
            if missing:
                self.fault(f"{name}: {missing} accepted events were not delivered")
            disorder += len(receiver.faults)
            self.faults += [f"{name}: {fault}" for fault in receiver.faults]
            lost, again = lost + max(missing, 0), again + receiver.again
        # two kills, each of which may forget what was under way to three destinations and not yet written
        if again > 2 * len(NAMES) * 8 * CONCURRENCY:
            self.fault(f"{again} delivered again")
        if status["dlq"]["depth"] or status["counters"]["accepted"] != sum(accepted.values()):
            self.fault(f"{sum(accepted.values())} acknowledged, but {status['counters']} and {status['dlq']}")
        return lost, disorder, again


def per_second(rates):
    return " / ".join(f"{rates[name]:.0f}" for name in NAMES[1:]) + " /s"


def run(options):
    workdir = common.make_workdir(options.workdir, "outage")
    rig = Rig(options, workdir)
    try:
        outages, ramps, waits, status = asyncio.run(rig.run())
    finally:
        shutil.rmtree(workdir)
    lost, disorder, again = rig.judge_ledgers(status)
    print(f"{CONCURRENCY} requests at once, a ramp of {options.ramp} s, {PROBES} probes, open for {options.open_for} s")
    for rows in (outages, ramps, waits):
        common.print_table(rows)
    common.print_faults("faults", rig.faults)
    common.print_row(harness="outage", seed=options.seed, acknowledged=sum(rig.load.accepted.values()), lost=lost,
                     **{"out of order": disorder, "delivered again": again, "verdict": "FAILED" if rig.faults else "held"})
    common.print_result("outage", "a destination is down", "FAILED" if rig.faults else "held", n=len(outages),
                        seed=options.seed, acknowledged=sum(rig.load.accepted.values()), lost=lost, duplicated=again,
                        out_of_order=disorder)
    return 1 if rig.faults else 0


def parse_arguments():
    p = argparse.ArgumentParser(description="take one of three destinations down (see the file's head)")
    p.add_argument("--bin", help="default: target/release/holdline")
    p.add_argument("--rate", type=float, default=200.0, help="events per second")
    p.add_argument("--before", type=float, default=10.0, help="seconds before each outage")
    p.add_argument("--outage", type=float, default=20.0, help="seconds of each outage")
    p.add_argument("--open-for", type=int, default=3, help="seconds, the breaker's setting")
    p.add_argument("--ramp", type=int, default=10, help="seconds, the setting")
    p.add_argument("--wait", type=int, default=15, help="seconds of Retry-After")
    p.add_argument("--seed", type=int, default=3100)
    p.add_argument("--short", action="store_true", help="100 events/s, outages of 5 seconds, waits of 4")
    p.add_argument("--without", choices=("breaker", "ramp", "order", "hold"), help="the rig then fails")
    p.add_argument("--workdir", help="a folder on a real disk; default: the target folder")
    options = p.parse_args()
    if options.short:
        options.rate, options.before, options.outage = 100.0, 2.0, 5.0
        options.open_for, options.ramp, options.wait = 2, 3, 4
    return options


if __name__ == "__main__":
    arguments = parse_arguments()
    sys.exit(common.run_rig("outage", lambda: run(arguments), arguments.seed))
