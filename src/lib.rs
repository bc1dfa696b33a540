//! holdline: accepts contact-centre events durably and delivers them in order, at a pace the destination can bear.

pub mod clock;
pub mod config;
pub mod delivery;
pub mod event;
pub mod profile;
pub mod rules;
pub mod scheduler;
pub mod store;
pub mod time;
