//! Why something waits: which gate holds it, until when, behind which event, and who set it.
//!
//! *Invariants.* Whatever waits is held by a gate that has a name; there is no "unknown". A new gate is a variant of
//! [`Gate`] and a line in [`of_destination`]; lists, single events, destinations, dashboard and command line follow.

use super::Admin;
use crate::dispatch::LineStatus;
use crate::event::DestinationId;
use crate::scheduler::Standing;
use crate::time::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

/// What can hold a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// An earlier event of its interaction.
    Order,
    /// A time: its next attempt, or the end of what the destination asked for.
    Delay,
    /// Nobody delivers there.
    Pause,
    /// As many requests are under way as may be, and others are before it.
    Concurrency,
}

/// What holds a delivery, or a whole destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Held {
    pub gate: Gate,
    /// RFC 3339; missing where no time ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Id of the event that must be resolved first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// `retry`, `ordering`, `destination`, `configuration`, or the name of who did it.
    pub set_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Held {
    fn by(gate: Gate, set_by: &str) -> Self {
        Self { gate, until: None, behind: None, set_by: set_by.to_owned(), reason: None }
    }

    fn until(self, until: Timestamp) -> Self {
        Self { until: Some(until.to_string()), ..self }
    }

    fn since(self, reason: &str) -> Self {
        Self { reason: Some(reason.to_owned()), ..self }
    }
}

/// What holds everything that waits for a destination, the strongest first; empty where its deliveries go on.
pub fn of_destination(admin: &Admin, d: DestinationId, line: &LineStatus, now: Timestamp) -> Vec<Held> {
    let mut held = Vec::new();
    match admin.destinations.get(&d) {
        None => {
            held.push(Held::by(Gate::Pause, "configuration").since("this destination is not configured any more"));
        }
        Some(destination) if destination.url().is_none() => {
            held.push(Held::by(Gate::Pause, "configuration").since("no url is configured"));
        }
        Some(destination) if line.hold_until > now => {
            let why = destination.held_why(line.hold_until);
            held.push(Held::by(Gate::Delay, "destination").until(line.hold_until).since(&why));
        }
        Some(_) => {}
    }
    held
}

/// What one delivery waits for; none where it is under way. `behind` names an event by its sequence.
pub fn of_delivery(
    standing: Standing,
    of_destination: &[Held],
    behind: impl Fn(crate::event::Sequence) -> String,
) -> Option<Held> {
    match standing {
        Standing::InFlight => None,
        Standing::Delayed { until } => Some(Held::by(Gate::Delay, "retry").until(until)),
        Standing::Held { behind: first } => {
            Some(Held { behind: Some(behind(first)), ..Held::by(Gate::Order, "ordering") })
        }
        Standing::Queued => {
            let first = of_destination.first().cloned();
            Some(first.unwrap_or_else(|| Held::by(Gate::Concurrency, "configuration")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Sequence;

    #[test]
    fn whatever_waits_has_a_gate() {
        let name = |s: Sequence| format!("id of {s}");
        let pause = Held::by(Gate::Pause, "configuration").since("no url");
        for (standing, holds, gate) in [
            (Standing::InFlight, vec![pause.clone()], None),
            (Standing::Queued, vec![], Some(Gate::Concurrency)),
            (Standing::Queued, vec![pause.clone()], Some(Gate::Pause)),
            (Standing::Delayed { until: Timestamp(5) }, vec![pause.clone()], Some(Gate::Delay)),
            (Standing::Held { behind: Sequence(3) }, vec![pause], Some(Gate::Order)),
        ] {
            assert_eq!(of_delivery(standing, &holds, name).map(|h| h.gate), gate, "{standing:?}");
        }
        let held = of_delivery(Standing::Held { behind: Sequence(3) }, &[], name).unwrap();
        assert_eq!(held.behind.as_deref(), Some("id of 3"));
    }
}
