//! Work on a store that no daemon runs on: check, repair, restore, salvage.

pub mod log_rows;
pub mod repair;
pub mod restore;
pub mod salvage;
