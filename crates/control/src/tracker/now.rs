//! Time, as it is passed in.

use std::time::{Instant, SystemTime};

/// A moment on both clocks: one to count with, one to show.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic.
    pub instant: Instant,
    /// For people.
    pub wall: SystemTime,
}

impl Now {
    /// The present.
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}
