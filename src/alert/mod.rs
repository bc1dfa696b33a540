//! Alerts: sends a message when a condition begins to hold, and one when it no longer holds.
//!
//! *Invariants.* Each condition sends at most one message per `digest`, and in addition the message that it resolved;
//! occurrences in between are counted and reported by the next message. Every alert sent is followed by a message that
//! it resolved. No message contains a body or a secret, and no log contains the address of a webhook, since its path may
//! be a secret. An undelivered message survives a restart.
//!
//! *Failure.* An undelivered message is retried, with growing pauses, for [`sender::GIVE_UP_AFTER`]; then it is dropped
//! and that is logged. A receiver that hangs delays only its own messages. A disk that hangs delays no message; it
//! delays only the write of the record below.
//!
//! *Format.* One record of the store, JSON: by receiver, the state of its conditions and its undelivered messages. It is
//! written when a message was made or delivered, and at the end. A message that was not written before a crash is made
//! again, since the counters that it reports are as old; one whose delivery was not written is sent twice. A record that
//! cannot be read counts as none: what happened before is then not reported.
//!
//! # Levels: a module imports only from modules of lower levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`condition`] | which subjects a condition holds for; the texts of messages |
//! | 1 | [`evaluator`] | which alerts fire and resolve, and when a message is due |
//! | 2 | [`sender`] | delivers messages to a webhook or a command |

mod condition;
mod evaluator;
mod sender;

pub use condition::AlertInputs;

use crate::clock::Clock;
use crate::config::renamed_condition;
use crate::config::settings::{Alert, AlertTo};
use crate::event::Digest64;
use crate::store::{Change, Store};
use evaluator::{Evaluator, Message, RuleState};
use sender::Sender;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Interval between evaluations of the conditions.
pub const EVALUATE_EVERY: Duration = Duration::from_secs(1);
/// Maximum number of undelivered messages of one receiver; above it the newest are dropped, and that is logged.
const UNDELIVERED_MAX: usize = 100;

/// What is stored of one receiver.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ReceiverState {
    /// By the condition as the configuration writes it.
    #[serde(default, rename = "known")]
    rules: BTreeMap<String, RuleState>,
    /// Oldest first.
    #[serde(default, rename = "waiting")]
    undelivered: VecDeque<Message>,
}

/// By the key of the receiver.
type SavedState = BTreeMap<String, ReceiverState>;

/// One `[[alert]]`: a receiver and its conditions.
struct Receiver {
    key: String,
    evaluator: Evaluator,
    /// Oldest first; `sender` has them, too.
    undelivered: VecDeque<Message>,
    sender: mpsc::UnboundedSender<Message>,
}

impl Receiver {
    /// `done` gets the receiver's index each time a message is delivered or dropped.
    fn new(
        (place, alert): (usize, &Alert),
        (key, saved): (String, ReceiverState),
        done: &mpsc::UnboundedSender<usize>,
        clock: &Clock,
        stop: &CancellationToken,
    ) -> Self {
        let (to_sender, messages) = mpsc::unbounded_channel();
        match Sender::new(alert) {
            Ok(sender) => drop(tokio::spawn(sender.run(messages, (place, done.clone()), clock.clone(), stop.clone()))),
            Err(error) => tracing::error!(%error, "an alert cannot be delivered"),
        }
        let evaluator = Evaluator::new(alert, saved.rules, clock.now());
        for message in &saved.undelivered {
            let _ = to_sender.send(message.clone()); // without a sender it is kept for the next start
        }
        Self { key, evaluator, undelivered: saved.undelivered, sender: to_sender }
    }

    fn send(&mut self, message: Message) {
        tracing::warn!(alert = message.alert, state = message.state.word(), text = message.text, "alert");
        if self.undelivered.len() >= UNDELIVERED_MAX {
            tracing::error!("an alert is dropped: this receiver has too many undelivered ones");
            return;
        }
        self.undelivered.push_back(message.clone());
        let _ = self.sender.send(message); // without a sender it is kept for the next start
    }

    fn state(&self) -> (String, ReceiverState) {
        (self.key.clone(), ReceiverState { rules: self.evaluator.state(), undelivered: self.undelivered.clone() })
    }
}

/// Evaluates the conditions of all alerts and sends messages, until `stop`.
pub async fn run<F: Future<Output = Option<AlertInputs>>>(
    alerts: Vec<Alert>,
    clock: Clock,
    store: Store,
    inputs: impl Fn() -> F,
    stop: CancellationToken,
) {
    let mut saved = load(&store).await;
    if alerts.is_empty() && saved.is_empty() {
        return;
    }
    let (done, mut delivered) = mpsc::unbounded_channel();
    let mut receivers: Vec<Receiver> = alerts
        .iter()
        .enumerate()
        .zip(keys(&alerts))
        .map(|(alert, key)| {
            let state = saved.remove(&key).unwrap_or_default();
            Receiver::new(alert, (key, state), &done, &clock, &stop)
        })
        .collect();
    let (to_save, states) = watch::channel(SavedState::new());
    let saving = save(store, states);
    let evaluating = async move {
        let mut ticks = tokio::time::interval(EVALUATE_EVERY);
        let mut first = true;
        let save = |receivers: &[Receiver]| to_save.send_replace(receivers.iter().map(Receiver::state).collect());
        loop {
            let changed = tokio::select! {
                () = stop.cancelled() => break,
                Some(place) = delivered.recv() => receivers[place].undelivered.pop_front().is_some(),
                _ = ticks.tick() => match inputs().await {
                    Some(inputs) => evaluate(&mut receivers, &inputs, &clock) | std::mem::take(&mut first),
                    None => false,
                },
            };
            if changed {
                save(&receivers);
            }
            if receivers.is_empty() && !first {
                break; // no alert is configured, and the record says so
            }
        }
        while let Ok(place) = delivered.try_recv() {
            receivers[place].undelivered.pop_front();
        }
        if !first {
            save(&receivers);
        }
    };
    tokio::join!(saving, evaluating);
}

/// Whether any message was made.
fn evaluate(receivers: &mut [Receiver], inputs: &AlertInputs, clock: &Clock) -> bool {
    let mut any = false;
    for receiver in receivers {
        for message in receiver.evaluator.evaluate(inputs, clock.now()) {
            receiver.send(message);
            any = true;
        }
    }
    any
}

/// A key for each receiver that does not show its address; receivers with the same address are numbered.
fn keys(alerts: &[Alert]) -> Vec<String> {
    let mut times: HashMap<Digest64, u32> = HashMap::new();
    let key = |alert: &Alert| {
        let address = match &alert.to {
            AlertTo::Webhook(url) => Digest64::of(&[b"webhook", url.identity().as_bytes()]),
            AlertTo::Command(command) => {
                let parts: Vec<&[u8]> = command.iter().map(String::as_bytes).collect();
                Digest64::of(&[[b"command".as_slice()].as_slice(), &parts].concat())
            }
        };
        let n = times.entry(address).or_default();
        *n += 1;
        format!("{:016x}-{n}", address.0)
    };
    alerts.iter().map(key).collect()
}

/// The state that an earlier process has written.
async fn load(store: &Store) -> SavedState {
    let reader = store.clone();
    let text = tokio::task::spawn_blocking(move || reader.told()).await;
    let Ok(Ok(Some(text))) = text else { return SavedState::new() };
    parse(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "the state of alerts cannot be read; what happened before is not reported again");
        SavedState::new()
    })
}

/// Maps conditions stored under a former name to their current name.
fn parse(text: &str) -> serde_json::Result<SavedState> {
    let mut saved: SavedState = serde_json::from_str(text)?;
    for receiver in saved.values_mut() {
        let rules = std::mem::take(&mut receiver.rules);
        receiver.rules =
            rules.into_iter().map(|(name, state)| (renamed_condition(&name).unwrap_or(name), state)).collect();
    }
    Ok(saved)
}

/// Writes each new state, or only the newest if they come faster, until the channel closes.
async fn save(store: Store, mut states: watch::Receiver<SavedState>) {
    while states.changed().await.is_ok() {
        let text = serde_json::to_string(&*states.borrow_and_update());
        let Ok(state) = text else { continue };
        if store.change(Change::AlertState { state }, String::new()).await.is_err() {
            return; // the store has failed, and the daemon ends
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_under_old_names_are_read_under_the_new_ones() {
        let state = serde_json::to_string(&RuleState::default()).unwrap();
        let saved = parse(&format!(r#"{{"a":{{"known":{{"gap > 30s":{state},"disk_low":{state}}}}}}}"#)).unwrap();
        let names: Vec<&str> = saved["a"].rules.keys().map(String::as_str).collect();
        assert_eq!(names, ["disk_low", "outage > 30s"]);
    }
}
