//! What others read from the store.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`view`] | deliveries, dead letters, history, settlements |
//! | 0 | [`ages`] | deliveries by age and by source |
//! | 0 | [`lists`] | audit, outages, damaged records, redrives, quarantine |
//! | 0 | [`erase`] | what there is of an interaction |
//! | 0 | [`backup`] | a copy of a running store |

pub mod ages;
pub mod backup;
pub mod erase;
pub mod lists;
pub mod view;
