//! Configuration: what an operator wrote (TOML) -> settings as used.

mod address;
mod admin;
mod alert;
mod auth;
mod destination;
mod destination_auth;
mod fault;
mod history;
mod intake;
mod location;
mod names;
mod ordering;
mod overrides;
mod pace;
mod quarantine;
mod reader;
mod renamed;
mod secret;
mod section;
pub mod settings;
mod signed;
mod source;
mod strength;
pub mod url;
mod values;
mod warning;

pub use fault::{Fault, Faults};
pub use overrides::Overrides;
pub use reader::{load, read};
pub use renamed::renamed_condition;
pub use secret::{Secret, SecretValue};
pub use settings::Settings;
pub use signed::ignored as unsigned_places;
pub use url::Url;
pub use values::rate_of;
pub use warning::{Warning, warnings};
