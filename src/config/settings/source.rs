//! Settings of sources: how senders authenticate, and where they write the fields of their events.

use super::{Secret, hours};
use crate::rules::rate::Rate;
use crate::signature::Scheme;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub name: String,
    /// One of [`PROFILES`].
    pub profile: String,
    pub pointers: Pointers,
    /// How long the ids of accepted events are kept in the history.
    pub dedup_window: Duration,
    /// Any of these authenticates a request; empty: every request is accepted.
    pub auth: Vec<SourceAuth>,
    /// Headers and query parameters ("header:NAME", "query:NAME") that are trusted although no signature covers them.
    /// `None` is treated as an empty list, with a fault for fields that would then be missing.
    pub trust_unsigned: Option<Vec<String>>,
    /// For a request whose signature does not verify.
    pub on_bad_signature: OnFault,
    /// For a request whose body cannot be read.
    pub on_invalid_body: OnFault,
    /// Events over it are answered 429.
    pub rate_limit: Option<Rate>,
    /// Whether its keys are shared with other sources that set this, too.
    pub shared_keys: bool,
    /// The handshakes that are answered; None: those that the profile and `auth` suggest.
    pub handshakes: Option<Vec<Handshake>>,
    /// The tokens that Meta sends in its handshake, any of which is valid.
    pub verify_token: Vec<Secret>,
    /// Names of destinations; empty: all.
    pub to: Vec<String>,
    /// Patterns (`*` matches anything) of the event types that are delivered; empty: all.
    pub types: Vec<String>,
}

/// How a sender verifies an address before it sends events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handshake {
    AzureEventGrid,
    CloudEvents,
    Sns,
    MicrosoftGraph,
    Meta,
    Okta,
    Slack,
    Zoom,
    RingCentral,
    /// `?challenge=`, as Dropbox, Nylas and Adobe ask.
    Challenge,
}

impl Handshake {
    pub const ALL: [Self; 10] = [
        Self::AzureEventGrid,
        Self::CloudEvents,
        Self::Sns,
        Self::MicrosoftGraph,
        Self::Meta,
        Self::Okta,
        Self::Slack,
        Self::Zoom,
        Self::RingCentral,
        Self::Challenge,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::AzureEventGrid => "azure-event-grid",
            Self::CloudEvents => "cloudevents",
            Self::Sns => "sns",
            Self::MicrosoftGraph => "microsoft-graph",
            Self::Meta => "meta",
            Self::Okta => "okta",
            Self::Slack => "slack",
            Self::Zoom => "zoom",
            Self::RingCentral => "ringcentral",
            Self::Challenge => "challenge",
        }
    }
}

/// What happens to a request that cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFault {
    Refuse,
    /// It is quarantined, and can be readmitted once the configuration is corrected.
    Quarantine,
}

/// How senders authenticate. Of several secrets any is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAuth {
    Bearer { tokens: Vec<Secret> },
    Basic { user: String, passwords: Vec<Secret> },
    Header { name: http::HeaderName, values: Vec<Secret> },
    Query { name: String, values: Vec<Secret> },
    Hmac { scheme: Scheme, secrets: Vec<Secret> },
}

impl SourceAuth {
    /// The secrets, any of which is valid.
    pub fn secrets(&self) -> &[Secret] {
        match self {
            Self::Bearer { tokens: secrets }
            | Self::Basic { passwords: secrets, .. }
            | Self::Header { values: secrets, .. }
            | Self::Query { values: secrets, .. }
            | Self::Hmac { secrets, .. } => secrets,
        }
    }

    /// The same with this secret alone.
    pub fn only(mut self, secret: Secret) -> Self {
        match &mut self {
            Self::Bearer { tokens: secrets }
            | Self::Basic { passwords: secrets, .. }
            | Self::Header { values: secrets, .. }
            | Self::Query { values: secrets, .. }
            | Self::Hmac { secrets, .. } => *secrets = vec![secret],
        }
        self
    }
}

/// The presets, `auto` (detects one of them) and `custom` (only the configured pointers).
pub const PROFILES: [&str; 11] = [
    "auto",
    "genesys-eventbridge",
    "genesys-notification",
    "genesys-open-messaging",
    "genesys-trigger",
    "genesys-engage-interactions",
    "interaction",
    "cloudevents",
    "azure-event-grid",
    "sns",
    "custom",
];

/// Where the fields of an event are, where that differs from the profile; None: as in the profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pointers {
    /// Of the interaction.
    pub key: Option<Vec<Composite>>,
    /// The sender's own id of the event.
    pub id: Option<Vec<Composite>>,
    pub time: Option<Vec<Composite>>,
    pub event_type: Option<Vec<Composite>>,
    /// A JSON pointer to an array with one event per element.
    pub split: Option<String>,
    /// A JSON pointer to a text that is JSON itself and holds the event.
    pub unwrap: Option<String>,
}

/// Parts that form one value. Each is a JSON pointer, `header:NAME`, `query:NAME` or `body:sha256`. Of several
/// composites the first that an event has counts.
pub type Composite = Vec<String>;

impl Source {
    /// Whether it quarantines requests.
    pub fn keeps_apart(&self) -> bool {
        [self.on_bad_signature, self.on_invalid_body].contains(&OnFault::Quarantine)
    }

    /// A source with only its name set.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            profile: "auto".into(),
            pointers: Pointers::default(),
            dedup_window: hours(24),
            auth: Vec::new(),
            trust_unsigned: None,
            on_bad_signature: OnFault::Refuse,
            on_invalid_body: OnFault::Refuse,
            rate_limit: None,
            shared_keys: false,
            handshakes: None,
            verify_token: Vec::new(),
            to: Vec::new(),
            types: Vec::new(),
        }
    }

    /// Whether its profile accepts any sender.
    pub fn takes_any_sender(&self) -> bool {
        ["auto", "custom"].contains(&self.profile.as_str())
    }
}
