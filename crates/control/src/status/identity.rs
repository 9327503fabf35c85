//! What the HTTP API says of identities: tokens, keys and how they follow each other, certificates, bans, other trust domains.

use serde::{Deserialize, Serialize};

use super::UpstreamStatus;

/// `POST /api/join-tokens`, the question.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinTokenRequest {
    /// `namespace/name` that the token may become, or `agent:name`.
    pub service: String,
    /// How long it may be redeemed, like `10m`.
    #[serde(default = "ten_minutes")]
    pub ttl: String,
}

fn ten_minutes() -> String {
    "10m".to_owned()
}

/// `POST /api/join-tokens`, the answer.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinTokenAnswer {
    /// The token; shown once, kept hashed.
    pub token: String,
    /// What it may become.
    pub service: String,
    /// When it stops being redeemable.
    pub expires_at: u64,
}

/// `GET /api/identity`: what the mesh vouches with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustStatus {
    /// The trust domain.
    pub trust_domain: String,
    /// Grows with every change of the bundle.
    pub sequence: u64,
    /// The roots in the bundle, oldest first.
    pub roots: Vec<RootStatus>,
    /// The keys for JWT-SVIDs in the bundle, oldest first.
    #[serde(default)]
    pub jwt_keys: Vec<RootStatus>,
    /// This server's issuing CA: 16 hexadecimal digits.
    #[serde(default)]
    pub issuing: String,
    /// When it is replaced.
    pub issuing_renewed_at: u64,
    /// The CA outside that signs it, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<UpstreamStatus>,
    /// Who does not hold this bundle yet; a new root or key waits for them.
    pub behind: Vec<BehindStatus>,
    /// Who is not taken any more.
    #[serde(default)]
    pub bans: Vec<BanStatus>,
}

/// `GET /api/identity/federation`: another trust domain, and how it is going with its bundle. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationStatus {
    /// Its name.
    pub trust_domain: String,
    /// Number of the bundle in force; none without one, and then nobody of it is trusted.
    pub sequence: Option<u64>,
    /// Roots in it.
    pub roots: usize,
    /// Keys for JWT-SVIDs in it.
    pub jwt_keys: usize,
    /// The last fetch that brought a bundle, since this server was started.
    pub fetched_at: Option<u64>,
    /// When the next one is due.
    pub next_at: Option<u64>,
    /// Fetches since this server was started.
    pub fetches: u64,
    /// Those of them that brought nothing.
    pub failures: u64,
    /// Since when none has brought anything.
    pub failing_since: Option<u64>,
    /// Why the last one has not.
    pub error: Option<String>,
}

/// `GET /api/identity/records`: one line of the identity log.
pub use weft_authority::{Event as IdentityEvent, Record as IdentityRecord};

/// `GET /api/identities`: one certificate that lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its SPIFFE ID.
    pub identity: String,
    /// What the workload calls itself, or the certificate's number where it does not say.
    pub node: String,
    /// The machine that it was issued to, if that proved itself.
    #[serde(default)]
    pub machine: Option<String>,
    /// By what that machine was enrolled: `token`, `x509pop` or `oidc`, as far as it is known.
    #[serde(default)]
    pub by: Option<String>,
    /// Its number, upper-case hexadecimal; empty of what an older version has issued.
    pub serial: String,
    /// The root that it was issued under.
    pub root: String,
    /// The sequence of the bundle that its holder has.
    pub bundle: u64,
    /// When it was issued; 0 of what an older version has issued.
    pub issued_at: u64,
    /// When it ends.
    pub expires_at: u64,
    /// It should have been renewed by now: three quarters of its life are over.
    #[serde(default)]
    pub late: bool,
    /// Why its holder is banned, if it is.
    #[serde(default)]
    pub banned: Option<String>,
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanStatus {
    /// A SPIFFE ID, `serial:` and a certificate's number, or `machine:` and its name.
    pub banned: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: u64,
}

/// A root, or a key for JWT-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootStatus {
    /// 16 hexadecimal digits.
    pub id: String,
    /// How far it is.
    pub state: RootState,
    /// Since when it is so far.
    pub since: Option<u64>,
    /// When it leaves the bundle.
    pub until: Option<u64>,
    /// Start of its life.
    pub not_before: u64,
    /// End of its life.
    pub not_after: u64,
    /// Why nothing that it signed is to be trusted.
    pub tainted: Option<String>,
    /// The CA outside that brought it; none of the mesh's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// How far a root is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RootState {
    /// In the bundle; it signs when everybody holds it.
    Published,
    /// It signs.
    Active,
    /// It signs no more, and leaves when nothing lives by it.
    Retired,
}

/// A workload that holds an older bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BehindStatus {
    /// Its SPIFFE ID, and what it calls itself.
    pub who: String,
    /// The sequence of what it holds.
    pub holds: u64,
    /// When its certificate ends, and with that the waiting.
    pub until: u64,
}

/// `POST /api/identity/rotate`, the question; the answer is a [`TrustStatus`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RotateRequest {
    /// Why, for those who read the log.
    pub reason: String,
    /// The root, or the key for JWT-SVIDs, that is in wrong hands; without one, what signs is replaced by plan.
    #[serde(default)]
    pub compromised: Option<String>,
    /// By plan, the key for JWT-SVIDs and not the root.
    #[serde(default)]
    pub jwt: bool,
}

/// `POST /api/identity/ban` and `POST /api/identity/unban`, the question; the answer is a [`TrustStatus`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BanRequest {
    /// A service, or as in [`BanStatus::banned`].
    pub who: String,
    /// Why, for whoever is refused and for those who read the log.
    #[serde(default)]
    pub reason: String,
}
