//! Flags of `holdline serve`: they override the file, and replace it where there is none.

use super::intake::overlap;
use crate::config::settings::{Admin, Destination, Dlq, Intake, InvalidValue, Settings, Source, Store};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The flags as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--to`: the URL of the destination named `default`, or of the only one.
    pub to: Option<String>,
    /// `--data`: the directory of the store.
    pub data: Option<PathBuf>,
    pub intake: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// The name of the source and the destination without a file.
const DEFAULT: &str = "default";

impl Settings {
    /// The settings without a file.
    pub fn embedded(flags: &Flags) -> Result<Self, InvalidValue> {
        let settings = Self {
            intake: Intake::default(),
            admin: Admin::default(),
            store: Store { path: "./holdline-data".into(), ..Store::default() },
            sources: vec![Source::named(DEFAULT)],
            destinations: vec![Destination::named(DEFAULT)],
            dlq: Dlq::default(),
            quarantine: Default::default(),
            history: Default::default(),
            alerts: Vec::new(),
        };
        settings.with(flags)
    }

    /// These settings, overridden by the flags.
    pub fn with(mut self, flags: &Flags) -> Result<Self, InvalidValue> {
        if let Some(to) = &flags.to {
            let url = to
                .parse()
                .map_err(|InvalidValue { message, remedy }| InvalidValue::new(format!("--to: {message}"), remedy))?;
            self.destination_of_to()?.url = Some(url);
        }
        if let Some(data) = &flags.data {
            if data.as_os_str().is_empty() {
                return Err(InvalidValue::new("--data: the path is empty", "write the path of a directory"));
            }
            self.store.path.clone_from(data);
        }
        if let Some(intake) = flags.intake {
            self.intake.listen = vec![intake];
            self.intake.inherit = false;
        }
        if let Some(admin) = flags.admin {
            self.admin.listen = vec![admin];
        }
        for &intake in &self.intake.listen {
            if let Some(admin) = self.admin.listen.iter().find(|a| overlap(intake, **a)) {
                let remedy = "write another port for one of them, with --intake or --admin";
                let message = format!("intake ({intake}) and admin ({admin}) would share a port");
                return Err(InvalidValue::new(message, remedy));
            }
        }
        Ok(self)
    }

    fn destination_of_to(&mut self) -> Result<&mut Destination, InvalidValue> {
        let index = match self.destinations.as_slice() {
            [_] => 0,
            several => several.iter().position(|d| d.name == DEFAULT).ok_or_else(|| {
                let message = format!("--to: none of the {} destinations is named \"{DEFAULT}\"", several.len());
                InvalidValue::new(message, "leave --to out and write the url in the file")
            })?,
        };
        Ok(&mut self.destinations[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(url: &str) -> Flags {
        Flags { to: Some(url.into()), ..Flags::default() }
    }

    #[test]
    fn without_a_file_and_flags_events_wait() {
        let s = Settings::embedded(&Flags::default()).unwrap();
        assert_eq!(s.intake.listen, ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(s.admin.listen, ["127.0.0.1:8081".parse().unwrap()]);
        assert_eq!(s.store.path, PathBuf::from("./holdline-data"));
        assert_eq!((s.sources[0].name.as_str(), s.sources[0].profile.as_str()), ("default", "auto"));
        assert_eq!((s.destinations[0].name.as_str(), &s.destinations[0].url), ("default", &None));
    }

    #[test]
    fn flags_override_the_configuration() {
        let flags = Flags {
            to: Some("http://crm/x".into()),
            data: Some("/data".into()),
            intake: Some("0.0.0.0:1".parse().unwrap()),
            admin: Some("0.0.0.0:2".parse().unwrap()),
        };
        let s = Settings::embedded(&flags).unwrap();
        assert_eq!(s.destinations[0].url, Some("http://crm/x".parse().unwrap()));
        assert_eq!(s.store.path, PathBuf::from("/data"));
        assert_eq!(s.intake.listen, ["0.0.0.0:1".parse().unwrap()]);
        assert_eq!(s.admin.listen, ["0.0.0.0:2".parse().unwrap()]);
    }

    #[test]
    fn to_requires_exactly_one_destination() {
        let with = |names: &[&str]| {
            let mut s = Settings::embedded(&Flags::default()).unwrap();
            s.destinations = names.iter().copied().map(Destination::named).collect();
            s.with(&to("http://new/"))
        };
        assert!(with(&["crm"]).unwrap().destinations[0].url.is_some());
        let s = with(&["crm", "default"]).unwrap();
        assert!(s.destinations[0].url.is_none() && s.destinations[1].url.is_some());
        assert_eq!(
            with(&["crm", "erp"]).unwrap_err().to_string(),
            "--to: none of the 2 destinations is named \"default\"; leave --to out and write the url in the file"
        );
    }

    #[test]
    fn a_bad_flag_is_named_with_its_remedy() {
        let cases = [
            (to("crm/x"), r#"--to: "crm/x" has no scheme; write "https://crm/x""#),
            (
                Flags { intake: Some("0.0.0.0:8081".parse().unwrap()), ..Flags::default() },
                "intake (0.0.0.0:8081) and admin (127.0.0.1:8081) would share a port; \
                 write another port for one of them, with --intake or --admin",
            ),
            (
                Flags { data: Some(PathBuf::new()), ..Flags::default() },
                "--data: the path is empty; write the path of a directory",
            ),
        ];
        for (flags, wanted) in cases {
            assert_eq!(Settings::embedded(&flags).unwrap_err().to_string(), wanted);
        }
    }
}
