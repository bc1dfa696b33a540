//! What others read from the store.

pub mod ages;
pub mod backup;
pub mod erase;
pub mod operational_log;
pub mod quarantine;
pub mod space;
pub mod view;
