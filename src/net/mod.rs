//! HTTP plumbing that intake and admin share: sockets, connections within limits, TLS, and answers in JSON.
//!
//! | level | module | purpose |
//! |---|---|---|
//! | 1 | [`listener`] | listening sockets, and who connects |
//! | 1 | [`tls`], [`tls_fault`] | certificates of a listener; why a handshake failed |
//! | 2 | [`connection_limiter`] | which connections there are, and which one is evicted for a new one |
//! | 3 | [`answer`], [`stream`] | JSON answers; a stream that reports traffic, and how it ends |
//! | 4 | [`request`] | bodies of requests, and their Host |
//! | 5 | [`server`] | accepts and serves connections |

pub mod answer;
pub mod connection_limiter;
pub mod listener;
pub mod request;
pub mod server;
pub mod stream;
pub mod tls;
pub mod tls_fault;
