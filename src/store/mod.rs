//! The store: the only module that uses sled. It stores events, their deliveries and what has become of them, durably.
//!
//! *Invariants.* [`Store::accept`] returns only after the events are durable. Every delivery of an accepted event is stored
//! in exactly one of a page, the delay tree and the dead letter queue, or it has a settlement. After one failed write or
//! sync the store acknowledges nothing more, and [`Store::failure`] gives the reason.
//!
//! *Format.* Ten sled trees. All but `meta` are used as queues (rows are appended at the tail and deleted at the head),
//! because sled handles neither long-lived random keys nor values over 16 KiB well:
//! ```text
//! tree        key -> value                                        kept
//! pages       first sequence -> packed events of one commit       until all their deliveries have left the page
//! settled     number -> packed settlements (ends of deliveries)   within the history limits
//! delay       due time, sequence, destination -> delivery         until its next attempt has ended
//! dlq         sequence, destination -> dead letter                until redriven or discarded
//! history     first sequence -> packed history entries            within the history limits
//! meta        totals, names, holds, overrides, clock reference, heartbeat, alert state: rewritten in place
//! audit       number -> audit entry                               the last 100,000
//! quarantine  number -> damaged record, with its bytes            until an operator erases it
//! gaps        number -> outage                                    the last 10,000
//! detained    number -> quarantined request                       until readmitted, discarded or expired
//! ```
//! The names of the last three trees are older than these terms; `Table::name` maps them.
//!
//! # Levels: a module imports only from modules of lower levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`model`] | what is stored: records, codec, tables, keys |
//! | 0 | [`sled_log`] | reads sled's log files, without knowledge of records |
//! | 1 | [`engine`] | opens sled, commits write batches durably; data folder and disk space |
//! | 2 | [`index`] | the state in memory, its recovery and its check |
//! | 3 | [`write`] | requests, the transaction that decides them, the thread that commits |
//! | 4 | [`handle`] | [`Store`]: opens, writes, reports its state |
//! | 5 | [`read`] | queries, lists, backup |
//! | 6 | [`offline`] | check, repair, restore and salvage of a store that no daemon uses |

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
