//! How the store is written: requests, decided in a transaction, committed by one thread.

pub mod committer;
pub mod erasure;
pub mod request;
pub mod row_compaction;
pub mod shared;
pub mod tee;
pub mod transaction;
