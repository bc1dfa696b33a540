//! The only reader of time: the system's clock, or one that a test moves by hand.
//!
//! *Invariants.* `now` never goes back and never jumps: it is the wall clock as it stood at the start of the process plus
//! the monotonic time since. So a step of the wall clock neither strands nor storms what is due. `wall` is the clock on
//! the wall; only what comes from outside as a date is compared with it.

use crate::time::{Timestamp, millis};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System { wall_at_start: Timestamp, start: Instant },
    Manual(Arc<watch::Sender<Timestamp>>),
}

impl Clock {
    #[allow(clippy::disallowed_methods)] // the one place that reads time
    pub fn system() -> Self {
        Self(Kind::System { wall_at_start: Timestamp::from_system(SystemTime::now()), start: Instant::now() })
    }

    /// A clock that stands at `now` until it is moved with [`Clock::advance`].
    pub fn manual(now: Timestamp) -> Self {
        Self(Kind::Manual(Arc::new(watch::Sender::new(now))))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Kind::System { wall_at_start, start } => wall_at_start.after(start.elapsed()),
            Kind::Manual(now) => *now.borrow(),
        }
    }

    /// The clock on the wall, which can be stepped at any moment.
    #[allow(clippy::disallowed_methods)]
    pub fn wall(&self) -> Timestamp {
        match &self.0 {
            Kind::System { .. } => Timestamp::from_system(SystemTime::now()),
            Kind::Manual(now) => *now.borrow(),
        }
    }

    /// The time since this clock was made; for measuring what takes less than a millisecond.
    pub fn precise(&self) -> Duration {
        match &self.0 {
            Kind::System { start, .. } => start.elapsed(),
            Kind::Manual(now) => Duration::from_millis(now.borrow().0),
        }
    }

    /// Returns once `now` has reached `until`; not a moment before.
    #[allow(clippy::disallowed_methods)]
    pub async fn sleep_until(&self, until: Timestamp) {
        match &self.0 {
            Kind::System { .. } => {
                while self.now() < until {
                    tokio::time::sleep(until.since(self.now())).await;
                }
            }
            Kind::Manual(now) => {
                let mut moved = now.subscribe();
                // the sender lives in `self`, so waiting cannot fail
                let _ = moved.wait_for(|now| *now >= until).await;
            }
        }
    }

    /// Moves a manual clock on; has no effect on the system's.
    pub fn advance(&self, by: Duration) {
        if let Kind::Manual(now) = &self.0 {
            now.send_modify(|now| *now = Timestamp(now.0 + millis(by)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers_on_time() {
        let clock = Clock::manual(Timestamp(1000));
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep_until(Timestamp(2000)).await;
                clock.now()
            }
        });
        clock.advance(Duration::from_millis(999));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_millis(1));
        assert_eq!(sleeper.await.unwrap(), Timestamp(2000));
    }
}
