//! The integration tests: one binary, a folder per behaviour, a file per part of it.
//!
//! `harness/`: what the tests are written with; it contains no tests
//! - `bench`: a daemon in process, on free ports and a folder of its own, and small HTTP clients
//! - `process`: the real binary, as a daemon that can be killed and as a command
//! - `receiver`: a destination that plays a script
//! - `authority`: a certificate authority, and TLS in front of a receiver
//! - `events`: made-up events (shared with the unit tests)
//! - `stores`: opening a store again in the same process (shared with the unit tests)
//!
//! `intake/`: from the sender to the answer
//! - `requests`: which requests are refused and store nothing, which are accepted, which are duplicates
//! - `authentication`: every kind of credential
//! - `identity`: what identifies the event of a signed request
//! - `sources`: several sources in one daemon
//! - `senders`: handshakes before the first event, and encodings that senders use
//! - `half_closed`: senders that close their writing side
//! - `refusals`: responses that are sent before the whole body is read
//! - `unfinished_bodies`: clients that do not send the rest of their body
//! - `tls`: TLS versions, client certificates, HTTP/2
//! - `quarantine`: quarantined requests and their readmission
//! - `health`: `GET /healthz`
//!
//! `delivery/`: from the queue to the destination
//! - `attempts`: what is sent, how often, when, and how it ends
//! - `order`: order within an interaction by the times in the events
//! - `pace`: rate, concurrency, breaker, pause
//! - `small_troubles`: short failures of a destination cause no dead letter with the default settings
//! - `answers`: `Retry-After` and response heads as servers write them
//! - `hostile`: destinations that refuse, break off, are slow or lie
//! - `connections`: connections that the destination closes, and names whose address changes
//! - `tls`: TLS to destinations
//! - `oauth2`: client credentials
//! - `redrive`: dead letters sent again
//!
//! `store/`: what is on disk
//! - `guarantees`: acceptance, recovery and the check of the store
//! - `model`: random operations and crashes against a plain model
//! - `damage`: damaged files
//! - `backlog`: a queue larger than memory
//! - `backup`: backup, restore, verify
//! - `erasure`: erasing one interaction
//! - `history`: limits of the history of past deliveries
//! - `disk_space`: disk space that is kept free
//! - `takeover`: data folders and backups of earlier formats
//!
//! `admin/`: the admin API and the dashboard
//! - `endpoints`: the API's answers and changes
//! - `access`: tokens, unix socket, requests from pages of other sites
//! - `operator`: an operator's changes and the audit entries about them
//! - `selection`: a change is applied to the selected deliveries and to no other
//! - `blockers`: what the API says about a blocked delivery
//! - `lists`: pages of lists and their bounds
//! - `metrics`: metrics compared with the status
//! - `alerts`: alerts at a webhook and at a command, and the shipped rules
//! - `openapi`: the API's document compared with the API
//! - `dashboard`: the dashboard's scripts and styles
//! - `connections`: many unauthenticated connections to the admin port
//!
//! `cli/`: the command line
//! - `commands`: every command against a real daemon
//! - `hints`: how commands find the daemon, and the commands that they suggest
//! - `quick_start`: the quick start of README, as pasted
//! - `receive`: the receiver of the command line
//!
//! `security/`: secrets and hostile input
//! - `secrecy`: secrets in output and files, permissions of files, control characters
//! - `canary`: a marked body and marked secrets appear only where they are requested
//! - `fuzz`: mutated bodies, batches, signatures and configurations
//!
//! `lifecycle/`: the daemon as a process
//! - `recovery`: killed, stopped, started twice
//! - `service`: inherited sockets, notification of the service manager, watchdog
//! - `reload`: a changed configuration in a running daemon
//!
//! `simulation`: scheduler and rules over days of seeded random traffic, against an independent judge; its parts are
//! in `simulation/`
//!
//! `repository/`: the sources and documents themselves
//! - `architecture`: rooms and their levels, house style
//! - `documents`: the shipped pages compared with the program
//! - `modules`: the levels inside rooms, no import circles
//! - `words`: names that are not used any more
//! - `proof`: `tests/PROOF.md` and the mutants compared with the sources
//! - `reference`: the reference page and the default configuration compared with the program

#![allow(clippy::unwrap_used)] // a test that cannot continue has failed

mod harness {
    pub mod authority;
    pub mod bench;
    pub mod events;
    pub mod process;
    pub mod receiver;
    pub mod stores;
}

mod intake {
    mod authentication;
    mod half_closed;
    mod health;
    mod identity;
    mod quarantine;
    mod refusals;
    mod requests;
    mod senders;
    mod sources;
    mod tls;
    mod unfinished_bodies;
}

mod delivery {
    mod answers;
    mod attempts;
    mod connections;
    mod hostile;
    mod oauth2;
    mod order;
    mod pace;
    mod redrive;
    mod small_troubles;
    mod tls;
}

mod store {
    mod backlog;
    mod backup;
    mod damage;
    mod disk_space;
    mod erasure;
    mod guarantees;
    mod history;
    mod model;
    mod takeover;
}

mod admin {
    mod access;
    mod alerts;
    mod blockers;
    mod connections;
    mod dashboard;
    mod endpoints;
    mod lists;
    mod metrics;
    mod openapi;
    mod operator;
    mod selection;
}

mod cli {
    mod commands;
    mod hints;
    mod quick_start;
    mod receive;
}

mod security {
    mod canary;
    mod fuzz;
    mod secrecy;
}

mod lifecycle {
    mod recovery;
    mod reload;
    mod service;
}

mod simulation;

mod repository {
    mod architecture;
    mod documents;
    mod modules;
    mod proof;
    mod reference;
    mod words;
}
