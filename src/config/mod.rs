//! Configuration: what an operator wrote (TOML) -> settings as used.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 1 | [`settings`] | types: every value checked, every default filled in |
//! | 2 | [`syntax`] | tables and values of TOML; faults, each with its line and key |
//! | 3 | [`read`] | settings from tables, consistency checks, warnings, flags |

mod read;
pub mod settings;
mod syntax;

pub use read::{Flags, Warning, load, parse, unsigned_places, warnings};
pub use settings::{InvalidValue, Secret, SecretError, SecretValue, Settings, Url};
pub use syntax::values::rate_of;
pub use syntax::{Fault, Faults, renamed_condition};
