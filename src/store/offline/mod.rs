//! Check, repair, restore and salvage of a store that no daemon runs on.
//!
//! # Levels
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`log_rows`] | reads rows from a damaged log |
//! | 0 | [`repair`] | sets damaged records aside |
//! | 1 | [`restore`] | restores a backup; checks a store |
//! | 2 | [`salvage`] | copies readable records into a new store |

pub mod log_rows;
pub mod repair;
pub mod restore;
pub mod salvage;
