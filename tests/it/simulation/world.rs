//! One seeded run: senders, destinations, an operator, a dispatcher that drives the scheduler, and the clock.

use super::judge::{Judge, Violation, violation};
use super::rig::{Break, Rig};
use super::settings::{self, Destination, START, Weather};
use super::store::{Arrival, Location, Record, Request, Store};
use super::verdicts::{self, Answers};
use fastrand::Rng;
use holdline::delivery::{DeliveryId, Outcome, Ticket};
use holdline::event::{DestinationId, DestinationSet, Digest64, Sequence};
use holdline::rules::backoff::Retry;
use holdline::rules::breaker::Change;
use holdline::rules::lateness::LateAction;
use holdline::rules::refusals::Refusals;
use holdline::rules::retry_after;
use holdline::rules::verdict::{EndedAttempt, Judgement, Verdict};
use holdline::scheduler::{Start, Step};
use holdline::store::{BreakerOverride, Position, StoreEvent};
use holdline::time::Timestamp;
use std::collections::VecDeque;
use std::time::Duration;

/// With more open deliveries than this, the judge checks only every 64th wait.
const OPEN_MANY: usize = 2000;
/// A time at which no ramp is active.
const RAMPED: Timestamp = Timestamp::NEVER;
/// Number of log lines that a failing seed prints.
const LINES: usize = 40;

/// An attempt in flight.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub start: Start,
    pub began: Timestamp,
    pub ends: Timestamp,
}

/// An attempt that has ended and is recorded, whose result the scheduler does not have yet.
#[derive(Debug)]
pub struct Ended {
    pub start: Start,
    pub judgement: Judgement,
    /// The retry-after time that the destination asked for, even if it is not applied.
    pub asked: Timestamp,
}

#[derive(Debug)]
pub struct Load {
    d: DestinationId,
    from: Sequence,
    read: Option<(Vec<Ticket>, Sequence)>,
}

pub struct World {
    pub rng: Rng,
    pub weather: Weather,
    pub destinations: Vec<Destination>,
    pub broken: Break,
    pub rig: Rig,
    pub store: Store,
    pub judge: Judge,
    /// What each destination answered, in the form of the rule and of the judge.
    pub refusals: Vec<Refusals>,
    pub answers: Vec<Answers>,
    pub now: Timestamp,
    pub flights: Vec<Flight>,
    pub ended: Vec<Ended>,
    pub store_events: VecDeque<StoreEvent>,
    pub loads: Vec<Load>,
    pub wake: Option<Timestamp>,
    pub waits: u64,
    pub starts: u64,
    /// The last steps, if the log is wanted.
    pub log: Option<VecDeque<String>>,
}

impl World {
    pub fn new(seed: u64, broken: Break, log: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let weather = Weather::draw(&mut rng);
        let destinations = settings::destinations(&mut rng);
        let first = Sequence(1);
        Self {
            rig: Rig::new(broken, &destinations, first, first, START),
            rng,
            weather,
            broken,
            store: Store::new(broken == Break::KeepsLastHold),
            judge: Judge::new(&destinations, matches!(broken, Break::Nothing | Break::TakesNoTurns)),
            refusals: vec![Refusals::default(); destinations.len()],
            answers: destinations.iter().map(|_| Answers::default()).collect(),
            now: START,
            flights: Vec::new(),
            ended: Vec::new(),
            store_events: VecDeque::new(),
            loads: Vec::new(),
            wake: None,
            waits: 0,
            starts: 0,
            log: log.then(VecDeque::new),
            destinations,
        }
    }

    pub fn note(&mut self, what: impl FnOnce(&Self) -> String) {
        if let Some(mut log) = self.log.take() {
            log.push_back(format!("{} {}", self.now.0.wrapping_sub(START.0) as i64, what(self)));
            if log.len() > LINES {
                log.pop_front();
            }
            self.log = Some(log);
        }
    }

    pub fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(0..100) < percent
    }

    /// One random step, usually followed by the dispatcher.
    pub fn step(&mut self) -> Result<(), Violation> {
        if self.rng.u16(0..1000) < self.weather.restarts {
            self.restart()?;
        }
        match self.rng.u8(0..100) {
            0..15 => self.arrive(),
            15..35 => {
                let n = self.rng.usize(0..=self.store.pending.len());
                self.commit(n)?;
            }
            35..50 => self.hear_news(),
            50..63 => self.end_an_attempt()?,
            63..73 => self.hear_ended()?,
            73..83 => self.load(),
            83..95 => self.pass_time(),
            95..97 => self.operate(),
            97 => self.set_pace(),
            _ => self.give_up_page()?,
        }
        if self.chance(self.weather.lazy) {
            return Ok(());
        }
        self.dispatch()
    }

    fn arrive(&mut self) {
        if self.store.next.0 > 12_000 {
            return;
        }
        let n = self.rng.usize(1..=self.weather.batch);
        let arrivals: Vec<_> = (0..n).map(|_| self.arrival()).collect();
        self.note(|_| format!("{n} events arrive"));
        self.store.ask(Request::Accept(arrivals));
    }

    fn arrival(&mut self) -> Arrival {
        // a third of all events belong to one hot interaction
        let interaction = if self.rng.u8(0..3) == 0 { 1 } else { self.rng.u64(1..=self.weather.interactions) };
        let order_key = if self.chance(self.weather.unordered) { Digest64::NONE } else { Digest64(interaction) };
        let all = self.destinations.iter().fold(DestinationSet::EMPTY, |set, d| set.with(d.id));
        let some = self.rng.u64(0..=all.0);
        let to = if self.rng.bool() { all } else { DestinationSet(some & all.0) };
        let age = Duration::from_millis(self.rng.u64(0..6000));
        let time = match self.rng.u8(0..8) {
            0 => Timestamp::ZERO,
            1 => self.now.after(age * if self.rng.bool() { 1 } else { 1000 }),
            // some events have the same time
            2 => Timestamp(self.now.before(age).0 / 1000 * 1000),
            _ => self.now.before(age),
        };
        Arrival { order_key, to, received_at: self.now, time, kind: self.rng.usize(0..settings::KINDS.len()) }
    }

    pub fn commit(&mut self, n: usize) -> Result<(), Violation> {
        let first = self.store.next;
        for request in self.store.pending.iter().take(n) {
            match request {
                Request::Hold { destination, until } => self.judge.keeps_hold(*destination, *until),
                Request::Turned { destination, fixed } | Request::Fix { destination, fixed } => {
                    self.judge.past(*destination).keeps_breaker(fixed.as_ref(), self.now);
                }
                Request::Pause { destination, until } => {
                    self.judge.past(*destination).keeps_pause(*until, self.now);
                }
                _ => {}
            }
        }
        let store_events = self.store.commit(n, self.now);
        let store_events =
            store_events.or_else(|id| violation("I8", format!("{id} is not where its transition looks for it")))?;
        self.note(|_| format!("commit {n} requests: {}", store_events.iter().map(told).collect::<Vec<_>>().join(", ")));
        for store_events in &store_events {
            match store_events {
                StoreEvent::Accepted { tickets, .. } => {
                    for ticket in tickets.iter().filter(|t| t.sequence >= first) {
                        let ids =
                            ticket.to.iter().map(|destination| DeliveryId { sequence: ticket.sequence, destination });
                        ids.for_each(|id| self.judge.accepted(id, ticket));
                    }
                }
                StoreEvent::Redriven(tickets) => tickets.iter().for_each(|t| self.judge.forgiven(id_of(t))),
                StoreEvent::Discarded(_)
                | StoreEvent::RetryNow(_)
                | StoreEvent::Paused(..)
                | StoreEvent::Breaker(..) => {}
            }
        }
        self.store_events.extend(store_events);
        Ok(())
    }

    pub fn hear_news(&mut self) {
        let Some(store_events) = self.store_events.pop_front() else { return };
        self.note(|_| format!("hear {}", told(&store_events)));
        match store_events {
            StoreEvent::Accepted { tickets, next } => self.rig.accepted(&tickets, next),
            StoreEvent::Redriven(tickets) => {
                for ticket in tickets {
                    self.rig.redriven(id_of(&ticket).destination, &ticket);
                    self.judge.hears_redriven(id_of(&ticket));
                }
            }
            StoreEvent::RetryNow(_) => {}
            StoreEvent::Paused(d, pause) => {
                let until = pause.map(|pause| pause.until);
                self.rig.paused(d, until, self.now);
                self.judge.pacer(d).paused(until, self.now);
            }
            StoreEvent::Breaker(d, fixed) => {
                self.rig.fixed(d, fixed.as_ref(), self.now);
                self.judge.pacer(d).fixed(fixed.as_ref(), self.now);
            }
            StoreEvent::Discarded(ids) => {
                for (id, order_key) in ids {
                    // the store cannot tell the interaction of a damaged dead letter
                    let order_key = if self.rng.u8(0..8) == 0 { Digest64::NONE } else { order_key };
                    self.rig.purged(id.destination, order_key, id.sequence);
                    self.judge.hears_purged(id);
                }
            }
        }
    }

    fn end_an_attempt(&mut self) -> Result<(), Violation> {
        let over: Vec<usize> = (0..self.flights.len()).filter(|i| self.flights[*i].ends <= self.now).collect();
        let Some(i) = self.rng.choice(over) else { return Ok(()) };
        if self.rng.u8(0..8) == 0 {
            self.postpone(i);
            return Ok(());
        }
        let outcome = if self.chance(self.weather.failing) { self.failure() } else { (Outcome::Answered(200), None) };
        self.land(i, outcome)
    }

    /// The attempt finds at the last moment that nothing may be sent.
    fn postpone(&mut self, flight: usize) {
        let start = self.flights.swap_remove(flight).start;
        self.note(|_| format!("{}/{} is postponed", start.sequence, start.destination.0));
        self.judge.takes_back(DeliveryId { sequence: start.sequence, destination: start.destination });
        self.ended.push(Ended { start, judgement: Judgement::postponed(None), asked: Timestamp::ZERO });
    }

    fn failure(&mut self) -> (Outcome, Option<Duration>) {
        let wish = Duration::from_millis(self.rng.u64(0..900_000));
        match self.rng.u8(0..10) {
            0..4 => (Outcome::Answered(503), None),
            4 => (Outcome::Answered(503), Some(wish / 30)),
            5 => (Outcome::Answered(429), Some(wish)),
            6 => {
                let status = [400, 422, 404, 302][self.rng.usize(0..4)];
                (Outcome::Answered(status), Some(wish).filter(|_| self.rng.u8(0..4) == 0))
            }
            7 => (Outcome::TimedOut, None),
            8 => (Outcome::NotConnected, None),
            _ => (Outcome::Broken, None),
        }
    }

    /// An attempt ends: it is judged and recorded; the scheduler learns of it later.
    pub fn land(&mut self, flight: usize, reply: (Outcome, Option<Duration>)) -> Result<(), Violation> {
        let Flight { start, began, .. } = self.flights.swap_remove(flight);
        let id = DeliveryId { sequence: start.sequence, destination: start.destination };
        let (outcome, retry_after) = reply;
        let record = self.store.live[&id];
        let tried_at = record.tried_at.unwrap_or(began);
        let since = if record.redriven { tried_at } else { record.received_at };
        let d = usize::from(id.destination.0);
        let to = &self.destinations[d];
        let retry = &to.retry;
        let wished = retry_after.map(|wish| retry_after::grant(wish, retry.retry_after_max, self.now));
        let ended = EndedAttempt {
            id,
            interaction: if record.order_key.is_none() { Digest64(id.sequence.0) } else { record.order_key },
            outcome: &outcome,
            retry_after: wished,
            attempts: record.attempts - record.forgiven + 1,
            counted: record.attempts - record.forgiven - record.free,
            refused: record.refused,
            redriven: record.redriven,
            since,
            began,
            now: self.now,
            started: start.at,
            latency: self.now.since(began),
        };
        let judgement = self.rig.judge(to, &mut self.refusals[d], &ended);
        self.answers[d].check(to, &ended, retry_after, &judgement)?;
        let Judgement { verdict, retry_after: wish, .. } = judgement;
        let (free, refused) = (!verdicts::counts(retry, &outcome), verdicts::is_refused(retry, &outcome));
        let (spent, headers) = quota(&mut self.rng, self.weather.quotas && outcome.status().is_some());
        let asked = spent.map_or(Timestamp::ZERO, |spent| granted(spent, retry, self.now));
        let asked = asked.max(wish.map_or(Timestamp::ZERO, |wish| wish.until));
        let hold = wish.into_iter().chain(self.rig.quota(retry, &headers, self.now)).max_by_key(|wish| wish.until);
        self.note(|_| format!("{id} ends: {outcome:?}, Retry-After {retry_after:?}: {verdict:?}, hold {hold:?}"));
        if free {
            self.judge.is_free(id);
        }
        let refused =
            if refused { Some((record.refused.map_or(self.now, |at| at.0), self.now)) } else { record.refused };
        let free = record.free + u32::from(free);
        let failed = Record { attempts: record.attempts + 1, free, refused, tried_at: Some(tried_at), ..record };
        let record = match verdict {
            Verdict::Delivered => Record { location: Location::Delivered, ..record },
            Verdict::Retry { due } => Record { location: Location::Delay(due), ..failed },
            Verdict::Dead(_) => Record { location: Location::Dead, ..failed },
            Verdict::Discarded | Verdict::Postponed => return violation("I8", format!("{id} was sent: {verdict:?}")),
        };
        let from = self.store.live[&id].location;
        if outcome == Outcome::Answered(200) {
            self.judge.succeeded(id)?;
            self.judge.latecomers.delivered(id.destination, &record);
        }
        self.rig.tried(id, &record, self.now);
        self.store.ask(Request::Moved { id, from, record });
        if let Some(hold) = hold {
            self.store.ask(Request::Hold { destination: id.destination, until: hold.until });
        }
        self.ended.push(Ended { start, judgement: Judgement { retry_after: hold, ..judgement }, asked });
        Ok(())
    }

    pub fn hear_ended(&mut self) -> Result<(), Violation> {
        if self.ended.is_empty() {
            return Ok(());
        }
        let Ended { start, judgement, asked } = self.ended.swap_remove(self.rng.usize(0..self.ended.len()));
        let Judgement { verdict, call, retry_after: hold } = judgement;
        let id = DeliveryId { sequence: start.sequence, destination: start.destination };
        self.note(|_| format!("hear that {id} has ended: {verdict:?}, hold {hold:?}"));
        let (d, now) = (id.destination, self.now);
        let under_way = self.judge.in_flight(d);
        let change = self.rig.ended(&start, verdict, call.as_ref(), self.now);
        self.judge.hears_ended(id, verdict);
        let limits = &self.destinations[usize::from(d.0)].policy.limits;
        let limit = self.rig.queue(d).flow().limit(RAMPED);
        self.judge.pacer(d).adaptive.ended(limits, call.as_ref(), under_way, limit, now)?;
        self.judge.pacer(d).ends(limits, id.sequence, call.as_ref(), change, now)?;
        if let Some(change) = change {
            self.note(|_| format!("the breaker of {} changes: {change:?}", d.0));
            let opened = |until| BreakerOverride {
                position: Position::Open,
                who: None,
                reason: String::new(),
                since: now,
                until,
            };
            let fixed = if let Change::Opened { until, .. } = change { Some(opened(until)) } else { None };
            self.store.ask(Request::Turned { destination: d, fixed });
        }
        if let Some(hold) = hold {
            self.rig.hold(id.destination, hold.until);
        }
        self.judge.hears_hold(id.destination, asked);
        Ok(())
    }

    /// A load reads, or its result arrives.
    pub fn load(&mut self) {
        if self.loads.is_empty() {
            return;
        }
        let i = self.rng.usize(0..self.loads.len());
        let (d, from) = (self.loads[i].d, self.loads[i].from);
        let Some((tickets, next)) = self.loads[i].read.take() else {
            let span = self.rng.u64(1..=self.weather.row);
            self.loads[i].read = Some(self.store.waiting(d, from, span));
            return self.note(|_| format!("read for {} from {from}, {span} at most", d.0));
        };
        self.loads.swap_remove(i);
        self.note(|_| format!("loaded for {} up to {next}", d.0));
        self.rig.loaded(d, &tickets, next);
        self.judge.knows(d, next);
    }

    fn pass_time(&mut self) {
        let ends = self.flights.iter().map(|f| f.ends).filter(|ends| *ends > self.now);
        let next = ends.chain(self.wake).min();
        self.now = match next {
            Some(next) if self.rng.u8(0..3) > 0 => next.max(self.now),
            _ => self.now.after(Duration::from_millis(self.rng.u64(0..3000))),
        };
        self.note(|_| "time passes".to_owned());
    }

    /// The operator redrives or purges dead letters, some of them twice, and some deliveries that are no dead letters.
    fn operate(&mut self) {
        let mut ids: Vec<_> = self.store.dead.iter().copied().collect();
        ids.retain(|_| self.rng.bool());
        ids.extend(self.store.durable.keys().next().copied().filter(|_| self.rng.bool()));
        for _ in 0..self.rng.u8(1..3) {
            let purge = self.rng.u8(0..3) == 0;
            self.note(|_| {
                format!(
                    "operator: purge {purge}, {}",
                    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
                )
            });
            self.store.ask(if purge { Request::Purge(ids.clone()) } else { Request::Redrive(ids.clone()) });
            ids.reverse();
        }
    }

    /// The operator pauses or resumes a destination, or sets its breaker.
    fn set_pace(&mut self) {
        let destination = DestinationId(self.rng.u8(0..self.destinations.len() as u8));
        let until = match self.rng.u8(0..8) {
            0 => Timestamp::NEVER,
            _ => self.now.after(Duration::from_millis(self.rng.u64(0..20_000))),
        };
        let who = Some("operator".to_owned());
        let fixed = |position| BreakerOverride { position, who, reason: String::new(), since: START, until };
        let request = match self.rng.u8(0..6) {
            0 | 1 => Request::Pause { destination, until: Some(until) },
            2 => Request::Pause { destination, until: None },
            3 => Request::Fix { destination, fixed: Some(fixed(Position::Open)) },
            4 => Request::Fix { destination, fixed: Some(fixed(Position::Closed)) },
            _ => Request::Fix { destination, fixed: None },
        };
        self.note(|_| format!("operator: {request:?}"));
        self.store.ask(request);
    }

    /// The store compacts its oldest page, once the scheduler knows its content.
    fn give_up_page(&mut self) -> Result<(), Violation> {
        self.dispatch()?;
        let known = self.loads.is_empty() && self.store_events.is_empty() && self.judge.open() < OPEN_MANY;
        if !known && self.broken != Break::GivesUpUnknownPage || self.rng.bool() {
            return Ok(());
        }
        let floor = self.store.floor();
        let ids: Vec<_> = self.store.durable.keys().filter(|id| id.sequence.0 < floor.0 + 3).copied().collect();
        self.note(|_| format!("the page at {floor} is given up"));
        self.store.give_up_page(&ids);
        Ok(())
    }

    /// What the dispatcher does between two messages.
    pub fn dispatch(&mut self) -> Result<(), Violation> {
        let wake = loop {
            match self.rig.poll(self.now) {
                Step::Start(start) => self.start(start)?,
                Step::Wait(wake) => break wake,
            }
        };
        self.wake = wake;
        while let Some((d, from)) = self.rig.next_load() {
            if self.loads.iter().any(|load| load.d == d) || from >= self.store.next {
                return violation("I14", format!("it wants {from} for {} again", d.0));
            }
            self.loads.push(Load { d, from, read: None });
        }
        self.waits += 1;
        if self.judge.open() > OPEN_MANY && !self.waits.is_multiple_of(64) {
            return Ok(());
        }
        let loading = |d: DestinationId| self.loads.iter().any(|load| load.d == d);
        let settled: Vec<bool> =
            self.destinations.iter().map(|d| !loading(d.id) && self.store_events.is_empty()).collect();
        for (d, settled) in self.destinations.iter().zip(&settled) {
            if *settled && self.judge.open() <= OPEN_MANY {
                self.judge.knows(d.id, self.store.next);
            }
            self.judge.pacer(d.id).adaptive.stands(self.rig.queue(d.id).flow().limit(RAMPED))?;
            let (told, counted) = (self.judge.in_flight(d.id), self.rig.queue(d.id).in_flight());
            if told != counted && self.broken == Break::Nothing {
                return violation("concurrency", format!("{told} in flight for {}, but {counted} are counted", d.id.0));
            }
        }
        let limit = |d: &Destination| self.rig.queue(d.id).flow().limit(self.now);
        let limits: Vec<usize> = self.destinations.iter().map(limit).collect();
        self.judge.waits(wake, self.now, &self.destinations, &settled, &limits)
    }

    fn start(&mut self, start: Start) -> Result<(), Violation> {
        self.note(|_| format!("start {}/{} from {:?}", start.sequence, start.destination.0, start.place));
        let to = &self.destinations[usize::from(start.destination.0)];
        self.judge.starts(&start, to, &self.store, self.now)?;
        self.starts += 1;
        if to.policy.limits.records_starts() {
            self.store.sent(start.destination, start.at);
        }
        let id = DeliveryId { sequence: start.sequence, destination: start.destination };
        let record = self.store.live[&id];
        let course = self.rig.course(id, &record, self.now);
        self.judge.latecomers.check(to, id, &record, course, self.now)?;
        match course {
            LateAction::Send | LateAction::SendFlagged => {}
            LateAction::Discard => return self.not_sent(start, record, Location::Discarded, Verdict::Discarded),
            LateAction::DeadLetter(reason) => {
                return self.not_sent(start, record, Location::Dead, Verdict::Dead(reason));
            }
        }
        let latency = Duration::from_millis(self.rng.u64(0..self.weather.latency_ms));
        self.flights.push(Flight { start, began: self.now, ends: self.now.after(latency) });
        Ok(())
    }

    /// A late delivery ends without an attempt.
    fn not_sent(
        &mut self,
        start: Start,
        record: Record,
        location: Location,
        verdict: Verdict,
    ) -> Result<(), Violation> {
        let id = DeliveryId { sequence: start.sequence, destination: start.destination };
        self.note(|_| format!("{id} is not sent, and {location:?}"));
        self.judge.takes_back(id);
        self.store.ask(Request::Moved { id, from: record.location, record: Record { location, ..record } });
        let judgement = Judgement::without_call(verdict);
        self.ended.push(Ended { start, judgement, asked: Timestamp::ZERO });
        Ok(())
    }
}

/// Occasionally the rest of a quota, in one of the known header formats, and for how long it is used up.
fn quota(rng: &mut Rng, told: bool) -> (Option<Duration>, Vec<(&'static str, String)>) {
    if !told || rng.u8(0..12) > 0 {
        return (None, Vec::new());
    }
    let (left, seconds) = (rng.u8(0..2), rng.u64(0..40));
    let headers = match rng.u8(0..4) {
        0 => vec![("x-ratelimit-remaining", left.to_string()), ("x-ratelimit-reset", seconds.to_string())],
        1 => vec![("ratelimit", format!("limit=9, remaining={left}, reset={seconds}"))],
        2 => vec![("ratelimit", format!("\"minute\";r=7;t=60, \"day\";r={left};t={seconds}"))],
        _ => vec![
            ("inin-ratelimit-count", (300 - u16::from(left)).to_string()),
            ("inin-ratelimit-allowed", "300".to_owned()),
            ("inin-ratelimit-reset", seconds.to_string()),
        ],
    };
    (Some(Duration::from_secs(seconds)).filter(|_| left == 0), headers)
}

/// One millisecond more than requested, since the response arrived within one.
fn granted(wish: Duration, retry: &Retry, now: Timestamp) -> Timestamp {
    now.after(wish.min(retry.retry_after_max)).after(Duration::from_millis(1))
}

/// A store event in short: `sequence:interaction>destinations`.
fn told(store_events: &StoreEvent) -> String {
    let ticket = |t: &Ticket| format!("{}:{}>{:b}", t.sequence, t.order_key.0, t.to.0);
    match store_events {
        StoreEvent::Accepted { tickets, .. } => {
            format!("accepted {}", tickets.iter().map(ticket).collect::<Vec<_>>().join(" "))
        }
        StoreEvent::Redriven(tickets) => {
            format!("redriven {}", tickets.iter().map(ticket).collect::<Vec<_>>().join(" "))
        }
        StoreEvent::Paused(d, pause) => format!("paused {} {:?}", d.0, pause.as_ref().map(|p| p.until)),
        StoreEvent::Breaker(d, fixed) => format!("breaker {} {:?}", d.0, fixed.as_ref().map(|f| (f.position, f.until))),
        StoreEvent::RetryNow(ids) => format!("hastened {}", ids.len()),
        StoreEvent::Discarded(ids) => {
            format!("purged {}", ids.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(" "))
        }
    }
}

fn id_of(ticket: &Ticket) -> DeliveryId {
    let destination = ticket.to.iter().next().expect("a redriven delivery has a destination");
    DeliveryId { sequence: ticket.sequence, destination }
}
