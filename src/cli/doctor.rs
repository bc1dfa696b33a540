//! `holdline doctor`: what the daemon needs of its machine and its destinations; a verdict for each, and a remedy.
//!
//! What only the daemon knows is asked of it, where it runs: its data folder, its durability, its destinations. The rest is
//! looked at from here, by the configuration, and so is everything while no daemon runs. Exit code 1 where something is bad,
//! 2 where the configuration or a secret of it cannot be used.

mod certificates;
mod disk;
mod network;

use crate::api;
use crate::cli::admin_connection::{AdminConnection, Form};
use crate::cli::client::Admin;
use crate::cli::{Failure, check, format, hint, output};
use crate::config::{Flags, Settings, warnings};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Arguments of `holdline doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    reach: AdminConnection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// It works, and may not for long or not in every case.
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

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    pub verdict: Verdict,
    pub found: String,
    /// What to do; empty where nothing is.
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

/// Looks at everything and prints what was found.
pub async fn run(args: Args) -> Result<(), Failure> {
    let settings = match args.reach.shared.settings()? {
        Some(settings) => settings,
        None => Settings::embedded(&Flags::default()).map_err(|why| Failure::Usage(why.to_string()))?,
    };
    let status = status(&args.reach).await;
    let mut findings = vec![daemon(status.as_ref())];
    findings.extend(status.as_ref().ok().and_then(|status| unapplied(status, &settings)));
    findings.extend(disk::look(&settings, status.as_ref().ok()));
    findings.push(descriptors(&settings));
    findings.push(network::clock());
    let faults = check::faults_here(&settings);
    let remedy = "make the file, readable for the user that holdline runs as";
    findings.extend(faults.iter().map(|why| Finding::bad("secret", why.as_str(), remedy)));
    findings.extend(certificates::look(&settings));
    findings.extend(doubts(&settings, args.reach.shared.file().as_deref()));
    for destination in &settings.destinations {
        findings.extend(network::look(destination).await);
    }
    for (n, alert) in settings.alerts.iter().enumerate() {
        findings.extend(network::look_at_alert(n, alert).await);
    }
    match args.reach.shared.form() {
        Form::Json => output::json(&Value::Array(findings.iter().map(as_json).collect()))?,
        Form::Table => output::wrapped(&told(&findings))?,
    }
    match findings.iter().filter(|f| f.verdict == Verdict::Bad).count() {
        _ if !faults.is_empty() => Err(Failure::Usage("the configuration cannot be used as it is".to_owned())),
        0 => Ok(()),
        n => Err(Failure::Operation(format!("{} to mend", format::counted(n as u64, "fault")))),
    }
}

fn as_json(f: &Finding) -> Value {
    json!({"what": f.what, "verdict": f.verdict.word().to_lowercase(), "found": f.found, "remedy": f.remedy})
}

fn told(findings: &[Finding]) -> String {
    let mut text = String::new();
    for f in findings {
        text.push_str(&format!("{:<5} {:<24} {}\n", f.verdict.word(), format::line(&f.what, 80), f.found));
        if !f.remedy.is_empty() {
            text.push_str(&format!("      {:<24} -> {}\n", "", f.remedy));
        }
    }
    text
}

async fn status(reach: &AdminConnection) -> Result<api::Status, Failure> {
    Admin::of(reach)?.get("/v1/status").await
}

/// Destinations that the running daemon does not have as the configuration does.
fn unapplied(status: &api::Status, settings: &Settings) -> Option<Finding> {
    let run: BTreeSet<&str> = status.destinations.iter().map(|d| d.name.as_str()).collect();
    let written: BTreeSet<&str> = settings.destinations.iter().map(|d| d.name.as_str()).collect();
    let differ: Vec<&str> = run.symmetric_difference(&written).copied().collect();
    let found = format!("the running daemon goes by another one: destinations {}", differ.join(", "));
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
        Err(Failure::Usage(why)) => Finding::doubtful("daemon", format!("not asked: {why}"), "mend that first"),
        Err(_) => Finding::doubtful("daemon", "it does not let us in", "give its token with --token-file"),
    }
}

/// Each connection, each request in flight and sled's files take a descriptor.
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

/// What `check` warns of; the mode of the data folder is told with the disk.
fn doubts(settings: &Settings, file: Option<&Path>) -> Vec<Finding> {
    let warnings = warnings(settings, file).into_iter().filter(|warning| warning.place != "store.path");
    warnings.map(|w| Finding::doubtful(w.place, w.message, w.remedy)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_a_verdict_and_each_fault_a_remedy() {
        let findings = [
            Finding::good("disk", "fine"),
            Finding::doubtful("clock", "not known", "run ntp"),
            Finding::bad("dns crm", "no such name", "mend it"),
        ];
        let text = told(&findings);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.contains("BAD   dns crm") && text.contains("-> mend it"), "{text}");
        assert_eq!(as_json(&findings[2])["verdict"], "bad");
    }
}
