//! How the store is written: requests, decided in a transaction, committed by one thread.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`shared`] | what the committer shares with readers |
//! | 0 | [`tee`] | copies of commits for a backup |
//! | 0 | [`erasure`] | what an erasure takes |
//! | 0 | [`row_compaction`] | rewrites small rows as full ones |
//! | 1 | [`request`] | what the committer can be asked |
//! | 2 | [`transaction`] | decides the writes of one commit |
//! | 3 | [`committer`] | the thread that commits |

pub mod committer;
pub mod erasure;
pub mod request;
pub mod row_compaction;
pub mod shared;
pub mod tee;
pub mod transaction;
