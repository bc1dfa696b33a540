//! Background work of the daemon: admission by free space, limits of stored data, redrives, outages, forecasts.
//!
//! Each `watch_*` function is one task that runs until its `stop` is cancelled, or until the store has failed.
//! # Levels: a module imports only from modules of lower levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`intake_gate`] | opens and closes intake by free space |
//! | 0 | [`outages`] | records when events could not be accepted |
//! | 0 | [`redrive`] | redrives with a rate or a canary |
//! | 0 | [`retention`] | limits of dead letters, quarantine and history |
//! | 0 | [`trend`] | rates and forecasts |

mod intake_gate;
mod outages;
mod redrive;
mod retention;
mod trend;

pub use intake_gate::watch_intake;
pub use outages::{record_downtime, watch_outages};
pub use redrive::watch_redrives;
pub use retention::{DlqOverflow, watch_dlq, watch_history, watch_quarantine};
pub use trend::{Forecast, Rates, Trend, watch_trend};

use crate::clock::Clock;
use crate::net::tls::{ReloadResult, Tls};
use crate::store::{Change, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Interval between checks of the files of a certificate.
const CERTIFICATE_EVERY: Duration = Duration::from_secs(2);

/// Reloads the certificate of intake when its files change, until `stop`.
pub async fn watch_certificate(tls: Arc<Tls>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(CERTIFICATE_EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let tls = tls.clone();
        match tokio::task::spawn_blocking(move || tls.reload_if_changed()).await {
            Ok(ReloadResult::Reloaded) => tracing::info!("intake.tls: new connections get the new certificate"),
            Ok(ReloadResult::Unusable(why)) => {
                tracing::error!("intake.tls: the certificate before stays in use: {why}");
            }
            Ok(ReloadResult::Unchanged) | Err(_) => {}
        }
    }
}

/// Compares the clock with that of the previous process, and shifts stored times if the wall clock was stepped, so that
/// durations in progress (`Retry-After`, a pause, an open breaker, closed intake) keep their length.
///
/// Must be called before any stored time is used.
pub async fn apply_clock_step(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    let Some(reference) = clock.reference() else { return Ok(()) };
    let earlier = store.clock_reference();
    let step = earlier.as_ref().and_then(|earlier| reference.step_since(earlier));
    if let Some(step) = step {
        tracing::warn!(%step, "the wall clock was stepped since the last start; pauses and waits keep their length");
    } else if earlier.is_some_and(|earlier| reference.goes_on_from(&earlier)) {
        return Ok(());
    }
    store.change(Change::ClockReference { clock_reference: reference, step }, String::new()).await.map(drop)
}
