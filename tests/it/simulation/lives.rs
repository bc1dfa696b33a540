//! The ends of runs: crashes, graceful stops, the state after a restart; and the drain at the end, when failures have
//! stopped.

use super::judge::{Violation, violation};
use super::rig::Rig;
use super::settings;
use super::store::{Location, Request};
use super::verdicts::Answers;
use super::world::World;
use holdline::delivery::{DeliveryId, Outcome};
use holdline::rules::refusals::Refusals;
use holdline::scheduler::DeadLetters;
use holdline::store::BreakerOverride;
use holdline::time::Timestamp;
use std::time::Duration;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

impl World {
    /// The process stops gracefully or crashes, and starts again; the system clock may have been changed meanwhile.
    pub fn restart(&mut self) -> Result<(), Violation> {
        if self.rng.bool() {
            self.stop()?;
        }
        self.die();
        let jump = match self.rng.u8(0..6) {
            0 => YEAR,
            1 => Duration::from_secs(self.rng.u64(0..7200)),
            _ => Duration::ZERO,
        };
        self.now = if self.rng.bool() { self.now.after(jump) } else { self.now.before(jump) };
        self.now = self.now.after(Duration::from_millis(self.rng.u64(0..20_000)));
        let before = self.destinations.clone();
        if self.rng.bool() {
            settings::edit(&mut self.rng, &mut self.destinations);
        }
        self.rise(&before);
        Ok(())
    }

    /// A graceful stop: most attempts in flight end in time, and everything recorded is committed.
    pub fn stop(&mut self) -> Result<(), Violation> {
        self.note(|_| "stop in order".to_owned());
        for i in (0..self.flights.len()).rev() {
            if self.rng.u8(0..4) > 0 {
                self.now = self.now.max(self.flights[i].ends);
                self.land(i, (Outcome::Answered(200), None))?;
                self.hear_ended()?;
            }
        }
        self.commit(self.store.pending.len())
    }

    /// Everything in memory is lost.
    fn die(&mut self) {
        self.note(|_| "the process ends".to_owned());
        for flight in std::mem::take(&mut self.flights) {
            let id = DeliveryId { sequence: flight.start.sequence, destination: flight.start.destination };
            let received = self.rng.bool();
            self.judge.cut_off(id, received);
        }
        for (id, was, is) in self.store.crash() {
            self.judge.forgets(id, was, is);
        }
        self.ended.clear();
        self.refusals.fill(Refusals::default());
        self.answers.fill(Answers::default());
        self.store_events.clear();
        self.loads.clear();
    }

    /// A start, as the dispatcher performs it.
    fn rise(&mut self, before: &[settings::Destination]) {
        let (floor, now) = (self.store.floor(), self.now);
        self.note(|w| {
            format!("start from {floor}: {:?}", w.destinations.iter().map(|d| &d.policy).collect::<Vec<_>>())
        });
        self.rig = Rig::new(self.broken, &self.destinations, floor, self.store.next, now);
        let mut delayed: Vec<_> = self.store.durable.iter().collect();
        delayed.sort_by_key(|(id, record)| (record.location.due(), **id));
        for (id, record) in delayed {
            if let Location::Delay(due) = record.location {
                let cut = due.min(self.destinations[usize::from(id.destination.0)].latest(now));
                self.rig.restored(id.destination, &self.store.ticket(*id), due, cut);
            }
        }
        for (id, record) in self.store.durable.iter().filter(|(_, record)| record.location == Location::Delivered) {
            self.rig.delivered_before_start(*id, record, now);
        }
        for destination in &self.destinations {
            if let Some(until) = self.store.holds.get(&destination.id) {
                let latest = now.after(destination.retry.retry_after_max);
                self.rig.held_at_start(destination.id, (*until).min(latest));
            }
        }
        for destination in &self.destinations {
            self.rig.paused_at_start(destination.id, self.store.pauses.get(&destination.id).copied().flatten());
            if let Some(Some(fixed)) = self.store.breakers.get(&destination.id) {
                let by_calls = fixed.who.is_none();
                let latest = if by_calls {
                    now.after(destination.policy.limits.breaker.open_duration)
                } else {
                    Timestamp::NEVER
                };
                let fixed = BreakerOverride { until: fixed.until.min(latest), ..fixed.clone() };
                self.rig.fixed_at_start(destination.id, &fixed, now);
            }
            let d = destination.id;
            let paced = self.store.paced.get(&d).copied().unwrap_or_default();
            let had = self.store.durable.keys().any(|id| id.destination == d);
            let unknown = if had { now } else { Timestamp::ZERO };
            let sent_at = if paced.sent_at > Timestamp::ZERO { paced.sent_at.min(now) } else { unknown };
            self.rig.paced_at_start(d, paced.released_at.min(now), sent_at);
            if !destination.policy.limits.records_starts() {
                self.store.sent(d, Timestamp::ZERO);
            }
        }
        if self.destinations.iter().any(|d| d.policy.dead_letters == DeadLetters::Hold) {
            for id in &self.store.dead {
                self.rig.dead(id.destination, self.store.durable[id].order_key, id.sequence);
            }
        }
        self.judge.restarts(&self.store, before, &self.destinations, now);
    }

    /// Failures stop and every request is served: in bounded time everything is delivered or purged.
    pub fn drain(&mut self) -> Result<(), Violation> {
        self.note(|_| "failures stop".to_owned());
        (self.weather.latency_ms, self.weather.quotas) = (1, false);
        for destination in self.destinations.iter().map(|d| d.id) {
            self.store.ask(Request::Pause { destination, until: None });
            self.store.ask(Request::Fix { destination, fixed: None });
        }
        if self.destinations.iter().any(|d| d.policy.limits.concurrency_max == 0) {
            self.stop()?;
            self.die();
            let before = self.destinations.clone();
            for destination in &mut self.destinations {
                let max = &mut destination.policy.limits.concurrency_max;
                *max = (*max).max(1);
            }
            self.rise(&before);
        }
        let mut rounds = 0;
        while !self.served()? {
            rounds += 1;
            // requests to the store from before the drain count, too, once they are durable
            if rounds > 1000 + 20 * self.store.durable.len() {
                return violation("I14", "it does not come to an end".to_owned());
            }
        }
        self.judge.ends(&self.store)
    }

    /// One round of the drain; true if nothing is left to do.
    fn served(&mut self) -> Result<bool, Violation> {
        let over = |w: &Self| w.flights.iter().position(|f| f.ends <= w.now);
        while let Some(i) = over(self) {
            self.land(i, (Outcome::Answered(200), None))?;
        }
        while !self.ended.is_empty() {
            self.hear_ended()?;
        }
        let dead: Vec<_> = self.store.dead.iter().copied().collect();
        if !dead.is_empty() {
            self.store.ask(if self.rng.bool() { Request::Redrive(dead) } else { Request::Purge(dead) });
        }
        self.commit(self.store.pending.len())?;
        let mut idle = self.store_events.is_empty() && self.loads.is_empty() && self.store.dead.is_empty();
        while !self.store_events.is_empty() {
            self.hear_news();
        }
        while !self.loads.is_empty() {
            self.load();
        }
        let starts = self.starts;
        self.dispatch()?;
        idle &= self.starts == starts && self.loads.is_empty();
        if !idle {
            return Ok(false);
        }
        match self.flights.iter().map(|f| f.ends).chain(self.wake).min() {
            Some(next) => self.now = self.now.max(next),
            None if self.judge.open() == 0 => return Ok(true),
            None => return violation("I14", format!("{} deliveries wait for nothing", self.judge.open())),
        }
        Ok(false)
    }
}
