"""Records of what senders and a destination observed, and the check of these records.

Shared by the rigs that disturb a running daemon (killloop, longhaul, scarce, clock). A sender posts the next event of an
interaction only after the previous one was acknowledged, and repeats an event after a cut connection. The destination
answers most requests with 200 and the others at random.
"""
import asyncio
import bisect
import collections
import dataclasses
import json
import time

import common

# Maximum number of recorded results that are not durable while deliveries still begin, as in src/store/write/shared.rs.
BEHIND_MAX = 512
RETRY_AFTER_S = 1
# Permitted time between the destination's answer and the daemon's reading of it, with two busy cores; plus LATE_COUNTS times
# the delay of this rig at that time, since the load that delays the rig delays the daemon, too.
NOTICE_S = 0.25
LATE_COUNTS = 3
FAULTS = {"400": 0.003, "503": 0.02, "cut before answer": 0.01, "cut after answer": 0.005, "slow": 0.02}
# A Retry-After answer blocks the whole destination for a second: one in so many answers, and a pause after each.
HOLDS_SHARE, HOLDS_PAUSE_S = 0.005, 4.0


@dataclasses.dataclass(slots=True)
class Accepted:
    """An acknowledged event, as the sender knows it."""
    id: str
    digest: str
    interaction: str
    n: int


@dataclasses.dataclass(slots=True)
class Receipt:
    """One request that reached the destination."""
    at: float
    life: int
    event_id: str
    interaction: str
    n: int
    key: str
    sequence: int
    digest: str
    resolved: bool = False    # answered 2xx
    dead: bool = False        # answered 400: a dead letter
    redriven: bool = False    # an operator sent it again, so it may be late
    ambiguous: bool = False   # answered 2xx, but the answer may not have arrived
    unique: bool = True       # no other event of its interaction was in progress


class Ledgers:
    """All observations. A life is one run of the daemon, ended by a kill."""

    def __init__(self):
        self.accepted = {}
        self.receipts = []
        self.life = 0
        self.kills = []       # time of the kill that ended life i
        self.holds = []       # (time, life) of each answer with Retry-After
        self.faults = collections.Counter()
        self.late = []        # (time, seconds) at which this rig woke up late

    async def watch_lateness(self):
        while True:
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            if time.monotonic() - due > 0.02:
                self.late.append((time.monotonic(), time.monotonic() - due))

    def notice(self, at):
        """Seconds after `at` until the daemon must have read an answer."""
        return NOTICE_S + LATE_COUNTS * max((by for when, by in self.late if at - 0.1 < when < at + 1), default=0)

    def acknowledge(self, answer, event_id, interaction, n, body):
        self.accepted[event_id] = Accepted(answer["id"], common.digest(body), interaction, n)


class Receiver:
    """The destination: answers at random, and records the requests."""

    def __init__(self, ledgers, rng):
        self.ledgers, self.rng = ledgers, rng
        self.next_hold = 0.0
        self.mended = False       # no more dead letters
        self.in_progress = {}     # interaction -> its receipt that is not yet answered
        self.receipts = {}        # id(request) -> its receipt

    def receive(self, request):
        event = json.loads(request.body)
        data, headers = event["data"], request.headers
        receipt = Receipt(time.monotonic(), self.ledgers.life, event["eventId"], data["interactionId"], data["n"],
                          headers.get("idempotency-key", ""), int(headers.get("holdline-sequence", 0)),
                          common.digest(request.body), redriven="holdline-redriven" in headers)
        before = self.in_progress.get(receipt.interaction)
        receipt.unique = before is None or before.life != receipt.life
        self.in_progress[receipt.interaction] = receipt
        self.receipts[id(request)] = receipt
        self.ledgers.receipts.append(receipt)
        return self.reply()

    def reply(self):
        fault = self.draw()
        if fault:
            self.ledgers.faults[fault] += 1
        match fault:
            case "400":
                return common.Reply(400)
            case "503":
                return common.Reply(503)
            case "429":
                return common.Reply(429, (f"Retry-After: {RETRY_AFTER_S}",))
            case "cut before answer":
                return common.Reply(200, cut="before")
            case "cut after answer":
                return common.Reply(200, cut="after")
            case "slow":
                return common.Reply(200, delay=self.rng.uniform(0.005, 0.1))
        return common.Reply(200)

    def draw(self):
        if time.monotonic() > self.next_hold and self.rng.random() < HOLDS_SHARE:
            self.next_hold = time.monotonic() + HOLDS_PAUSE_S
            return "429"
        dice = self.rng.random()
        for fault, share in FAULTS.items():
            if dice < share:
                return None if fault == "400" and self.mended else fault
            dice -= share
        return None

    def settled(self, request, reply):
        receipt = self.receipts.pop(id(request))
        if self.in_progress.get(receipt.interaction) is receipt:
            del self.in_progress[receipt.interaction]
        if reply.status == 200 and reply.cut != "before":
            receipt.resolved, receipt.ambiguous = True, reply.cut == "after"
        receipt.dead = reply.status == 400
        if reply.status == 429:
            self.ledgers.holds.append((time.monotonic(), receipt.life))


async def always():
    """Always permits the next event."""


async def send(port, story, ledgers, stop, room=always):
    """One sender: posts its events in bursts, each until it is acknowledged; waits for `room` before each."""
    sender = common.Sender(port)
    while not stop.is_set():
        await room()
        event_id, interaction, n, body = story.next()
        answer = await sender.post_until_accepted(body)
        ledgers.acknowledge(answer, event_id, interaction, n, body)
        if story.rng.random() < 0.05:
            await asyncio.sleep(story.rng.uniform(0.05, 0.15))
    sender.close()


# ---- the checks ------------------------------------------------------------------------------------------------

def judge_contents(ledgers, faults):
    """No event is lost or changed, and each has one key."""
    resolved, sequences = set(), {}
    for r in ledgers.receipts:
        if r.resolved:
            resolved.add(r.event_id)
        accepted = ledgers.accepted.get(r.event_id)
        if accepted is None:
            faults["unknown"].append(f"{r.event_id} was delivered, and never acknowledged")
        elif r.digest != accepted.digest:
            faults["changed"].append(f"{r.event_id} arrived with another body")
        elif r.key != accepted.id:
            faults["key"].append(f"{r.event_id} was acknowledged as {accepted.id} and delivered as {r.key}")
        if sequences.setdefault(r.event_id, r.sequence) != r.sequence:
            faults["sequence"].append(f"{r.event_id} had the sequences {sequences[r.event_id]} and {r.sequence}")
    faults["lost"] += [f"{e} ({a.id}) was acknowledged and not delivered" for e, a in ledgers.accepted.items()
                       if e not in resolved]


def judge_order(ledgers, faults):
    """Within an interaction: no event starts before the previous one is resolved, none overlap, and none go backwards in one
    life."""
    resolved = collections.defaultdict(int)      # interaction -> counter up to which all are resolved
    done = set()
    latest = {}                                  # (life, interaction) -> (counter, sequence)
    for r in ledgers.receipts:
        n, sequence = latest.get((r.life, r.interaction), (0, 0))
        if r.redriven:
            if not r.unique:
                faults["order"].append(f"{r.event_id} was redriven while another of its interaction was being answered")
        elif r.n < n:
            faults["order"].append(f"{r.event_id} came after number {n} of its interaction, in life {r.life}")
        elif r.n > n and r.sequence <= sequence:
            faults["sequence"].append(f"{r.event_id} has sequence {r.sequence}, the one before it {sequence}")
        elif r.n > resolved[r.interaction] + 1:
            faults["order"].append(f"{r.event_id} came when only {resolved[r.interaction]} were resolved")
        elif not r.unique:
            faults["order"].append(f"{r.event_id} came while another of its interaction was being answered")
        if not r.redriven:
            latest[r.life, r.interaction] = max((r.n, r.sequence), (n, sequence))
        if r.resolved or r.dead:
            done.add((r.interaction, r.n))
            while (r.interaction, resolved[r.interaction] + 1) in done:
                resolved[r.interaction] += 1


def judge_duplicates(ledgers, faults, options):
    """Repeated deliveries: only after a kill or a cut -> (number, most for one kill, longest time whose results were
    lost)."""
    last, per_kill, count, forgotten_s = {}, collections.Counter(), 0, 0.0
    for r in ledgers.receipts:
        before = last.get(r.event_id)
        if before and r.resolved:
            count += 1
        if before and not before.ambiguous:
            if before.life == r.life:
                faults["duplicate"].append(f"{r.event_id} was delivered again without a kill, in life {r.life}")
            else:
                per_kill[before.life] += 1
                forgotten_s = max(forgotten_s, ledgers.kills[before.life] - before.at)
        if r.resolved:
            last[r.event_id] = r
    most = max(per_kill.values(), default=0)
    if most > options.duplicates_max:
        faults["duplicate"].append(f"one kill repeated {most} deliveries, more than {options.duplicates_max}")
    if forgotten_s > options.forget_max:
        faults["duplicate"].append(f"a kill forgot a delivery that was {forgotten_s:.2f} s old")
    return count, most, forgotten_s


def judge_holds(ledgers, faults):
    """No request before a `Retry-After` has passed; across a restart only if the daemon had time to record it."""
    receipts = iter(ledgers.receipts)
    r = next(receipts, None)
    for at, life in ledgers.holds:
        notice = ledgers.notice(at)
        while r and r.at <= at + notice:
            r = next(receipts, None)
        unnoted = life < len(ledgers.kills) and ledgers.kills[life] < at + notice
        if r and r.at < at + RETRY_AFTER_S and not unnoted:
            lives = f"asked for in life {life}, broken in life {r.life}"
            faults["early"].append(f"{r.event_id} came {r.at - at:.3f} s after a Retry-After of {RETRY_AFTER_S} s, {lives}")


def judge_pauses(ledgers, faults):
    """No request while the destination was paused, also across kills."""
    for since, until in ledgers.hands.paused:
        first = bisect.bisect_right(ledgers.receipts, since + ledgers.notice(since), key=lambda r: r.at)
        faults["early"] += [f"{r.event_id} came {r.at - since:.3f} s after a pause was answered"
                            for r in ledgers.receipts[first:first + 1] if r.at < until]


def judge_sums(ledgers, status, faults):
    fault = common.sums_fault(status)
    if fault:
        faults["sums"].append(fault)
    if status["queue"]["depth"]:
        faults["sums"].append(f"{status['queue']['depth']} events were still queued at the end")
    if status["counters"]["accepted"] != len(ledgers.accepted):
        counted = status["counters"]["accepted"]
        faults["sums"].append(f"{counted} counted as accepted, {len(ledgers.accepted)} different ones acknowledged")


def judge(ledgers, status, options):
    """All checks; `options` has the limits -> (faults by title, the result of judge_duplicates)."""
    faults = collections.defaultdict(list)
    judge_contents(ledgers, faults)
    judge_order(ledgers, faults)
    duplicates = judge_duplicates(ledgers, faults, options)
    judge_holds(ledgers, faults)
    judge_pauses(ledgers, faults)
    judge_sums(ledgers, status, faults)
    return faults, duplicates
