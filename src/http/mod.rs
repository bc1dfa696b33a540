//! HTTP plumbing that intake and admin share: sockets, connections within bounds, and answers in JSON.

pub mod answer;
pub mod certificate;
pub mod entrance;
pub mod farewell;
pub mod host;
pub mod linger;
pub mod listen;
pub mod peer;
pub mod received;
pub mod seats;
pub mod sending;
pub mod sockets;
pub mod tls;
pub mod tls_fault;
pub mod watched;
