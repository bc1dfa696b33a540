//! HTTP plumbing that intake and admin share: sockets, the accept loop, and answers in JSON.

pub mod answer;
pub mod certificate;
pub mod entrance;
pub mod farewell;
pub mod heard;
pub mod linger;
pub mod listener;
pub mod received;
pub mod seats;
pub mod sockets;
pub mod tls;
pub mod tls_fault;
