//! The certificate of intake: taken anew when its files change.

use crate::net::tls::{Look, Tls};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the files have changed.
const EVERY: Duration = Duration::from_secs(2);

/// Takes the certificate anew when its files change, until `stop`.
pub async fn watch_certificate(tls: Arc<Tls>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    while tokio::select! { () = stop.cancelled() => false, _ = ticks.tick() => true } {
        let tls = tls.clone();
        match tokio::task::spawn_blocking(move || tls.look()).await {
            Ok(Look::Renewed) => tracing::info!("new connections get the new certificate of intake.tls"),
            Ok(Look::Unusable(why)) => tracing::error!("the certificate before stays in force: {why}"),
            Ok(Look::Unchanged) | Err(_) => {}
        }
    }
}
