//! HTTP plumbing that intake and admin share: sockets, the accept loop, and answers in JSON.

pub mod answer;
pub mod farewell;
pub mod listener;
pub mod sockets;
