//! Upkeep: what the daemon looks after by itself, from time to time: room for more events, the bounds of the dead letter
//! queue, the quarantine, the certificate, and a record of when events could not be accepted.

mod certificate;
mod clock_reference;
mod dlq_limits;
mod history;
mod intake_gate;
mod outages;
mod quarantine;
mod redrive;
mod trend;

pub use certificate::watch_certificate;
pub use clock_reference::drop_anchor;
pub use dlq_limits::{DlqOverflow, watch_dlq};
pub use history::watch_history;
pub use intake_gate::watch_admission;
pub use outages::{since_last_time, watch_gaps};
pub use quarantine::watch_quarantine;
pub use redrive::watch_redrives;
pub use trend::{Forecast, Rates, Trend, watch_trend};
