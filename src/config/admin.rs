//! The block `[admin]`: where the API listens, and what opens it.

use super::address::{self, Place};
use super::intake::Listeners;
use super::names::Names;
use super::section::{Section, Value};
use super::settings::{Admin, NamedToken, Scope, Token};
use super::values::{self, Limits, span};
use std::time::Duration;
use toml::de::DeValue;

const MAX_CONNECTIONS: Limits<u64> =
    Limits { min: (32, "16 are kept for health checks"), max: (100_000, "each takes a file descriptor") };
const WRITE_TIMEOUT: Limits<Duration> = Limits { min: (span("100ms"), ""), max: (span("1h"), "") };

/// Reads `[admin]`.
pub(super) fn admin(mut section: Section<'_>) -> (Admin, Listeners<'_>) {
    let (mut listen, mut sockets, mut at) = (Admin::default().listen, Vec::new(), Vec::new());
    if let Some(places) = section.take("listen", address::places) {
        listen = Vec::new();
        for (value, place) in places {
            match place {
                Place::Tcp(address) => {
                    listen.push(address);
                    at.push((value, address));
                }
                Place::Unix(path) => sockets.push(path),
            }
        }
    }
    let token = section.take("token", super::secret::secret).map_or(Token::Made, Token::Given);
    let tokens = section.take("tokens", named_tokens).unwrap_or_default();
    let absent = Admin::default();
    let count = |v: Value<'_>| values::whole(&v, &MAX_CONNECTIONS).and_then(|n| usize::try_from(n).ok());
    let max_connections = section.take("max_connections", count).unwrap_or(absent.max_connections);
    let write_timeout =
        section.take("write_timeout", |v| values::duration(&v, &WRITE_TIMEOUT)).unwrap_or(absent.write_timeout);
    (Admin { listen, sockets, max_connections, write_timeout, token, tokens }, at)
}

fn named_tokens(value: Value<'_>) -> Option<Vec<NamedToken>> {
    let mut names = Names::of("token");
    let items = value.items()?;
    let tokens: Vec<_> = items.into_iter().map(|item| item.section().and_then(|s| named(s, &mut names))).collect();
    tokens.into_iter().collect()
}

fn named<'r>(mut section: Section<'r>, names: &mut Names<'r>) -> Option<NamedToken> {
    let name = section.need("name", r#"name = "grafana""#, |v| names.declare(&v));
    let token = section.need("token", r#"token = { file = "..." }"#, super::secret::secret);
    let scopes = section.need("scopes", r#"scopes = ["read"]"#, scopes);
    Some(NamedToken { name: name?, token: token?, scopes: scopes? })
}

fn scopes(value: Value<'_>) -> Option<Vec<Scope>> {
    let known = Scope::ALL.map(Scope::word).join(", ");
    let one = |item: Value<'_>| {
        let found = match item.raw() {
            DeValue::String(word) => Scope::ALL.into_iter().find(|s| s.word() == word),
            _ => None,
        };
        found.or_else(|| item.wrong(format!("{} is not a scope", item.written()), format!("write one of {known}")))
    };
    let items = value.items()?;
    if items.is_empty() {
        return value.wrong("a token without a scope opens nothing", format!("write some of {known}"));
    }
    items.into_iter().map(one).collect()
}
