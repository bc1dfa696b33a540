//! HTTP plumbing that intake and admin share: sockets, connections within bounds, and answers in JSON.

pub mod answer;
pub mod certificate;
pub mod connection_limiter;
pub mod graceful_shutdown;
pub mod host;
pub mod linger;
pub mod listen;
pub mod peer;
pub mod received;
pub mod sending;
pub mod server;
pub mod sockets;
pub mod tls;
pub mod tls_fault;
pub mod watched;
