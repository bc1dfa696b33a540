//! The deadlines of a connection's heads: one entry in the runtime's timer, moved on only when it rings.
//!
//! hyper asks for a timer before each head and drops it once the head is there. With tokio's own that is an entry made
//! and removed for each request, under a lock that all connections share. Here the entry stays where it is; when it rings,
//! the deadline that counts by then is looked at, and mostly lies ahead.

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// The timer of one connection.
#[derive(Clone, Debug, Default)]
pub struct Deadlines(Arc<Mutex<Option<Alarm>>>);

type Alarm = Pin<Box<tokio::time::Sleep>>;

#[derive(Debug)]
struct Deadline {
    at: tokio::time::Instant,
    alarm: Deadlines,
}

#[allow(clippy::disallowed_methods)] // a peer's deadline is real time, whatever clock a test moves
impl Future for Deadline {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.alarm.0.lock().expect("no holder panics");
        let alarm = alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.at)));
        if alarm.deadline() > self.at {
            alarm.as_mut().reset(self.at);
        }
        loop {
            ready!(alarm.as_mut().poll(cx));
            if alarm.deadline() >= self.at {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(self.at);
        }
    }
}

impl Sleep for Deadline {}

impl Timer for Deadlines {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Deadline { at: deadline.into(), alarm: self.clone() })
    }

    fn now(&self) -> Instant {
        TokioTimer::new().now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn pending(deadline: &mut Pin<Box<dyn Sleep>>, cx: &mut Context<'_>) -> bool {
        deadline.as_mut().poll(cx).is_pending()
    }

    #[tokio::test]
    async fn each_deadline_is_kept_whatever_came_before_it() {
        let (deadlines, begin) = (Deadlines::default(), tokio::time::Instant::now());
        let after = |ms| begin + Duration::from_millis(ms);
        let mut first = deadlines.sleep_until(after(20).into());
        assert!(poll_fn(|cx| Poll::Ready(pending(&mut first, cx))).await);
        drop(first); // the head came in time
        deadlines.sleep_until(after(40).into()).await;
        assert!(tokio::time::Instant::now() >= after(40), "later than the alarm that was set");
        let mut late = deadlines.sleep_until(after(3_600_000).into());
        assert!(poll_fn(|cx| Poll::Ready(pending(&mut late, cx))).await);
        deadlines.sleep_until(after(60).into()).await;
        assert!(tokio::time::Instant::now() >= after(60), "earlier than the alarm that was set");
        assert!(poll_fn(|cx| Poll::Ready(pending(&mut late, cx))).await);
    }
}
