//! Writes to the store: requests, decided in a transaction, committed by one thread.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`shared`] | what the committer shares with readers |
//! | 0 | [`row_compaction`] | rewrites small rows as full ones |
//! | 1 | [`request`] | events, transitions and changes to be written |
//! | 2 | [`transaction`] | decides the writes of one commit |
//! | 3 | [`committer`] | the thread that commits |

pub mod committer;
pub mod request;
pub mod row_compaction;
pub mod shared;
pub mod transaction;
