//! What the API says and is told of a CA outside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A CA outside that signs a server's issuing CA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    /// Its file or address.
    pub name: String,
    /// Why it has not signed what is due.
    pub problem: Option<String>,
    /// Since when, seconds since 1970.
    pub since: Option<u64>,
    /// The file of a request that somebody has to have signed by hand.
    pub request: Option<PathBuf>,
}

/// `POST /api/identity/issuing`, the question; the answer is empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InstallRequest {
    /// What a root that is kept apart has signed, PEM: the issuing CA first.
    pub chain: String,
}
