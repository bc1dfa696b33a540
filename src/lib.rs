//! holdline: accepts contact-centre events durably and delivers them in order, at a pace the destination can bear.

pub mod cli;
