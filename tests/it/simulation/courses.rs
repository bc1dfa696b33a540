//! How dispatch handles each delivery whose turn it is, as it decides itself and as it would with one rule broken.

use super::rig::Break;
use super::settings::{Destination, KINDS};
use super::store::Record;
use holdline::delivery::{Delivery, DeliveryId, Reason};
use holdline::dispatch::LastDelivered;
use holdline::event::{DestinationId, DestinationSet, Event, believed_time};
use holdline::rules::lateness::LateAction;
use holdline::rules::lateness::Lateness;
use holdline::rules::lateness::Ttl;
use holdline::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Debug)]
pub struct Courses {
    broken: Break,
    of: BTreeMap<DestinationId, (Lateness, LastDelivered)>,
}

fn lateness(broken: Break, destination: &Destination) -> Lateness {
    let mut ttl = destination.late.ttl.clone();
    match broken {
        Break::IgnoresTtl => ttl.clear(),
        Break::TakesShorterPattern if ttl.len() > 1 => ttl.retain(|(pattern, _)| pattern != KINDS[0]),
        _ => {}
    }
    Lateness { on_stale: destination.late.on_stale, ttl: Ttl::new(ttl) }
}

impl Courses {
    pub fn new(broken: Break, destinations: &[Destination]) -> Self {
        let of = destinations.iter().map(|d| (d.id, (lateness(broken, d), LastDelivered::default())));
        Self { broken, of: of.collect() }
    }

    pub fn delivered(&mut self, id: DeliveryId, record: &Record, at: Timestamp) {
        let (_, sequences) = self.of.get_mut(&id.destination).expect("every destination has one");
        if self.broken == Break::RemembersLastOnly {
            *sequences = LastDelivered::default();
        }
        let said = Some(record.time).filter(|time| *time > Timestamp::ZERO);
        let time = if self.broken == Break::BelievesTheFuture { said } else { believed_time(said, record.received_at) };
        sequences.record(record.order_key, id.sequence, time, at);
    }

    pub fn of(&self, id: DeliveryId, record: &Record, now: Timestamp) -> LateAction {
        let (lateness, sequences) = &self.of[&id.destination];
        let delivery = delivery(id, record);
        let mut newest = sequences.last(record.order_key).and_then(|last| last.newest);
        match self.broken {
            Break::IgnoresStale => newest = None,
            Break::StaleWhenEqual => newest = newest.map(|newest| newest.after(Duration::from_millis(1))),
            // its age was reset by the redrive, and stays so
            Break::JudgesRedrivenStale if record.redriven => {
                let ageless = Lateness { ttl: Ttl::default(), ..lateness.clone() };
                return ageless.action(&Delivery { redriven: false, ..delivery }, newest, now);
            }
            Break::LetsRedrivenExpire if record.redriven => {
                let again = Delivery { redriven: false, ..delivery.clone() };
                if lateness.ttl.is_over(&again, now) {
                    return LateAction::DeadLetter(Reason::Expired);
                }
            }
            Break::AgesFromAcceptance | Break::AgesFromTheFuture => {
                let aged = misaged(self.broken, &delivery);
                if lateness.ttl.is_over(&aged, now) {
                    return LateAction::DeadLetter(Reason::Expired);
                }
                let ageless = Lateness { ttl: Ttl::default(), ..lateness.clone() };
                return ageless.action(&delivery, newest, now);
            }
            _ => {}
        }
        match (lateness.action(&delivery, newest, now), self.broken) {
            (LateAction::SendFlagged, Break::FlagsNothing)
            | (LateAction::Discard, Break::DeliversInsteadOfDiscarding) => LateAction::Send,
            (LateAction::DeadLetter(Reason::Stale), Break::DiscardsInsteadOfBurying) => LateAction::Discard,
            (course, _) => course,
        }
    }
}

/// The delivery with a wrong age.
fn misaged(broken: Break, delivery: &Delivery) -> Delivery {
    let mut event = (*delivery.event).clone();
    if broken == Break::AgesFromAcceptance {
        event.time = None;
    } else {
        event.received_at = event.received_at.max(event.time.unwrap_or_default());
    }
    Delivery { event: event.into(), ..delivery.clone() }
}

fn delivery(id: DeliveryId, record: &Record) -> Delivery {
    let event = Event {
        received_at: record.received_at,
        to: DestinationSet::EMPTY.with(id.destination),
        kind: KINDS[record.kind].to_owned(),
        time: Some(record.time).filter(|time| *time > Timestamp::ZERO),
        ..crate::harness::events::event(1)
    };
    Delivery { redriven: record.redriven, ..Delivery::first(id, event.into()) }
}
