//! Alerts: what is worth waking somebody, told once, retried, and called off again.
//!
//! *Invariants.* At most one message of a kind within `digest`, and its all-clear; what happens meanwhile is counted and told
//! in the next. Whatever was told gets an all-clear when it is over. No message holds a body or a secret, and no log holds
//! the address of a webhook, since its path may be one. A message that was made and not delivered outlives the process.
//!
//! *Failure.* A message that cannot be delivered is tried again, with growing pauses, for [`sender::GIVE_UP_AFTER`]; then it
//! is dropped and that is logged. A receiver that hangs holds up its own messages only, and so does a disk that hangs.

mod condition;
mod evaluator;
mod sender;
mod state;

pub use evaluator::AlertInputs;

use crate::clock::Clock;
use crate::config::settings::Alert;
use crate::store::Store;
use evaluator::{Message, Watch};
use sender::Sender;
use state::{Memory, Remembered};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often the facts are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages that wait for one receiver; beyond it the newest are dropped, and that is logged.
const WAITING_MAX: usize = 100;

/// Somebody who wants to be told.
struct Receiver {
    key: String,
    watch: Watch,
    /// Messages that are not delivered, the oldest first; `to` has them too.
    waiting: VecDeque<Message>,
    to: mpsc::UnboundedSender<Message>,
}

impl Receiver {
    /// `done` hears its place each time a message is done with.
    fn new(
        (place, alert): (usize, &Alert),
        (key, remembered): (String, Remembered),
        done: &mpsc::UnboundedSender<usize>,
        clock: &Clock,
        stop: &CancellationToken,
    ) -> Self {
        let (to, messages) = mpsc::unbounded_channel();
        match Sender::new(alert) {
            Ok(post) => drop(tokio::spawn(post.run(messages, (place, done.clone()), clock.clone(), stop.clone()))),
            Err(why) => tracing::error!(why, "an alert cannot be delivered"),
        }
        let watch = Watch::new(alert, remembered.known, clock.now());
        for message in &remembered.waiting {
            let _ = to.send(message.clone()); // without a way it waits for another start
        }
        Self { key, watch, waiting: remembered.waiting, to }
    }

    fn tell(&mut self, message: Message) {
        tracing::warn!(alert = message.alert, state = message.state.word(), text = message.text, "alert");
        if self.waiting.len() >= WAITING_MAX {
            tracing::error!("an alert is dropped: too many wait for this receiver already");
            return;
        }
        self.waiting.push_back(message.clone());
        let _ = self.to.send(message); // without a way it waits for another start
    }

    fn remembered(&self) -> (String, Remembered) {
        (self.key.clone(), Remembered { known: self.watch.known(), waiting: self.waiting.clone() })
    }
}

/// Looks at the facts again and again, and tells those who want to know, until `stop`.
pub async fn watch<F: Future<Output = Option<AlertInputs>>>(
    alerts: Vec<Alert>,
    clock: Clock,
    store: Store,
    facts: impl Fn() -> F,
    stop: CancellationToken,
) {
    let mut memory = state::load(&store).await;
    if alerts.is_empty() && memory.is_empty() {
        return;
    }
    let (done, mut done_with) = mpsc::unbounded_channel();
    let keyed = state::keys(&alerts).into_iter().map(|key| {
        let remembered = memory.remove(&key).unwrap_or_default();
        (key, remembered)
    });
    let mut receivers: Vec<Receiver> = alerts
        .iter()
        .enumerate()
        .zip(keyed)
        .map(|(alert, remembered)| Receiver::new(alert, remembered, &done, &clock, &stop))
        .collect();
    let (to_keep, memories) = watch::channel(Memory::new());
    let keeper = state::keep(store, memories);
    let looks = async move {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut first = true;
        let remember =
            |receivers: &[Receiver]| to_keep.send_replace(receivers.iter().map(Receiver::remembered).collect());
        loop {
            let changed = tokio::select! {
                () = stop.cancelled() => break,
                Some(place) = done_with.recv() => receivers[place].waiting.pop_front().is_some(),
                _ = ticks.tick() => match facts().await {
                    Some(facts) => look(&mut receivers, &facts, &clock) | std::mem::take(&mut first),
                    None => false,
                },
            };
            if changed {
                remember(&receivers);
            }
            if receivers.is_empty() && !first {
                break; // nobody wants to know any more, and that is noted
            }
        }
        while let Ok(place) = done_with.try_recv() {
            receivers[place].waiting.pop_front();
        }
        if !first {
            remember(&receivers);
        }
    };
    tokio::join!(keeper, looks);
}

/// Whether there was anything to tell.
fn look(receivers: &mut [Receiver], facts: &AlertInputs, clock: &Clock) -> bool {
    let mut told = false;
    for receiver in receivers {
        for message in receiver.watch.look(facts, clock.now()) {
            receiver.tell(message);
            told = true;
        }
    }
    told
}
