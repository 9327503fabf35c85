//! How long keys live.

use std::time::Duration;

/// How long keys live, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// A root; followed by another at half of its life. Default 10 years.
    pub root: Duration,
    /// An issuing CA; replaced at half of its life. Default 30 days.
    pub issuing: Duration,
    /// How long a root that signs no more stays in the bundle: as long as anything that it signed, and any join token with its pin, can
    /// live. Default 24 hours, which is the most for either.
    pub retired: Duration,
    /// A key for JWT-SVIDs; followed by another at half of its life. Default 30 days.
    pub jwt: Duration,
    /// A JWT-SVID; also for `jwt_retired` at the most. Default 5 minutes.
    pub token: Duration,
    /// How long a key for JWT-SVIDs that signs no more stays in the bundle: as long as any token can live that it signed, and a little
    /// longer, because of several servers one may hear late that it does not sign any more. Default 10 minutes.
    pub jwt_retired: Duration,
    /// How long a root or key is published at the least before it signs, for those who fetch the bundle now and then: other trust domains
    /// (SPIFFE Federation s.4.1). Default none. A compromised one is not waited for.
    pub fetchers: Duration,
    /// How long a root vouches for its successor, for machines that were away meanwhile. Default 30 days.
    pub vouched: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        let (day, minute) = (Duration::from_secs(24 * 3600), Duration::from_secs(60));
        Self {
            root: 3650 * day,
            issuing: 30 * day,
            retired: day,
            jwt: 30 * day,
            token: 5 * minute,
            jwt_retired: 10 * minute,
            fetchers: Duration::ZERO,
            vouched: 30 * day,
        }
    }
}
