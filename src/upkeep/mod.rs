//! Upkeep: what the daemon looks after by itself, from time to time: room for more events, the bounds of the dead letter
//! queue, the quarantine, the certificate, and a record of when events could not be accepted.

mod anchor;
mod certificate;
mod gaps;
mod history;
mod letters;
mod quarantine;
mod redrive;
mod room;
mod trend;

pub use anchor::drop_anchor;
pub use certificate::watch_certificate;
pub use gaps::{since_last_time, watch_gaps};
pub use history::watch_history;
pub use letters::{Beyond, watch_dlq};
pub use quarantine::watch_quarantine;
pub use redrive::watch_redrives;
pub use room::watch_admission;
pub use trend::{Outlook, Rates, Trend, watch_trend};
