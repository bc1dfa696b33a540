//! The records of history, settlements, counters, holds, intake, outages and damaged records.
//!
//! *Format.* A row of `history` or `settled` covers consecutive numbers, the first of which is its key; the next row begins
//! after its last number. So a missing row is detected as a hole in the numbers.

use super::watermark::Watermark;
use crate::delivery::DeliveryId;
use crate::event::{DestinationId, DestinationSet, Digest64, Event, EventId, Sequence};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The number of a name that has none.
pub const UNNAMED: u16 = u16::MAX;
/// Estimated size of a delayed delivery or a dead letter without the body, with a few attempts.
const COPY_OVERHEAD: u64 = 512;

/// What the history stores of an event for the deduplication window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Digest of source and sender id; `NONE` if the sender gave no id.
    pub sender: Digest64,
    pub body: Digest64,
    pub interaction_hash: Digest64,
    /// The event's own time; zero if the sender gave none.
    pub time: Timestamp,
    pub received_at: Timestamp,
    pub source: u16,
    pub kind: u16,
    pub to: DestinationSet,
    pub size: u32,
    /// The previous event with the same sender id and another body; zero if there is none.
    pub prior: Sequence,
}

impl Entry {
    /// `digests` are those of the sender id and of the interaction.
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

    /// The event's own time, as given by the sender.
    pub fn event_time(&self) -> Option<Timestamp> {
        Some(self.time).filter(|time| *time > Timestamp::ZERO)
    }

    /// Average bytes that a delivery of one of these events may take outside its page. It counts bodies uncompressed, since
    /// it is unknown how well they compress there.
    pub fn copy_bytes(of: &[Self]) -> u32 {
        let deliveries: u64 = of.iter().map(|e| e.to.count()).sum();
        let bytes: u64 = of.iter().map(|e| e.to.count() * (u64::from(e.size) + COPY_OVERHEAD)).sum();
        u32::try_from(bytes.checked_div(deliveries).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// Source and body length of each of these events.
    pub fn owners(of: &[Self]) -> Vec<(u16, u32)> {
        of.iter().map(|e| (e.source, e.size)).collect()
    }

    /// Erases all but the time of receipt, the source and the destinations.
    pub fn erase(&mut self) {
        (self.sender, self.body, self.interaction_hash) = (Digest64::NONE, Digest64::NONE, Digest64::NONE);
        (self.time, self.kind, self.size, self.prior) = (Timestamp::ZERO, UNNAMED, 0, Sequence::default());
    }

    /// Whether the event was erased: every other event has a digest of its body.
    pub fn is_erased(&self) -> bool {
        self.body.is_none()
    }

    pub fn id(&self, sequence: Sequence) -> EventId {
        EventId::new(self.received_at, sequence, self.body)
    }
}

/// A page among those that contain the events of a history row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageShape {
    pub count: u16,
    /// Sealed length of the page.
    pub bytes: u32,
}

/// History entries of consecutive sequences, the first of which is the row's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRow {
    pub pages: Vec<PageShape>,
    pub entries: Vec<Entry>,
}

impl HistoryRow {
    /// Limit of entries per row, so that a row with one page per entry stays within [`super::table::ROW_MAX`].
    pub const ENTRIES_MAX: usize = 230;

    pub fn append(&mut self, other: Self) {
        self.pages.extend(other.pages);
        self.entries.extend(other.entries);
    }
}

/// How a delivery left the place where it was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub enum EndKind {
    Delivered,
    Discarded,
    Dead,
    /// It was moved to the delay tree.
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

/// The record that a delivery left the place where it was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settlement {
    pub id: DeliveryId,
    pub how: EndKind,
    pub attempts: u16,
    /// Status of the last response; zero if there was none.
    pub status: u16,
    pub at: Timestamp,
}

/// Settlements with consecutive numbers, the first of which is the row's key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledRow {
    pub settlements: Vec<Settlement>,
}

impl SettledRow {
    /// Each takes 22 bytes.
    pub const SETTLEMENTS_MAX: usize = 700;
}

/// Counters of the deliveries for one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub accepted: u64,
    pub delivered: u64,
    pub discarded: u64,
    /// Present number of dead letters.
    pub dead: u64,
    /// Present number of delayed deliveries.
    pub delayed: u64,
}

impl Counters {
    /// Number of waiting deliveries, in pages and in the delay tree.
    pub fn queued(&self) -> u64 {
        self.accepted.saturating_sub(self.delivered + self.discarded + self.dead)
    }
}

/// The counters of the store, written with every commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub next_sequence: Sequence,
    pub next_settlement: u64,
    pub next_audit: u64,
    pub next_damaged: u64,
    /// First sequence that `history` still contains.
    pub history_head: Sequence,
    /// First settlement that `settled` still contains.
    pub settled_head: u64,
    /// No page before this sequence exists any more.
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

    /// The counters of a destination; zeros if it never had a delivery.
    pub fn counters_of(&self, d: DestinationId) -> Counters {
        self.counters.get(usize::from(d.0)).cloned().unwrap_or_default()
    }

    /// The next sequence and the next settlement.
    pub fn reached(&self) -> Watermark {
        Watermark { next_sequence: self.next_sequence.0, next_settlement: self.next_settlement }
    }

    pub fn sum(&self, of: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(of).sum()
    }
}

/// A destination's request not to be called before `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub until: Timestamp,
    pub reason: String,
}

/// An operator's decision about intake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntakeOverride {
    Open,
    /// Closed by an operator until then; [`Timestamp::NEVER`] if only an operator can open it again.
    Closed {
        who: String,
        reason: String,
        since: Timestamp,
        until: Timestamp,
    },
}

impl IntakeOverride {
    /// Whether both are equal apart from the time of the command.
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
    /// [`Timestamp::NEVER`] while the outage lasts.
    pub until: Timestamp,
    pub reason: String,
    /// Requests refused during the outage, of those that reached the daemon.
    pub refused: u64,
}

impl Outage {
    /// Duration of the outage, up to `now` if it has not ended.
    pub fn length(&self, now: Timestamp) -> std::time::Duration {
        self.until.min(now).since(self.from)
    }
}

/// A damaged record: bytes of a table that did not verify, stored unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedRecord {
    /// When it was found.
    pub at: Timestamp,
    pub table: String,
    /// Sequence zero if the record belonged to no delivery.
    pub id: DeliveryId,
    pub why: String,
    pub bytes: Vec<u8>,
}

impl DamagedRecord {
    /// The delivery that was lost with the record; for a page, its first one. `None` if the record belonged to no delivery.
    pub fn delivery(&self) -> Option<DeliveryId> {
        Some(self.id).filter(|id| id.sequence != Sequence::default())
    }
}
