//! The stored records, their codec, their tables and keys.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`codec`] | envelope, checksum and encoding of every record |
//! | 0 | [`watermark`] | how far the store was durable, in a file beside the log |
//! | 1 | [`table`] | tables, keys, rows, and the writes of one commit |
//! | 1 | [`record`] | records of history, settlements, counters, outages |
//! | 1 | [`event_record`] | pages; deliveries and dead letters whose head can be read alone |
//! | 1 | [`audit`] | audit entries |
//! | 1 | [`destination`] | pause, breaker override, pacing and redrives |
//! | 1 | [`quarantined_request`] | quarantined requests |
//! | 2 | [`delta_encoding`] | rows of history and settlements as differences |

pub mod audit;
pub mod codec;
pub mod delta_encoding;
pub mod destination;
pub mod event_record;
pub mod quarantined_request;
pub mod record;
pub mod table;
pub mod watermark;

#[cfg(test)]
mod golden_tests;
