//! The records of the small, queue-shaped rows.
//!
//! *Format.* `history` and `settled` rows cover a contiguous range of numbers beginning at their key; the next row begins
//! where the one before ends. So a missing row is seen as a gap.

use super::watermark::Watermark;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Digest64, Event, EventId, Sequence};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Stands for a name without a number.
pub const UNNAMED: u16 = u16::MAX;
/// What a delayed delivery or a dead letter takes beside its body, with a few attempts.
const COPY_OVERHEAD: u64 = 512;

/// What is remembered of an event for the length of the deduplication window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Digest of source and sender id; none where the sender gave no id.
    pub sender: Digest64,
    pub body: Digest64,
    pub interaction_hash: Digest64,
    /// When it happened; zero where the sender did not say.
    pub time: Timestamp,
    pub received_at: Timestamp,
    pub source: u16,
    pub kind: u16,
    pub to: DestinationSet,
    pub size: u32,
    /// The event before it with the same sender id and another body; zero where there is none.
    pub prior: Sequence,
}

impl Entry {
    /// The digests are those of sender id and interaction.
    pub fn of(
        event: &Event,
        (sender, interaction_hash): (Digest64, Digest64),
        prior: Sequence,
        source: u16,
        kind: u16,
    ) -> Self {
        Self {
            sender,
            body: event.body_digest,
            interaction_hash,
            time: event.time.unwrap_or_default(),
            received_at: event.received_at,
            source,
            kind,
            to: event.to,
            size: u32::try_from(event.body.len()).unwrap_or(u32::MAX),
            prior,
        }
    }

    /// When the event happened, by its sender.
    pub fn event_time(&self) -> Option<Timestamp> {
        Some(self.time).filter(|time| *time > Timestamp::ZERO)
    }

    /// Bytes that a delivery of one of these events may take outside of its page, on average: nothing is known of how well its
    /// body compresses there.
    pub fn copy_bytes(of: &[Self]) -> u32 {
        let deliveries: u64 = of.iter().map(|e| e.to.count()).sum();
        let bytes: u64 = of.iter().map(|e| e.to.count() * (u64::from(e.size) + COPY_OVERHEAD)).sum();
        u32::try_from(bytes.checked_div(deliveries).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Whose each of these events is, and the length of its body.
    pub fn owners(of: &[Self]) -> Vec<(u16, u32)> {
        of.iter().map(|e| (e.source, e.size)).collect()
    }

    /// Leaves only when an event came, from which source and for whom.
    pub fn erase(&mut self) {
        (self.sender, self.body, self.interaction_hash) = (Digest64::NONE, Digest64::NONE, Digest64::NONE);
        (self.time, self.kind, self.size, self.prior) = (Timestamp::ZERO, UNNAMED, 0, Sequence::default());
    }

    /// Whether an operator had the event erased; each event that was not has a digest of its body.
    pub fn is_erased(&self) -> bool {
        self.body.is_none()
    }

    pub fn id(&self, sequence: Sequence) -> EventId {
        EventId::new(self.received_at, sequence, self.body)
    }
}

/// How the events of a history row are packed into pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageShape {
    pub count: u16,
    /// Sealed length of the page.
    pub bytes: u32,
}

/// Entries of consecutive sequences, beginning at the row's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    pub pages: Vec<PageShape>,
    pub entries: Vec<Entry>,
}

impl HistoryRow {
    /// Most entries of a row, so that with a page each it stays within a row's bounds.
    pub const ENTRIES_MAX: usize = 230;

    pub fn append(&mut self, other: Self) {
        self.pages.extend(other.pages);
        self.entries.extend(other.entries);
    }
}

/// How a delivery left the place where it lay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum EndKind {
    Delivered,
    Discarded,
    Dead,
    /// Into the delay tree.
    Moved,
}

impl From<EndKind> for u8 {
    fn from(how: EndKind) -> Self {
        how as Self
    }
}

impl TryFrom<u8> for EndKind {
    type Error = &'static str;
    fn try_from(n: u8) -> Result<Self, Self::Error> {
        [Self::Delivered, Self::Discarded, Self::Dead, Self::Moved]
            .into_iter()
            .find(|h| *h as u8 == n)
            .ok_or("not a How")
    }
}

/// One delivery that left its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    pub id: DeliveryId,
    pub how: EndKind,
    pub attempts: u16,
    /// Status of the last answer; zero where there was none.
    pub status: u16,
    pub at: Timestamp,
}

/// Settlements with consecutive numbers, beginning at the row's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledRow {
    pub settlements: Vec<Settlement>,
}

impl SettledRow {
    /// 22 bytes each.
    pub const SETTLEMENTS_MAX: usize = 700;
}

/// What became of the deliveries for one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub accepted: u64,
    pub delivered: u64,
    pub discarded: u64,
    /// Now in the dead letter queue.
    pub dead: u64,
    /// Now in the delay tree.
    pub delayed: u64,
}

impl Counters {
    /// What still waits, in pages and in the delay tree.
    pub fn queued(&self) -> u64 {
        self.accepted.saturating_sub(self.delivered + self.discarded + self.dead)
    }
}

/// The counters, written with every commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub next_sequence: Sequence,
    pub next_settlement: u64,
    pub next_audit: u64,
    pub next_damaged: u64,
    /// First sequence still in `history`.
    pub history_head: Sequence,
    /// First settlement still in `settled`.
    pub settled_head: u64,
    /// Every page before this sequence is gone.
    pub floor: Sequence,
    pub accepted: u64,
    pub duplicates: u64,
    pub conflicts: u64,
    pub dead_lettered: u64,
    pub redriven: u64,
    pub damaged: u64,
    pub page_bytes: u64,
    pub delay_bytes: u64,
    pub dlq_bytes: u64,
    pub counters: Vec<Counters>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            next_sequence: Sequence(1),
            next_settlement: 1,
            next_audit: 1,
            next_damaged: 1,
            history_head: Sequence(1),
            settled_head: 1,
            floor: Sequence(1),
            accepted: 0,
            duplicates: 0,
            conflicts: 0,
            dead_lettered: 0,
            redriven: 0,
            damaged: 0,
            page_bytes: 0,
            delay_bytes: 0,
            dlq_bytes: 0,
            counters: Vec::new(),
        }
    }
}

impl Totals {
    pub fn counters_mut(&mut self, d: DestinationId) -> &mut Counters {
        let n = usize::from(d.0);
        if self.counters.len() <= n {
            self.counters.resize(n + 1, Counters::default());
        }
        &mut self.counters[n]
    }

    /// The tally of a destination as it stands; zeros where it never had a delivery.
    pub fn counters_of(&self, d: DestinationId) -> Counters {
        self.counters.get(usize::from(d.0)).cloned().unwrap_or_default()
    }

    /// How far the store has come.
    pub fn reached(&self) -> Watermark {
        Watermark { next_sequence: self.next_sequence.0, next_settlement: self.next_settlement }
    }

    pub fn sum(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(of).sum()
    }
}

/// A destination asked not to be called before `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub until: Timestamp,
    pub reason: String,
}

/// Whether an operator lets events in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntakeOverride {
    Open,
    /// Closed by hand, until then; [`Timestamp::NEVER`] where only a hand opens it again.
    Closed {
        who: String,
        reason: String,
        since: Timestamp,
        until: Timestamp,
    },
}

impl IntakeOverride {
    /// Whether both are of the same word, apart from when it was given.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let word = |intake_override: &Self| match intake_override {
            Self::Open => None,
            Self::Closed { who, reason, until, .. } => Some((who.clone(), reason.clone(), *until)),
        };
        word(self) == word(other)
    }
}

/// A time in which events could not be accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    pub from: Timestamp,
    /// [`Timestamp::NEVER`] while it lasts.
    pub until: Timestamp,
    pub reason: String,
    /// Requests refused in it, as far as they reached the daemon.
    pub refused: u64,
}

impl Outage {
    /// How long it lasted, or has lasted.
    pub fn length(&self, now: Timestamp) -> std::time::Duration {
        self.until.min(now).since(self.from)
    }
}

/// A damaged record: bytes of a table that did not verify, kept as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRecord {
    /// When it was found.
    pub at: Timestamp,
    pub table: String,
    /// Sequence zero where it was of no delivery.
    pub id: DeliveryId,
    pub why: String,
    pub bytes: Vec<u8>,
}

impl DamagedRecord {
    /// The delivery that was lost with it; of a page, the first of them. None where it was of no delivery.
    pub fn delivery(&self) -> Option<DeliveryId> {
        Some(self.id).filter(|id| id.sequence != Sequence::default())
    }
}
