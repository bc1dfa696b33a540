//! Profiles: where each field of an event lies in what a sender posts.

/// Placeholder shape; replaced by the profile room.
#[derive(Clone, Debug, Default)]
pub struct Profile;
