//! What the committer shares with readers.

use crate::event::SharedKeys;
use crate::latency::Latency;
use crate::store::engine::Engine;
use crate::store::engine::room::Room;
use crate::store::index::cache::Cache;
use crate::store::index::history_limits::Bounds;
use crate::store::index::uncommitted::Uncommitted;
use crate::store::index::{Index, Unwritten};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};

/// What the committer shares with readers.
#[derive(Debug)]
pub struct Shared {
    pub engine: Engine,
    pub room: Arc<Room>,
    pub index: Mutex<Index>,
    pub cache: Mutex<Cache>,
    pub unwritten: Mutex<Unwritten>,
    pub behind: Uncommitted,
    /// How long commits take to be durable.
    pub commits: Latency,
    /// What bounds what is remembered.
    pub history: Mutex<Bounds>,
    /// Which sources order their interactions together.
    pub shared_keys: Mutex<SharedKeys>,
    /// The events before this sequence are written; the index runs ahead of it by one commit.
    pub written_next: AtomicU64,
    /// Why nothing is acknowledged any more.
    pub failure: watch::Sender<Option<String>>,
    /// One list is read at a time, so that however many ask, acknowledgements have their turn.
    pub lists: Semaphore,
}
