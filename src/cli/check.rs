//! `holdline check`: prints every fault of a configuration.
//!
//! It also reads the secrets and certificates that a start reads. Secrets from environment variables or systemd credentials
//! may be set for the service only: if one is missing here, it is listed as not checked and is no fault. No secret is shown.

use crate::cli::{Failure, admin_connection, format, output};
use crate::config::settings::{AlertTo, Destination, DestinationAuth, Secret, ServerTls, Source, Token, Url};
use crate::config::{Settings, unsigned_places, warnings};
use crate::dispatch;
use crate::intake;
use crate::net::tls::{Files, Tls};
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `holdline check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration to validate [default: /etc/holdline/holdline.toml, where it is there]
    #[arg(long, value_name = "FILE", env = admin_connection::CONFIG)]
    config: Option<PathBuf>,
}

/// Prints warnings to stderr, and faults with exit code 2. Without faults it prints one line to stdout, and one for each
/// secret that is not set here.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let path = admin_connection::found(args.config.as_deref());
    let path = path.ok_or_else(|| Failure::Usage("say which configuration, with --config FILE".to_owned()))?;
    let settings = match crate::config::load(&path) {
        Ok(settings) => settings,
        Err(faults) => {
            output::note(&faults.to_string());
            return Ok(ExitCode::from(2));
        }
    };
    for warning in warnings(&settings, Some(&path)) {
        output::note(&format!("{}: warning: {warning}", path.display()));
    }
    let (path, Findings { faults, unchecked }) = (path.display(), Findings::of(&settings));
    if !faults.is_empty() {
        faults.iter().for_each(|fault| output::note(&format!("{path}: {fault}")));
        return Ok(ExitCode::from(2));
    }
    let sources = format::counted(settings.sources.len() as u64, "source");
    let destinations = format::counted(settings.destinations.len() as u64, "destination");
    let mut text = format!("{path}: ok ({sources}, {destinations})\n");
    for secret in unchecked {
        text.push_str(&format!("not checked: {secret}, which is not set here; the service needs it\n"));
    }
    text.extend(settings.sources.iter().filter_map(unsigned));
    output::text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Fields that a source's preset would read but ignores, because the signature does not cover them.
fn unsigned(source: &Source) -> Option<String> {
    let places = unsigned_places(source);
    let shown = places.iter().map(|place| format!("{place:?}")).collect::<Vec<_>>().join(", ");
    (!places.is_empty()).then(|| {
        format!(
            "note: source `{}` ignores {shown}: its signature does not cover them (to use them anyway: trust_unsigned)\n",
            source.name
        )
    })
}

/// What would make a start in this environment fail: certificates, and secrets including those not set here.
pub fn faults(settings: &Settings) -> Vec<String> {
    let Findings { mut faults, unchecked } = Findings::of(settings);
    faults.extend(unchecked.into_iter().map(|secret| format!("{secret} is not set here")));
    faults
}

/// The faults that can be found from here; leaves out secrets that may be set for the service only.
pub fn faults_here(settings: &Settings) -> Vec<String> {
    Findings::of(settings).faults
}

/// What the checks found.
#[derive(Default)]
struct Findings {
    faults: Vec<String>,
    /// Secrets that may be set for the service only.
    unchecked: Vec<String>,
}

impl Findings {
    fn of(settings: &Settings) -> Self {
        let mut findings = Self::default();
        if let Some(ServerTls { cert, key, client_ca }) = settings.intake.tls.clone() {
            findings.fault("intake.tls", Tls::open(Files { cert, key, client_ca }));
        }
        if let Token::Given(secret) = &settings.admin.token {
            findings.read("admin.token", secret);
        }
        for named in &settings.admin.tokens {
            findings.read(&format!("admin.tokens, `{}`", named.name), &named.token);
        }
        settings.sources.iter().for_each(|source| findings.source(source));
        settings.destinations.iter().for_each(|destination| findings.destination(destination));
        for (n, alert) in settings.alerts.iter().enumerate() {
            if let AlertTo::Webhook(url) = &alert.to
                && url.secret().is_none_or(|secret| findings.is_readable(&format!("alert[{n}]"), secret))
            {
                findings.fault(&format!("alert[{n}]"), url.read());
            }
        }
        findings
    }

    fn fault<T, E: std::fmt::Display>(&mut self, place: &str, found: Result<T, E>) {
        if let Err(why) = found {
            self.faults.push(format!("{place}: {why}"));
        }
    }

    /// Whether a secret can be read here; if not, it is added to the unchecked ones.
    fn is_readable(&mut self, place: &str, secret: &Secret) -> bool {
        if !secret.is_elsewhere() {
            return true;
        }
        self.unchecked.push(format!("{place}: {secret}"));
        false
    }

    fn read(&mut self, place: &str, secret: &Secret) {
        if self.is_readable(place, secret) {
            self.fault(place, secret.read());
        }
    }

    /// Checks each secret separately, so that one fault hides no other.
    fn source(&mut self, source: &Source) {
        let place = format!("source `{}`", source.name);
        for secret in &source.verify_token {
            self.read(&place, secret);
        }
        for auth in &source.auth {
            for secret in auth.secrets() {
                if self.is_readable(&place, secret) {
                    let auth = vec![auth.clone().only(secret.clone())];
                    self.fault(
                        &place,
                        intake::Source::new(&Source { auth, verify_token: Vec::new(), ..source.clone() }, &[]),
                    );
                }
            }
        }
    }

    fn destination(&mut self, destination: &Destination) {
        let (place, mut here) = (format!("destination `{}`", destination.name), destination.clone());
        if here.url.as_ref().and_then(Url::secret).is_some_and(|secret| !self.is_readable(&place, secret)) {
            here.url = None;
        }
        if let Some(DestinationAuth::OAuth2(oauth2)) = &here.auth
            && oauth2.token_url.secret().is_some_and(|secret| !self.is_readable(&place, secret))
        {
            here.auth = None;
        }
        let secret = here.auth.as_ref().and_then(DestinationAuth::secret);
        match (&here.auth, secret) {
            // the secret is read when a token is requested
            (Some(DestinationAuth::OAuth2(_)), Some(secret)) => self.read(&place, secret),
            (_, Some(secret)) if !self.is_readable(&place, secret) => here.auth = None,
            _ => {}
        }
        here.sign.retain(|secret| self.is_readable(&place, secret));
        for why in dispatch::Destination::faults(&here) {
            self.faults.push(format!("{place}: {why}"));
        }
    }
}
