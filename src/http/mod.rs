//! HTTP plumbing that intake and admin share: the accept loop, and answers in JSON.

pub mod answer;
pub mod listener;
