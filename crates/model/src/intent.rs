//! The intent: every document of one commit of the repository, checked for shape, with the places where things were written.
//!
//! These are the types that the rest of Weft reads; `parse` (in this crate) makes them from files.

mod access;
mod federation;
mod nodes;
mod route;
mod test;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attest::Attest;
use crate::finding::Span;
use crate::id::{ServiceName, TrustDomain};
use crate::mtls::Mtls;

pub use access::{AccessRule, Allow, Caller, Member, Role, ServicePattern};
pub use federation::{EndpointUrl, ForeignDomain, ForeignService, Profile};
pub use nodes::{NodeEntry, NodeProof, Oidc, OidcKeys, Star, WebUrl, Wildcard, X509pop};
pub use route::{BackendRef, HeaderMatch, PathMatch, Route, RouteMatch};
pub use test::{ExpectedBackend, ExpectedDecision, ExpectedRoute, Test, TestCaller};

/// All documents of one commit.
#[derive(Clone, Debug)]
pub struct Intent {
    /// The one `Mesh` document.
    pub mesh: Mesh,
    /// Every `Service`, by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// Every `Role`, by name.
    pub roles: BTreeMap<Arc<str>, Role>,
    /// Every `TrustDomain`, by name.
    pub trust_domains: BTreeMap<TrustDomain, ForeignDomain>,
    /// Every `Operator`, by name.
    pub operators: BTreeMap<Arc<str>, Operator>,
    /// Every `.cedar` file, sorted by path.
    pub policies: Vec<PolicyFile>,
    /// Every `Test`, in the order written.
    pub tests: Vec<Test>,
    /// What `weft up` runs on this machine (`kind: Local`), in the order written.
    pub local: Vec<LocalApp>,
}

/// `kind: Mesh`.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Name, for people.
    pub name: Arc<str>,
    /// The root of every identity.
    pub trust_domain: TrustDomain,
    /// The ABAC vocabulary: attribute -> its legal values.
    pub attributes: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// What policies may read of a request beside what every request has.
    pub policy: PolicyInputs,
    /// What holds where a service says nothing.
    pub defaults: Defaults,
    /// How identities are given and kept.
    pub identity: Identity,
    /// Where the document starts.
    pub span: Span,
}

/// `Mesh.identity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// How long a machine that was enrolled once may be away and still come back by its key; 1 h to 366 days. Default 30 days.
    pub machine_life: Duration,
    /// By which proofs, other than a join token, a machine becomes whom; in the order written.
    pub nodes: Arc<[NodeEntry]>,
}

impl Default for Identity {
    fn default() -> Self {
        Self { machine_life: Duration::from_secs(30 * 24 * 3600), nodes: Arc::default() }
    }
}

/// `Mesh.policy`: which parts of a request policies may read, where there is no end to what a request could carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PolicyInputs {
    /// Names of header fields, lower-case, sorted: `context.headers`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Arc<str>>,
    /// Names of parameters of the query, sorted: `context.query`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<Arc<str>>,
    /// Names of a user's claims, sorted: `context.user.claims`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Arc<str>>,
    /// Which of these names hold what must not stand in a log, sorted; beside those whose names say so.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub redact: Vec<Arc<str>>,
    /// Name -> time zone of the IANA database, like `Europe/Berlin`: `context.time`. `utc` is always there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub time_zones: BTreeMap<Arc<str>, Arc<str>>,
}

/// `Mesh.defaults`.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Whole request, from the first byte to the last of the response. Default 15 s.
    pub timeout: Duration,
    /// Life of an X.509-SVID, 10 s to 24 h. Default 1 h.
    pub svid_ttl: Duration,
}

/// What the app speaks to its sidecar and the sidecar to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2 in clear.
    Http,
    /// HTTP/2 in clear.
    Grpc,
    /// Bytes.
    Tcp,
}

/// `kind: Service`: everything about how a service is called.
#[derive(Clone, Debug)]
pub struct Service {
    /// Namespace and name; the identity follows from it.
    pub name: ServiceName,
    /// Attribute -> value, checked against `Mesh.attributes`.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// The port that the app listens on and callers name.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// How its sidecars treat it.
    pub app: App,
    /// What its ingress takes.
    pub mtls: Mtls,
    /// How paths of requests are read.
    pub paths: Paths,
    /// Who decides whether calls to it are allowed.
    pub authorization: Authorization,
    /// What stands in its certificates, and for how long.
    pub identity: ServiceIdentity,
    /// Which processes agents give its identity to; nobody if empty.
    pub attest: Vec<Attest>,
    /// Where its sidecars are.
    pub endpoints: Endpoints,
    /// Subset -> labels that an endpoint must carry.
    pub subsets: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>,
    /// Who may call what; compiles to Cedar.
    pub access: Vec<AccessRule>,
    /// In the order written; precedence is the Gateway API's. Empty means: everything to every endpoint.
    pub routes: Vec<Route>,
    /// Where the document starts.
    pub span: Span,
    /// Where `access:` stands, or the document's start without one.
    pub access_span: Span,
}

/// `Service.identity`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceIdentity {
    /// Life of its X.509-SVIDs, 10 s to 24 h; `Mesh.defaults.svidTtl` if it says nothing.
    pub svid_ttl: Option<Duration>,
    /// DNS names in its X.509-SVIDs, in the order written: lower case, without wildcards.
    pub dns_names: Vec<Arc<str>>,
}

/// `Service.app`: the connections between a sidecar and the app behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// An idle HTTP/1.1 connection is closed by the sidecar after so long; 100 ms to 24 h. Default 60 s.
    pub idle_timeout: Duration,
}

impl Default for App {
    fn default() -> Self {
        Self { idle_timeout: Duration::from_secs(60) }
    }
}

/// `Service.authorization`: who decides whether a call is allowed, and what happens when nobody can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Who decides.
    pub by: DecidedBy,
    /// How long the control plane may take to answer; 10 ms to 10 s. Default 1 s.
    pub timeout: Duration,
    /// Whether a call passes when the control plane cannot be asked. Never said of a service whose sidecars decide.
    pub fail_open: bool,
}

impl Default for Authorization {
    fn default() -> Self {
        Self { by: DecidedBy::Sidecar, timeout: Duration::from_secs(1), fail_open: false }
    }
}

/// Who decides whether a call is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// The callee's sidecar, from the policies that it was sent. The default: it needs nobody.
    Sidecar,
    /// The control plane, over ext_authz.
    Server,
}

/// `Service.paths`: what is done with paths that two readers could take differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Paths {
    /// `%2F` in a path.
    pub escaped_slashes: EscapedSlashes,
    /// `//` in a path.
    pub slashes: Slashes,
    /// Upper and lower case in a path. Left out of documents where it is the default, so that those are as they were.
    #[serde(skip_serializing_if = "Case::is_sensitive")]
    pub case: Case,
}

/// Whether the app tells `/Admin` from `/admin`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// It does. The default.
    #[default]
    Sensitive,
    /// It does not: policies are asked about the path in lower case.
    Ignore,
}

impl Case {
    fn is_sensitive(&self) -> bool {
        *self == Self::Sensitive
    }
}

/// What becomes of several slashes in a row, which are one slash to many frameworks and not to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slashes {
    /// They are made one, for route, policy and app alike. The default.
    #[default]
    Merge,
    /// They are left as they are.
    Keep,
}

/// What becomes of a request whose path has `%2F`, which is a slash to some readers and not to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EscapedSlashes {
    /// It is refused with 400. The default.
    #[default]
    Reject,
    /// It is left as it is, a part of its segment.
    Keep,
}

/// Where a service's sidecars are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// Registered by the sidecars' own streams. The default.
    Registry,
    /// Written down.
    Static(Vec<StaticEndpoint>),
}

/// One written-down sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticEndpoint {
    /// Address of the sidecar's ingress.
    pub address: std::net::SocketAddr,
    /// Labels, matched by subsets.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// `kind: Operator`: a person, known by keys.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Name, as in `Operator::"alice"`.
    pub name: Arc<str>,
    /// By whose signatures the person is known.
    pub ssh_keys: Vec<SshKey>,
    /// Where the document starts.
    pub span: Span,
}

/// A public key of SSH, of the kind `ssh-ed25519` (RFC 8709).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshKey {
    /// The key itself (RFC 8032 s.5.1.5).
    pub ed25519: [u8; 32],
    /// What stands behind it, like `alice@laptop`.
    pub comment: Arc<str>,
}

/// One `.cedar` file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Path relative to the repository's root.
    pub path: Arc<str>,
    /// The whole text.
    pub text: Arc<str>,
}

/// One app that `weft up` starts with a sidecar.
#[derive(Clone, Debug)]
pub struct LocalApp {
    /// Whose endpoint it is.
    pub service: ServiceName,
    /// Labels of the endpoint, like `version: v1`.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Program and arguments. `weft` as program is this binary; `${PORT}` and `${EGRESS}` (as `host:port`) are replaced, and the
    /// environment holds `PORT` and `EGRESS` too.
    pub command: Vec<String>,
    /// Where the entry starts.
    pub span: Span,
}
