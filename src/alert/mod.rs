//! Alerts: what is worth waking somebody, told once, retried, and called off again.
//!
//! *Invariants.* At most one message of a kind within `digest`; what happens meanwhile is counted and told in the next.
//! Whatever was told gets an all-clear when it is over. No message holds a body or a secret, and no log holds the address
//! of a webhook, since its path may be one.
//!
//! *Failure.* A message that cannot be delivered is tried again, with growing pauses, for [`post::GIVE_UP_AFTER`]; then it
//! is dropped and that is logged. A receiver that hangs holds up its own messages only.

mod judge;
mod post;

pub use judge::Facts;

use crate::clock::Clock;
use crate::config::settings::Alert;
use judge::Watch;
use post::Post;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How often the facts are looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Messages that wait for one receiver; beyond it the newest are dropped, and that is logged.
const WAITING_MAX: usize = 100;

/// Looks at the facts again and again, and tells those who want to know, until `stop`.
pub async fn watch<F: Future<Output = Option<Facts>>>(
    alerts: Vec<Alert>,
    clock: Clock,
    facts: impl Fn() -> F,
    stop: CancellationToken,
) {
    let mut watched = Vec::new();
    for alert in &alerts {
        let (to, messages) = mpsc::channel(WAITING_MAX);
        match Post::new(alert) {
            Ok(post) => drop(tokio::spawn(post.run(messages, clock.clone(), stop.clone()))),
            Err(why) => tracing::error!(why, "an alert cannot be delivered"),
        }
        watched.push((Watch::new(alert, clock.now()), to));
    }
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let Some(facts) = facts().await else { continue };
        let now = clock.now();
        for (watch, to) in &mut watched {
            for message in watch.look(&facts, now) {
                tracing::warn!(alert = message.alert, state = message.state, text = message.text, "alert");
                if to.try_send(message).is_err() {
                    tracing::error!("an alert is dropped: too many wait for this receiver already");
                }
            }
        }
    }
}
