//! Certificates in use, as the status shows them.

use super::Admin;
use serde::Serialize;
use utoipa::ToSchema;

/// A certificate in use, or the first to end of several in one file.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CertificateItem {
    /// `intake`, or the name of a destination.
    pub of: String,
    /// `own`: it proves who holdline is. `authority`: it proves who others are.
    pub role: &'static str,
    #[schema(format = DateTime)]
    ends_at: String,
    /// Below zero where it has ended.
    pub ends_in_s: i64,
}

impl Admin {
    pub(super) fn certificate_items(&self) -> Vec<CertificateItem> {
        // by the clock on the wall, as those judge who are shown one
        let now = self.clock.wall();
        let seconds = |millis: u64| i64::try_from(millis / 1000).unwrap_or(i64::MAX);
        let all = self.certificates().into_iter();
        all.map(|certificate| CertificateItem {
            of: certificate.of,
            role: certificate.role.word(),
            ends_at: certificate.ends.to_string(),
            ends_in_s: seconds(certificate.ends.0) - seconds(now.0),
        })
        .collect()
    }
}
