//! Break-glass: for a bounded time policies may open what is else closed (`context.breakGlass`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// That the glass is broken. Over when its time is, whoever can still be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakGlass {
    /// When it was broken, by the control plane's clock, in seconds since 1970.
    pub from: u64,
    /// Until when; that second is the first without it.
    pub until: u64,
    /// Who did it.
    pub operator: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
}

impl BreakGlass {
    /// Broken whatever the time is, for those who only ask what would be then.
    pub fn always() -> Self {
        let nobody: Arc<str> = "nobody".into();
        Self {
            from: 0,
            until: 253_402_300_800, // the year 10000
            operator: nobody,
            reason: "somebody asks what would be".into(),
        }
    }

    /// Whether it is in force.
    ///
    /// The control plane sends it when it is broken, so whoever has it need not ask since when: a clock that is slow must not keep people out
    /// in an emergency. Only the end is up to the clock, so that it comes where nobody can tell of it too. A slow clock puts that off by as
    /// much as it is slow, and no longer than until the control plane, which takes it back by its own clock, is heard.
    pub fn is_on(&self, now: SystemTime) -> bool {
        now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() < self.until
    }

    /// When it ends.
    pub fn end(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.until)
    }
}
