//! When the certificates end that the configuration names.

use super::Finding;
use crate::cli::format;
use crate::clock::Clock;
use crate::config::Settings;
use crate::net::tls::first_end_in;
use crate::time::Timestamp;
use std::path::Path;
use std::time::Duration;

/// With less time left than this it is said.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// A line for each file.
pub fn look(settings: &Settings) -> Vec<Finding> {
    let now = Clock::system().wall();
    let mut findings = Vec::new();
    if let Some(tls) = &settings.intake.tls {
        findings.push(judge("intake tls.cert", &tls.cert, now));
        findings.extend(tls.client_ca.as_deref().map(|path| judge("intake tls.client_ca", path, now)));
    }
    for destination in &settings.destinations {
        let own = destination.tls.identity.as_ref().map(|identity| ("tls.cert", identity.cert.as_path()));
        let files = own.into_iter().chain(destination.tls.ca.as_deref().map(|path| ("tls.ca", path)));
        findings.extend(files.map(|(key, path)| judge(&format!("{} {key}", destination.name), path, now)));
    }
    findings
}

fn judge(what: &str, path: &Path, now: Timestamp) -> Finding {
    let remedy = "put a renewed certificate into the file; for a destination, restart holdline then";
    match first_end_in(path) {
        None => {
            let found = format!("{}: no certificate can be read", path.display());
            Finding::bad(what, found, "write certificates in PEM that the user may read whom holdline runs as")
        }
        Some(end) if end <= now => Finding::bad(what, format!("ended {}", format::ago(end, now)), remedy),
        Some(end) if end.since(now) < SOON => {
            Finding::doubtful(what, format!("ends {}, at {end}", format::ago(end, now)), remedy)
        }
        Some(end) => Finding::good(what, format!("ends {}", format::ago(end, now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_certificate_is_good_then_doubtful_then_bad() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 6, 15);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&path, certificate.pem()).unwrap();
        for (now, verdict) in [
            ("2030-05-31T00:00:00Z", Verdict::Good),
            ("2030-06-02T00:00:00Z", Verdict::Doubtful),
            ("2030-06-15T00:00:01Z", Verdict::Bad),
        ] {
            assert_eq!(judge("intake", &path, format::instant(now).unwrap()).verdict, verdict, "{now}");
        }
        assert_eq!(judge("intake", &folder.path().join("none"), Timestamp(1)).verdict, Verdict::Bad);
    }
}
