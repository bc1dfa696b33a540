//! holdline: accepts contact-centre events durably and delivers them in order, at a pace the destination can bear.

pub mod admin;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod delivery;
pub mod dispatch;
pub mod event;
pub mod http;
pub mod intake;
pub mod profile;
pub mod rules;
pub mod scheduler;
pub mod store;
pub mod time;
