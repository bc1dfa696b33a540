//! How much room the store has, and room promised to attempts.

use crate::delivery::{DeliveryId, Place};
use crate::store::engine::room::{COPY_OVERHEAD, PLENTY, Promise, Space};
use crate::store::handle::Store;
use crate::store::index::history_limits;
use std::io;

impl Store {
    /// Whether nothing new should be sent, for want of room for what may come of it.
    pub fn is_short_of_room(&self) -> bool {
        self.shared.room.is_short()
    }

    /// Whether nothing is sent, for want of room, until there is more.
    pub fn is_out_of_room(&self) -> bool {
        self.shared.room.is_full()
    }

    /// Promises room for a copy of this delivery, until what came of its attempt is recorded.
    pub fn promise(&self, id: DeliveryId, place: Place) -> Promise {
        let room = &self.shared.room;
        // with plenty of room nobody needs to count
        let bytes = if room.left().is_some_and(|left| left > PLENTY) { 0 } else { self.copy_bytes(id, place) };
        room.promise(bytes)
    }

    /// Bytes that a copy of this delivery may take.
    fn copy_bytes(&self, id: DeliveryId, place: Place) -> u64 {
        let index = self.index();
        let in_page = if place == Place::Page { index.pages.grows_by(id.sequence) } else { None };
        let delayed = index.totals.sum(|t| t.delayed).max(1);
        in_page.unwrap_or_else(|| index.totals.delay_bytes / delayed + COPY_OVERHEAD)
    }

    /// Bytes of all that sled's file holds, near enough.
    fn lies_there(&self) -> u64 {
        let index = self.index();
        let totals = &index.totals;
        index.pages.bytes()
            + totals.delay_bytes
            + totals.dlq_bytes
            + index.detainees.bytes()
            + history_limits::bytes(totals)
    }

    /// Returns when the room was looked at again; for one task at a time.
    pub async fn room_looked_at(&self) {
        self.shared.room.looked_at().await;
    }

    /// Looks how much room there is, and makes the ballast again where there is room for it. Blocks.
    pub fn look_at_room(&self) -> io::Result<Space> {
        let engine = &self.shared.engine;
        if let Err(e) = self.shared.room.look(engine.folder(), engine.data(), self.lies_there()) {
            tracing::debug!(error = %e, "the ballast does not grow");
        }
        self.space()
    }

    /// How much room there is.
    pub fn space(&self) -> io::Result<Space> {
        let free = self.free()?.bytes;
        Ok(self.shared.room.space(free, self.index().pages.growth(), self.shared.engine.data()))
    }
}
