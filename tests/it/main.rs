//! The integration tests: one binary, one file per behaviour.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod access;
mod admin;
mod alerts;
mod answers;
mod architecture;
mod auth;
mod authority;
mod backlog;
mod backup;
mod canary;
mod cli;
mod damage;
mod dashboard;
mod delivery;
mod document;
mod erase;
mod events;
mod fuzz;
mod harness;
mod history;
mod hostile;
mod identity;
mod intake;
mod metrics;
mod model;
mod oauth2;
mod operator;
mod order;
mod pace;
mod process;
mod proof;
mod quarantine;
mod receiver;
mod recovery;
mod redrive;
mod reload;
mod secrecy;
mod selection;
mod service;
mod simulation;
mod store;
mod tls;
mod tls_out;
mod told;
