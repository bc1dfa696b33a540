//! Farewell: when a connection may be told to end, so that nobody who has just connected is turned away unheard.
//!
//! A connection of which nothing has been read yet is closed at once by hyper's graceful shutdown, and what its client
//! has sent is answered with a reset. So such a one gets a moment for its first request.

use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a first request is waited for.
const MOMENT: Duration = Duration::from_millis(500);

/// Returns when listeners stop and the connection's first request has `begun`, or a moment has passed without one.
pub async fn due(stop: &CancellationToken, begun: &CancellationToken) {
    stop.cancelled().await;
    let _ = tokio::time::timeout(MOMENT, begun.cancelled()).await;
}
