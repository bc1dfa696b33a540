//! Why something waits: which gate holds it, until when, behind which event, and who set it.
//!
//! *Invariants.* Whatever waits is held by a gate that has a name; there is no "unknown". A new gate is a variant of
//! [`Gate`] and a line in [`of_destination`]; lists, single events, destinations, dashboard and command line follow.

use super::Admin;
use crate::dispatch::{Destination, LineStatus};
use crate::event::DestinationId;
use crate::scheduler::{self as pace, Shut, Standing};
use crate::store::Store;
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
    /// An operator paused the destination, or nobody delivers there.
    Pause,
    /// The destination is in trouble and is left alone.
    Breaker,
    /// As many requests are under way as may be, and others are before it.
    Concurrency,
    /// The destination's rate.
    Rate,
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
pub fn of_destination(admin: &Admin, d: DestinationId, line: &LineStatus) -> Vec<Held> {
    let mut held = Vec::new();
    match admin.destinations.get(d) {
        None => {
            held.push(Held::by(Gate::Pause, "configuration").since("this destination is not configured any more"));
        }
        Some(destination) => held.extend(line.shut.map(|shut| gate(&admin.store, &destination, shut))),
    }
    held
}

/// A gate of its pace that is shut.
fn gate(store: &Store, destination: &Destination, shut: Shut) -> Held {
    let stance = store.stance(destination.id);
    let held = match shut.gate {
        pace::Gate::Nowhere => Held::by(Gate::Pause, "configuration").since("no url is configured"),
        pace::Gate::Paused => {
            let pause = stance.pause;
            let who = pause.as_ref().map_or("operator", |pause| &pause.who);
            Held::by(Gate::Pause, who).since(pause.as_ref().map_or("", |pause| &pause.reason))
        }
        pace::Gate::Breaker => {
            let fixed = stance.breaker;
            let who = fixed.as_ref().and_then(|fixed| fixed.who.as_deref()).unwrap_or("breaker");
            Held::by(Gate::Breaker, who).since(fixed.as_ref().map_or("probes are under way", |fixed| &fixed.reason))
        }
        pace::Gate::Hold => {
            let until = shut.until.unwrap_or_default();
            Held::by(Gate::Delay, "destination").since(&destination.held_why(until))
        }
        pace::Gate::Concurrency => Held::by(Gate::Concurrency, "configuration"),
        pace::Gate::Rate => Held::by(Gate::Rate, "configuration"),
    };
    match shut.until.filter(|until| *until < Timestamp::NEVER) {
        Some(until) => held.until(until),
        None => held,
    }
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
        Standing::Sorting { until } => Some(Held::by(Gate::Order, "ordering").until(until)),
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
            (Standing::Sorting { until: Timestamp(5) }, vec![pause.clone()], Some(Gate::Order)),
            (Standing::Held { behind: Sequence(3) }, vec![pause], Some(Gate::Order)),
        ] {
            assert_eq!(of_delivery(standing, &holds, name).map(|h| h.gate), gate, "{standing:?}");
        }
        let held = of_delivery(Standing::Held { behind: Sequence(3) }, &[], name).unwrap();
        assert_eq!(held.behind.as_deref(), Some("id of 3"));
    }
}
