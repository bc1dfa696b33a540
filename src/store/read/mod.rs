//! Queries and lists of a running store, and its backup.
//!
//! # Levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`view`] | deliveries, dead letters, history, settlements |
//! | 0 | [`ages`] | deliveries by age and by source |
//! | 0 | [`lists`] | audit, outages, damaged records, redrives, quarantine |
//! | 0 | [`erase`] | finds and erases an interaction |
//! | 0 | [`backup`] | a copy of a running store |

pub mod ages;
pub mod backup;
pub mod erase;
pub mod lists;
pub mod view;
