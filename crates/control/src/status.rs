//! What the HTTP API says, as types that both ends use: the server writes them, `weft status` and the tour read them.
//!
//! Times are seconds since the Unix epoch, durations are milliseconds; a missing value is `null`.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weft_policy::BreakGlass;

mod identity;
mod upstream;

pub use identity::{
    BanRequest, BanStatus, BehindStatus, CertificateStatus, FederationStatus, IdentityEvent, IdentityRecord,
    JoinTokenAnswer, JoinTokenRequest, RootState, RootStatus, RotateRequest, TrustStatus,
};
pub use upstream::{InstallRequest, UpstreamStatus};

/// `GET /api/status`: the mesh on one page.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MeshStatus {
    /// `Mesh.name`, empty before the first good commit.
    pub mesh: String,
    /// The trust domain, empty before the first good commit.
    pub trust_domain: String,
    /// The commit that the mesh runs on; `null` until everything is served that a client can ask, certificates included.
    pub serving: Option<ChangeStatus>,
    /// The newest commit when it was refused; then `serving` is the last good one.
    pub refused: Option<RefusedCommit>,
    /// Why the repository could not be read, while it cannot.
    pub git_error: Option<String>,
    /// That the glass is broken.
    pub break_glass: Option<BreakGlassStatus>,
    /// What runs out soon because something that should have happened by itself has not, a sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Every service of the serving commit.
    pub services: Vec<ServiceStatus>,
    /// Proxies by state.
    pub proxies: ProxyCounts,
    /// Newest first, at most 50.
    pub history: Vec<ChangeStatus>,
    /// How long this control plane has run.
    pub uptime_seconds: u64,
    /// Version of the control plane.
    pub version: String,
}

/// Break-glass is on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakGlassStatus {
    /// Who did it.
    pub operator: String,
    /// Why.
    pub reason: String,
    /// Since when, in seconds since 1970.
    pub from: u64,
    /// Until when.
    pub until: u64,
}

impl From<&BreakGlass> for BreakGlassStatus {
    fn from(broken: &BreakGlass) -> Self {
        let BreakGlass { from, until, operator, reason } = broken;
        Self { operator: operator.to_string(), reason: reason.to_string(), from: *from, until: *until }
    }
}

/// Connected proxies by what they did with the serving commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyCounts {
    /// With a live stream.
    pub connected: usize,
    /// Without one, not yet forgotten.
    pub lost: usize,
    /// Connected and on the newest configuration.
    pub acknowledged: usize,
    /// Connected and on their way to it.
    pub pending: usize,
    /// Connected and refusing a part of it.
    pub refused: usize,
}

/// One service as the mesh sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// `namespace/name`.
    pub name: String,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// The port that callers name.
    pub port: u16,
    /// Endpoints that callers are sent.
    pub endpoints: Vec<EndpointStatus>,
    /// Who calls in plain text; `null` of a service that is strict.
    #[serde(default)]
    pub plain_text: Option<PlainTextStatus>,
}

/// Who calls a permissive service in plain text, as far as this run of the control plane was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainTextStatus {
    /// Since when it is watched: the service is permissive, or this control plane runs.
    pub since: u64,
    /// For how long nobody has called so, within this time.
    pub quiet_seconds: u64,
    /// Who has, the last one first; at most 256.
    pub callers: Vec<PlainTextCallerStatus>,
    /// Further callers, of whom nothing is known any more.
    pub forgotten: u64,
    /// Further calls, of which nothing is known, because too many came at once.
    pub missed: u64,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainTextCallerStatus {
    /// From where.
    pub address: String,
    /// First call.
    pub first_seen: u64,
    /// Last call.
    pub last_seen: u64,
    /// Calls that were allowed.
    pub allowed: u64,
    /// Calls that were not.
    pub denied: u64,
    /// What the caller says that it is, if it does: printable ASCII.
    pub user_agent: String,
    /// Method and path of the last call; `TCP` where there is no such thing.
    pub asked: String,
}

/// One endpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Address of the sidecar's ingress.
    pub address: String,
    /// Labels that subsets match.
    pub labels: BTreeMap<String, String>,
}

/// Where a commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeState {
    /// Published, not yet settled by every connected proxy.
    Rolling,
    /// Every connected proxy runs it.
    Done,
    /// Some proxies refuse a part of it.
    Degraded,
    /// The check refused it: nothing was changed in the mesh.
    Refused,
    /// A later commit took its place.
    Superseded,
}

/// `GET /api/status/{commit}`: one commit's way through the mesh.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangeStatus {
    /// The full commit id.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// Where it stands.
    pub state: ChangeState,
    /// When it was published to the proxies (or refused).
    pub published_at: u64,
    /// From publishing until every connected proxy had settled; `null` until then.
    pub converged_ms: Option<f64>,
    /// From noticing the commit until it was published: check and compile.
    pub compile_ms: f64,
    /// Node ids that run it.
    pub acknowledged: Vec<String>,
    /// Node ids that refuse a part of it.
    pub refused: Vec<String>,
    /// Node ids that have not answered yet.
    pub pending: Vec<String>,
    /// What those have not answered, the longest wait first.
    pub waiting: Vec<Waiting>,
    /// What the check found; errors only when it was refused.
    pub findings: Vec<FindingStatus>,
}

/// A proxy that a commit waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// `Node.id`.
    pub node: String,
    /// Since when it has said nothing.
    pub since: u64,
    /// What it was sent and has not answered; empty when it takes nothing, so that nothing could be sent.
    pub unanswered: Vec<Unanswered>,
}

/// A response that waits for its ACK or NACK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unanswered {
    /// The xDS type, short: `LDS`, `CDS`, ...
    pub kind: String,
    /// When it was sent.
    pub since: u64,
}

/// A commit that the check refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RefusedCommit {
    /// The full commit id.
    pub commit: String,
    /// First line of its message.
    pub subject: String,
    /// When it was refused.
    pub at: u64,
    /// Everything that is wrong with it.
    pub findings: Vec<FindingStatus>,
}

/// `GET /api/findings`: one finding of the newest commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingStatus {
    /// Stable code, `WEFT` and four digits.
    pub code: String,
    /// `error` or `warning`.
    pub severity: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// `file:line:column`, if a file is at fault.
    pub place: Option<String>,
}

impl From<&weft_model::Finding> for FindingStatus {
    fn from(finding: &weft_model::Finding) -> Self {
        let severity = match finding.severity {
            weft_model::Severity::Error => "error",
            weft_model::Severity::Warning => "warning",
        };
        Self {
            code: finding.code.to_owned(),
            severity: severity.to_owned(),
            message: finding.message.clone(),
            hint: finding.hint.clone(),
            place: finding.span.as_ref().map(ToString::to_string),
        }
    }
}

/// `GET /api/proxies`: one proxy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// `Node.id`.
    pub node: String,
    /// `namespace/name`.
    pub service: String,
    /// The SPIFFE ID of its certificate.
    pub identity: String,
    /// When its certificate expires: as it reports, or the newest that was issued to it, whichever is later.
    pub certificate_expires: Option<u64>,
    /// Why it can take part in nothing: `identity_expired` once its certificate has run out without a renewal.
    #[serde(default)]
    pub cause: Option<String>,
    /// `weft`, `envoy` or `grpc`; empty when nothing is known of it but its certificate.
    pub data_plane: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Address of its ingress, if it takes calls.
    pub ingress: Option<String>,
    /// Whether it says that it can be called.
    pub ready: bool,
    /// Whether its stream lives.
    pub connected: bool,
    /// Since when it is connected or lost.
    pub since: u64,
    /// The commit that it runs on, empty before its first.
    pub commit: String,
    /// `acknowledged`, `pending`, `refused` or `lost`.
    pub state: String,
    /// What it refuses now.
    pub refusals: Vec<Refusal>,
    /// What it was sent and has not answered.
    pub unanswered: Vec<Unanswered>,
    /// When a response was last sent to it.
    pub last_sent: Option<u64>,
    /// Resources and bytes sent on the present stream.
    pub resources_sent: u64,
    /// Bytes of those.
    pub bytes_sent: u64,
}

/// A NACK that still holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The xDS type, short: `LDS`, `CDS`, ...
    pub kind: String,
    /// The resources that it complains about.
    pub resources: Vec<String>,
    /// What the proxy said.
    pub reason: String,
    /// When.
    pub at: u64,
}

/// Any answer that is not 2xx.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// What was wrong.
    pub error: String,
    /// What to do about it.
    pub hint: String,
}

/// Seconds since the Unix epoch.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
