//! What lies on disk: records, their codec, their tables and keys.

pub mod audit;
pub mod codec;
pub mod compact;
pub mod delta_encoding;
pub mod keys;
pub mod overrides;
pub mod page;
pub mod quarantined_request;
pub mod record;
pub mod redrive;
pub mod table;
pub mod watermark;

#[cfg(test)]
mod golden_tests;
