//! Configuration: what an operator wrote (TOML) -> settings as used.

pub mod settings;

pub use settings::Settings;
