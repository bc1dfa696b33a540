//! The judge of late events: how a delivery whose turn it is must end, derived from a plain list of deliveries. It
//! shares only data types with the rules.

use super::judge::{Violation, violation};
use super::settings::Destination;
use super::store::{Location, Record, Store};
use holdline::delivery::{DeliveryId, Reason};
use holdline::event::{DestinationId, Digest64};
use holdline::rules::lateness::{LateAction, OnStale};
use holdline::time::{Timestamp, millis};
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct Latecomers {
    /// The times of the delivered events, as far as this run knows them.
    had: HashMap<(DestinationId, Digest64), Vec<Timestamp>>,
}

impl Latecomers {
    /// The state of a new run, from the data on disk.
    pub fn restored(store: &Store) -> Self {
        let mut this = Self::default();
        for (id, record) in store.durable.iter().filter(|(_, record)| record.location == Location::Delivered) {
            this.delivered(id.destination, record);
        }
        this
    }

    pub fn delivered(&mut self, d: DestinationId, record: &Record) {
        if let Some(time) = happened(record).filter(|_| !record.order_key.is_none()) {
            self.had.entry((d, record.order_key)).or_default().push(time);
        }
    }

    /// Checks that the delivery is handled as required.
    pub fn check(
        &self,
        to: &Destination,
        id: DeliveryId,
        record: &Record,
        course: LateAction,
        now: Timestamp,
    ) -> Result<(), Violation> {
        let had = self.had.get(&(id.destination, record.order_key)).map(Vec::as_slice).unwrap_or_default();
        let newer = had.iter().filter(|time| happened(record).is_some_and(|at| **time > at)).count();
        let expected = if !record.redriven && is_expired(to, record, now) {
            LateAction::DeadLetter(Reason::Expired)
        } else if newer == 0 {
            LateAction::Send
        } else {
            match (to.late.on_stale, record.redriven) {
                (OnStale::Deliver, _) => LateAction::Send,
                (OnStale::Flag, _) | (_, true) => LateAction::SendFlagged,
                (OnStale::Discard, false) => LateAction::Discard,
                (OnStale::DeadLetter, false) => LateAction::DeadLetter(Reason::Stale),
            }
        };
        if course == expected {
            return Ok(());
        }
        let by_age = [course, expected].contains(&LateAction::DeadLetter(Reason::Expired));
        let how = format!("{id}, {newer} newer ones delivered, should be {expected:?} and is {course:?}: {record:?}");
        violation(if by_age { "ttl" } else { "stale" }, how)
    }
}

/// The time of the event, at most its acceptance; unknown if the sender's time is more than a minute later than that.
fn happened(record: &Record) -> Option<Timestamp> {
    let (said, accepted) = (record.time.0, record.received_at.0);
    (said > 0 && said <= accepted + 60_000).then_some(Timestamp(said.min(accepted)))
}

/// Whether its time to live has passed since its time, or since its acceptance if its time is unknown or earlier.
fn is_expired(to: &Destination, record: &Record, now: Timestamp) -> bool {
    let since = happened(record).unwrap_or(record.received_at);
    to.late.worth[record.kind].is_some_and(|worth| now.0 > since.0 + millis(worth))
}
