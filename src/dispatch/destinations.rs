//! The destinations that are configured, as of the last reload.

use super::Destination;
use crate::event::DestinationId;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Those of one moment.
pub type Known = Arc<HashMap<DestinationId, Arc<Destination>>>;

/// Clones see the same.
#[derive(Clone, Debug)]
pub struct Destinations(Arc<RwLock<Known>>);

impl Destinations {
    pub fn new(known: Known) -> Self {
        Self(Arc::new(RwLock::new(known)))
    }

    pub fn now(&self) -> Known {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn get(&self, d: DestinationId) -> Option<Arc<Destination>> {
        self.now().get(&d).cloned()
    }

    pub fn has(&self, d: DestinationId) -> bool {
        self.now().contains_key(&d)
    }

    pub fn replace(&self, known: Known) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known;
    }
}
