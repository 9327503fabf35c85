//! Break-glass: for a bounded time policies may open what is else closed (`context.breakGlass`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// That the glass is broken. Over when its time is, whoever can still be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakGlass {
    /// From when on, in seconds since 1970.
    pub from: u64,
    /// Until when; that second is the first without it.
    pub until: u64,
    /// Who did it.
    pub operator: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
}

impl BreakGlass {
    /// Whether it is in force.
    pub fn is_on(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        (self.from..self.until).contains(&now)
    }

    /// When it ends.
    pub fn end(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.until)
    }
}
