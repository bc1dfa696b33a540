//! HTTP plumbing that intake and admin share: the accept loop, and answers in JSON.

pub mod answer;
pub mod entrance;
pub mod listener;
pub mod seats;
pub mod tls;
