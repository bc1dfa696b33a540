//! `holdline doctor`: checks what the daemon needs of its machine and its destinations, with a verdict and a remedy for
//! each.
//!
//! Data folder, durability and destinations come from the running daemon. Everything else is checked locally from the
//! configuration, and so are all of these if no daemon runs. Exit code 1 if a finding is bad, 2 if the configuration or one
//! of its secrets cannot be used.

mod disk;
mod network;
use crate::api;
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::{Failure, check, format, hint, output};
use crate::clock::Clock;
use crate::config::{Flags, Settings, warnings};
use crate::net::tls::first_end_in;
use crate::time::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Arguments of `holdline doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: AdminConnection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// It works, and may fail later or in some cases.
    Doubtful,
    Bad,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Doubtful => "warn",
            Self::Bad => "BAD",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub verdict: Verdict,
    pub found: String,
    /// What to do; empty if nothing is needed.
    pub remedy: String,
}

impl Finding {
    pub fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Good, found: found.into(), remedy: String::new() }
    }

    pub fn doubtful(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Doubtful, remedy: remedy.into(), ..Self::good(what, found) }
    }

    pub fn bad(what: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::doubtful(what, found, remedy) }
    }
}

/// Runs all checks and prints the findings.
pub async fn run(args: Args) -> Result<(), Failure> {
    let settings = match args.connection.shared.settings()? {
        Some(settings) => settings,
        None => Settings::embedded(&Flags::default()).map_err(|why| Failure::Usage(why.to_string()))?,
    };
    let status = status(&args.connection).await;
    let mut findings = vec![daemon(status.as_ref())];
    findings.extend(status.as_ref().ok().and_then(|status| unapplied(status, &settings)));
    findings.extend(disk::look(&settings, status.as_ref().ok()));
    findings.push(descriptors(&settings));
    findings.push(network::clock());
    let faults = check::faults_here(&settings);
    let remedy = "make the file, readable for the user that holdline runs as";
    findings.extend(faults.iter().map(|why| Finding::bad("secret", why.as_str(), remedy)));
    findings.extend(certificates(&settings));
    findings.extend(doubts(&settings, args.connection.shared.file().as_deref()));
    for destination in &settings.destinations {
        findings.extend(network::look(destination).await);
    }
    for (n, alert) in settings.alerts.iter().enumerate() {
        findings.extend(network::look_at_alert(n, alert).await);
    }
    match args.connection.shared.form() {
        Form::Json => output::json(&Value::Array(findings.iter().map(as_json).collect()))?,
        Form::Table => output::wrapped(&as_text(&findings))?,
    }
    match findings.iter().filter(|f| f.verdict == Verdict::Bad).count() {
        _ if !faults.is_empty() => Err(Failure::Usage("the configuration cannot be used as it is".to_owned())),
        0 => Ok(()),
        n => Err(Failure::Operation(format!("{} to repair", format::counted(n as u64, "fault")))),
    }
}

fn as_json(f: &Finding) -> Value {
    json!({"what": f.what, "verdict": f.verdict.word().to_lowercase(), "found": f.found, "remedy": f.remedy})
}

fn as_text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for f in findings {
        text.push_str(&format!("{:<5} {:<24} {}\n", f.verdict.word(), format::line(&f.what, 80), f.found));
        if !f.remedy.is_empty() {
            text.push_str(&format!("      {:<24} -> {}\n", "", f.remedy));
        }
    }
    text
}

async fn status(connection: &AdminConnection) -> Result<api::Status, Failure> {
    Admin::of(connection)?.get("/v1/status").await
}

/// Destinations that differ between the running daemon and the configuration.
fn unapplied(status: &api::Status, settings: &Settings) -> Option<Finding> {
    let run: BTreeSet<&str> = status.destinations.iter().map(|d| d.name.as_str()).collect();
    let written: BTreeSet<&str> = settings.destinations.iter().map(|d| d.name.as_str()).collect();
    let differ: Vec<&str> = run.symmetric_difference(&written).copied().collect();
    let found = format!("the running daemon uses another one, which differs in the destinations {}", differ.join(", "));
    let remedy = "name its configuration with --config, or have it read: sudo systemctl reload holdline";
    (!differ.is_empty()).then(|| Finding::doubtful("configuration", found, remedy))
}

fn daemon(status: Result<&api::Status, &Failure>) -> Finding {
    match status {
        Ok(status) if status.intake.open => {
            let durability = &status.durability;
            Finding::good("daemon", format!("running, intake open, durability {durability}"))
        }
        Ok(status) => {
            let reason = format::or_dash(status.intake.reason.as_deref());
            let (outages, open) = (hint::command("outages"), hint::command("intake open"));
            let remedy = format!("see `{outages}`; `{open}` if it was closed by hand");
            Finding::bad("daemon", format!("running, but intake is closed: {reason}"), remedy)
        }
        Err(Failure::Unreachable(_)) => {
            let remedy = format!("start it: {}; or say with --admin URL where it is", hint::start());
            Finding::doubtful("daemon", "not running, or not where it was looked for", remedy)
        }
        Err(Failure::Usage(why)) => Finding::doubtful("daemon", format!("not asked: {why}"), "repair that first"),
        Err(_) => Finding::doubtful("daemon", "it refuses the token", "give its token with --token-file"),
    }
}

/// Checks the limit of file descriptors: each connection, each request in flight and each file of sled takes one.
fn descriptors(settings: &Settings) -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let out: usize = settings.destinations.iter().map(|d| d.concurrency_max).sum();
    let wanted = (settings.intake.max_connections + out + 256 + 64) as u64;
    let found = format!("{} allowed here, {} can be wanted", format::count(limit), format::count(wanted));
    if limit >= wanted {
        Finding::good("open files", found)
    } else {
        let remedy = format!("set LimitNOFILE={wanted} in the unit, or lower intake.max_connections");
        Finding::doubtful("open files", found, remedy)
    }
}

/// The warnings of `check`, except the mode of the data folder, which is a finding of the disk.
fn doubts(settings: &Settings, file: Option<&Path>) -> Vec<Finding> {
    let warnings = warnings(settings, file).into_iter().filter(|warning| warning.place != "store.path");
    warnings.map(|w| Finding::doubtful(w.place, w.message, w.remedy)).collect()
}

/// Certificates that expire within this time are reported.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 86_400);

/// When the configured certificates expire; one finding per file.
fn certificates(settings: &Settings) -> Vec<Finding> {
    let now = Clock::system().wall();
    let mut findings = Vec::new();
    if let Some(tls) = &settings.intake.tls {
        findings.push(certificate("intake tls.cert", &tls.cert, now));
        findings.extend(tls.client_ca.as_deref().map(|path| certificate("intake tls.client_ca", path, now)));
    }
    for destination in &settings.destinations {
        let own = destination.tls.identity.as_ref().map(|identity| ("tls.cert", identity.cert.as_path()));
        let files = own.into_iter().chain(destination.tls.ca.as_deref().map(|path| ("tls.ca", path)));
        findings.extend(files.map(|(key, path)| certificate(&format!("{} {key}", destination.name), path, now)));
    }
    findings
}

fn certificate(what: &str, path: &Path, now: Timestamp) -> Finding {
    let remedy = "put a renewed certificate into the file; for a destination, restart holdline then";
    match first_end_in(path) {
        None => {
            let found = format!("{}: no certificate can be read", path.display());
            Finding::bad(what, found, "write certificates in PEM that the user may read whom holdline runs as")
        }
        Some(end) if end <= now => Finding::bad(what, format!("ended {}", format::ago(end, now)), remedy),
        Some(end) if end.since(now) < CERTIFICATE_SOON => {
            Finding::doubtful(what, format!("ends {}, at {end}", format::ago(end, now)), remedy)
        }
        Some(end) => Finding::good(what, format!("ends {}", format::ago(end, now))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_a_verdict_and_each_fault_a_remedy() {
        let findings = [
            Finding::good("disk", "fine"),
            Finding::doubtful("clock", "not known", "run ntp"),
            Finding::bad("dns crm", "no such name", "repair it"),
        ];
        let text = as_text(&findings);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("BAD   dns crm") && text.contains("-> repair it"), "{text}");
        assert_eq!(as_json(&findings[2])["verdict"], "bad");
    }

    #[test]
    fn a_certificate_is_good_then_doubtful_then_bad() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cert.pem");
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 6, 15);
        let signed = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        std::fs::write(&path, signed.pem()).unwrap();
        for (now, verdict) in [
            ("2030-05-31T00:00:00Z", Verdict::Good),
            ("2030-06-02T00:00:00Z", Verdict::Doubtful),
            ("2030-06-15T00:00:01Z", Verdict::Bad),
        ] {
            assert_eq!(certificate("intake", &path, format::instant(now).unwrap()).verdict, verdict, "{now}");
        }
        assert_eq!(certificate("intake", &folder.path().join("none"), Timestamp(1)).verdict, Verdict::Bad);
    }
}
