//! The store: the only room that knows sled. Events go in, deliveries come out, and what was told is on disk.
//!
//! *Invariants.* [`Store::accept`] returns only when the events would survive a power cut. Every delivery of an accepted
//! event lies in a page, in the delay tree or in the dead letter queue, or has a settlement. After one failed write or
//! sync nothing is acknowledged any more, and [`Store::failure`] tells why.
//!
//! *Format.* Ten trees, all shaped like a queue (appended at the tail, trimmed at the head), because sled neither
//! forgives random long-lived keys nor values over 16 KiB:
//! ```text
//! pages       first sequence -> packed events of one commit       until all their deliveries have left
//! settled     number -> packed settlements                        as long as history
//! delay       due, sequence, destination -> waiting delivery      until it is due and tried
//! dlq         sequence, destination -> dead letter                until redriven or purged
//! history     first sequence -> packed entries                    for the deduplication window
//! meta        totals, names, holds, overrides, anchor, told         rewritten in place
//! audit       number -> change made by an operator
//! quarantine  number -> damaged record: bytes that did not verify
//! gaps        number -> a time in which events could not be accepted
//! detained    number -> a request that was not accepted            until let in, or too old
//! ```
//!
//! # Levels: a module imports only from modules of lower levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`model`] | what lies on disk: records, codec, tables, keys |
//! | 0 | [`sled_log`] | reads sled's log files; knows no record |
//! | 1 | [`engine`] | sled behind a guarded open and an atomic, durable commit; the folder and the disk space around it |
//! | 2 | [`index`] | what is kept in memory, its recovery and its check |
//! | 3 | [`write`] | requests, the transaction that decides them, the thread that commits |
//! | 4 | [`handle`] | [`Store`]: open, write, watch |
//! | 5 | [`read`] | queries, lists, backup |
//! | 6 | [`offline`] | check, repair, restore and salvage of a store that no daemon runs on |

mod engine;
mod handle;
mod index;
mod model;
mod offline;
mod read;
mod sled_log;
mod write;

#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod loss_tests;

pub use engine::disk_space::{Space, SpaceReservation};
pub use engine::error::{Durability, StoreError};
pub use engine::folder::Free;
pub use handle::{Opened, Options, Store};
pub use index::history::{Bounds, HistoryUsage};
pub use index::quarantine_index::{Full, Room};
pub use index::recovery::Findings;
pub use index::shares::SourceUsage;
pub use model::audit::{Audit, Repeated};
pub use model::codec::Damaged;
pub use model::destination::{BreakerOverride, DestinationOverrides, PacingState, Pause, Position};
pub use model::destination::{Redrive, RedriveEnd, RedriveEnded, RedriveResults, StoppedBy};
pub use model::event_record::Head;
pub use model::quarantined_request::{Cause, Proof, QuarantinedRequest};
pub use model::record::{Counters, DamagedRecord, EndKind, Entry, Hold, IntakeOverride, Outage, Settlement, Totals};
pub use offline::restore::{Inventory, repair, restore, verify};
pub use offline::salvage::{Salvaged, salvage};
pub use read::ages::Ages;
pub use read::view::PageHeads;
pub use write::request::{Arrival, Change, DlqAction, Receipt, StoreEvent, Transition};
pub use write::request::{Erased, Erasure, EventLocation, EventLocations};
pub use write::transaction::Windows;
