//! What others read from the store.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`view`] | deliveries, dead letters, history, settlements |
//! | 0 | [`ages`] | deliveries by age and by source |
//! | 0 | [`operational_log`] | audit, outages, redrives |
//! | 0 | [`quarantine`] | requests that were kept apart |
//! | 0 | [`erase`] | what there is of an interaction |
//! | 0 | [`space`] | disk space |
//! | 0 | [`backup`] | a copy of a running store |

pub mod ages;
pub mod backup;
pub mod erase;
pub mod operational_log;
pub mod quarantine;
pub mod space;
pub mod view;
