//! What outlives the process: what each receiver was told, and what it is still to be told.
//!
//! *Format.* One record of the store, JSON: by receiver, what its conditions know and the messages that wait. It is written
//! when something was told or delivered, and at the end. A message that was not noted before a crash is made again, since
//! the counters of what it tells are as old; one whose delivery was not noted is told twice.
//!
//! *Failure.* A record that cannot be read is as good as none: what happened before is then no news.

use super::evaluator::{Known, Message};
use crate::config::renamed_condition;
use crate::config::settings::{Alert, AlertTo};
use crate::event::Digest64;
use crate::store::{Change, Store};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use tokio::sync::watch;

/// Of one receiver.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Remembered {
    /// By the condition as it stands in the configuration.
    #[serde(default)]
    pub known: BTreeMap<String, Known>,
    /// Made and not delivered, the oldest first.
    #[serde(default)]
    pub waiting: VecDeque<Message>,
}

/// By the key of the receiver.
pub type Memory = BTreeMap<String, Remembered>;

/// A key for each receiver, which does not show its address; the first, second and so on of the same address are told
/// apart.
pub fn keys(alerts: &[Alert]) -> Vec<String> {
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

/// As an earlier process left it.
pub async fn load(store: &Store) -> Memory {
    let reader = store.clone();
    let told = tokio::task::spawn_blocking(move || reader.told()).await;
    let Ok(Ok(Some(text))) = told else { return Memory::new() };
    parse(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "what was told of alerts cannot be read; what happened before is not told again");
        Memory::new()
    })
}

/// Conditions that were noted under a name that has changed are read under the new one.
fn parse(text: &str) -> serde_json::Result<Memory> {
    let mut memory: Memory = serde_json::from_str(text)?;
    for receiver in memory.values_mut() {
        let known = std::mem::take(&mut receiver.known);
        receiver.known =
            known.into_iter().map(|(name, known)| (renamed_condition(&name).unwrap_or(name), known)).collect();
    }
    Ok(memory)
}

/// Writes each memory that comes, or the newest where they come faster, until nobody sends any more.
pub async fn keep(store: Store, mut memories: watch::Receiver<Memory>) {
    while memories.changed().await.is_ok() {
        let text = serde_json::to_string(&*memories.borrow_and_update());
        let Ok(told) = text else { continue };
        if store.change(Change::Told { told }, String::new()).await.is_err() {
            return; // the store has failed, and the daemon ends
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_under_old_names_are_read_under_the_new_ones() {
        let known = serde_json::to_string(&Known::default()).unwrap();
        let memory = parse(&format!(r#"{{"a":{{"known":{{"gap > 30s":{known},"disk_low":{known}}}}}}}"#)).unwrap();
        let names: Vec<&str> = memory["a"].known.keys().map(String::as_str).collect();
        assert_eq!(names, ["disk_low", "outage > 30s"]);
    }
}
