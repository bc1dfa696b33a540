//! What lies on disk: records, their codec, their tables and keys.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 0 | [`codec`] | envelope, checksum and encoding of every record |
//! | 0 | [`overrides`] | what was decided about calling a destination |
//! | 0 | [`watermark`] | how far the store was durable, kept in a file beside the log |
//! | 1 | [`table`] | the trees, and how long records are split over rows |
//! | 1 | [`keys`] | keys of rows |
//! | 1 | [`record`] | records of history, settlements, counters, outages |
//! | 1 | [`page`] | packed events of one commit |
//! | 1 | [`compact`] | deliveries and dead letters, with a head that can be read alone |
//! | 1 | [`audit`] | audit entries |
//! | 1 | [`redrive`] | redrives that run in the background |
//! | 1 | [`quarantined_request`] | requests that were kept apart |
//! | 2 | [`delta_encoding`] | rows of history and settlements as differences |

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
