//! The anchor: at each start the clock of this life is compared with that of the one before, and what was to last for a
//! while (`Retry-After`, pauses, an open breaker, a closed door) keeps its length where the wall clock was stepped.

use crate::clock::Clock;
use crate::store::{Change, Store, StoreError};

/// To be called before anything stored is gone by.
pub async fn drop_anchor(store: &Store, clock: &Clock) -> Result<(), StoreError> {
    let Some(anchor) = clock.anchor() else { return Ok(()) };
    let before = store.anchor();
    let step = before.as_ref().and_then(|before| anchor.step_since(before));
    if let Some(step) = step {
        tracing::warn!(%step, "the wall clock was stepped since the last start; what is to last for a while keeps its length");
    } else if before.is_some_and(|before| anchor.goes_on_from(&before)) {
        return Ok(());
    }
    store.change(Change::ClockReference { anchor, step }, String::new()).await.map(drop)
}
