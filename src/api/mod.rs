//! The types of the admin API. The daemon serializes them, the metrics are derived from them, and the command line parses
//! them.
//!
//! *Invariants.* Each state, number and field is defined once, here, so a renamed field breaks the build elsewhere. Every
//! type serializes and deserializes symmetrically, and is described in the OpenAPI document.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`page`] | a page of a list, a point in time |
//! | 1 | [`blocked`] | what blocks a delivery or a destination |
//! | 1 | [`change`] | what a change did |
//! | 1 | [`records`] | audit, outages, quarantine, damaged records |
//! | 2 | [`event`] | events, deliveries, attempts, dead letters, interactions |
//! | 2 | [`status`] | the state and the numbers of the daemon, its destinations and sources |

mod blocked;
mod change;
mod event;
mod page;
mod records;
mod status;

pub use blocked::BlockedBy;
pub use change::{
    Changed, Decided, Erased, IntakeDecided, Readmitted, Redrive, RedriveAnswer, RedriveState, Remains, StoppedBy,
};
pub use event::{
    Attempt, Attempts, DeadLetter, Delivery, DeliveryState, Event, Interaction, InteractionEvent, InteractionState,
    LastDelivered, Ordering,
};
pub use page::{Page, Time};
pub use records::{AuditEntry, DamagedRecord, Outage, QuarantinedRequest};
pub use status::{
    AgeCount, Ages, BehindDeadLetters, Breaker, BreakerState, Certificate, Concurrency, Counters, DaemonState,
    DeadLetterQueue, Destination, DestinationCounters, DestinationQueue, DestinationState, Disk, Forecast, History,
    IntakeState, Latency, Queue, Rates, Refusal, SlowCalls, Source, Status,
};

/// A value from some fields; the others have their defaults.
#[cfg(test)]
pub(crate) fn filled<T: Default + serde::Serialize + serde::de::DeserializeOwned>(given: serde_json::Value) -> T {
    fn merge(into: &mut serde_json::Value, given: serde_json::Value) {
        match (into, given) {
            (serde_json::Value::Object(into), serde_json::Value::Object(given)) => {
                given
                    .into_iter()
                    .for_each(|(name, value)| merge(into.entry(name).or_insert(serde_json::Value::Null), value));
            }
            (into, given) => *into = given,
        }
    }
    let mut value = serde_json::to_value(T::default()).expect("it holds only what JSON can");
    merge(&mut value, given);
    serde_json::from_value(value).expect("the fields given have the right types")
}
