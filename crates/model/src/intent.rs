//! The intent: every document of one commit of the repository, checked for shape, with the places where things were written.
//!
//! These are the types that the rest of Weft reads; `parse` (in this crate) makes them from files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::attest::Attest;
use crate::finding::Span;
use crate::id::{ServiceName, SpiffeId, TrustDomain};
use crate::mtls::Mtls;

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
}

impl Default for Identity {
    fn default() -> Self {
        Self { machine_life: Duration::from_secs(30 * 24 * 3600) }
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

/// One entry of `access`.
#[derive(Clone, Debug)]
pub struct AccessRule {
    /// Who.
    pub from: Vec<Caller>,
    /// What; empty means everything.
    pub allow: Vec<Allow>,
    /// Evaluated and logged, and not enforced.
    pub shadow: bool,
    /// Where the entry starts.
    pub span: Span,
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// `prod/web`.
    Service(ServiceName),
    /// `prod/*`: every service of a namespace.
    Namespace(Arc<str>),
    /// `role:reporting`.
    Role(Arc<str>),
    /// `*`: every authenticated workload of the mesh.
    Anyone,
    /// `plain-text`: whoever calls a permissive service without TLS.
    PlainText,
    /// `spiffe://other.example/ns/prod/sa/web`: this identity of another trust domain, which a `TrustDomain` document declares.
    Foreign(SpiffeId),
}

/// `GET /api/**`: a method (or `*`) and a path pattern.
///
/// In a pattern a segment `*` is exactly one non-empty segment and a final `**` is any rest, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// `None` means any method.
    pub method: Option<Arc<str>>,
    /// Starts with `/`.
    pub path: Arc<str>,
}

/// Who has a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Member {
    /// A caller as `access` names it; a role means all who have it.
    Caller(Caller),
    /// `prod/web-*`, `*/batch`: services whose namespace and name match.
    Pattern(ServicePattern),
}

/// Namespace and name with `*` for any letters, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePattern {
    /// Of the namespace.
    pub namespace: Arc<str>,
    /// Of the name.
    pub name: Arc<str>,
}

impl ServicePattern {
    /// True if both parts of the name fit.
    pub fn matches(&self, service: &ServiceName) -> bool {
        glob(&self.namespace, service.namespace()) && glob(&self.name, service.name())
    }
}

/// Whether `text` is `pattern` with something in the place of each `*`. Names are short: at most 63 letters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place is the best: it leaves the most for what follows.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// `kind: Role`: a named group of services.
#[derive(Clone, Debug)]
pub struct Role {
    /// Name, as in `role:reporting`.
    pub name: Arc<str>,
    /// Members. A role among them brings its own members; no role is a member of itself, by whatever way.
    pub members: Vec<Member>,
    /// Where the document starts.
    pub span: Span,
}

/// `kind: TrustDomain`: another trust domain, whose workloads prove to this one who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDomain {
    /// Its name; never that of the mesh itself.
    pub name: TrustDomain,
    /// Where its bundle is fetched.
    pub endpoint: EndpointUrl,
    /// How that endpoint proves that it is the right one.
    pub profile: Profile,
    /// Services of it that are called from here, in the order written.
    pub services: Vec<ForeignService>,
    /// Where the document starts.
    pub span: Span,
}

/// The URL of a bundle endpoint: `https`, without user information, query and fragment (SPIFFE Federation s.5.2.1.1, s.5.2.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: Arc<str>,
    /// 443 if the URL has none.
    pub port: u16,
    /// Starts with `/`.
    pub path: Arc<str>,
}

impl std::fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, path } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}{path}")
        } else {
            write!(f, "https://{host}:{port}{path}")
        }
    }
}

/// How a bundle endpoint proves who it is. Neither profile falls back to the other (SPIFFE Federation s.7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `https_web`: by a certificate of a CA that this machine trusts, for the host of the URL (s.5.2.1).
    Web,
    /// `https_spiffe`: by an X.509-SVID (s.5.2.2).
    Spiffe {
        /// Whose; of the trust domain itself.
        id: SpiffeId,
        /// The first bundle, a SPIFFE bundle document. Later ones come from the endpoint.
        bundle: Arc<str>,
        /// Where that stands.
        span: Span,
    },
}

/// A service of another trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignService {
    /// As callers here name it: the host is `name.namespace`. No service of the mesh has it.
    pub name: ServiceName,
    /// Who must answer.
    pub id: SpiffeId,
    /// The port that callers name.
    pub port: u16,
    /// Where its ingress is; at least one.
    pub addresses: Vec<std::net::SocketAddr>,
    /// Where the entry starts.
    pub span: Span,
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

/// `kind: Test`: calls, what is to be decided about them, and where they are to go. A commit that does otherwise is refused.
#[derive(Clone, Debug)]
pub struct Test {
    /// For people.
    pub name: Arc<str>,
    /// In the order written.
    pub decisions: Vec<ExpectedDecision>,
    /// In the order written.
    pub routes: Vec<ExpectedRoute>,
}

/// One entry of `Test.decisions`.
#[derive(Clone, Debug)]
pub struct ExpectedDecision {
    /// Who calls.
    pub from: TestCaller,
    /// Whom.
    pub to: ServiceName,
    /// Empty for TCP.
    pub method: Arc<str>,
    /// Path and query; empty for TCP.
    pub target: Arc<str>,
    /// Header fields by lower-case name.
    pub headers: BTreeMap<Arc<str>, Arc<str>>,
    /// Where the call comes from.
    pub source: Option<IpAddr>,
    /// When; demanded where a policy reads the time.
    pub at: Option<SystemTime>,
    /// Whether the glass is broken.
    pub break_glass: bool,
    /// True for `expect: allow`.
    pub allowed: bool,
    /// `file` or `file:line` of a policy that must be among those that determine it.
    pub by: Option<Arc<str>>,
    /// Where the entry starts.
    pub span: Span,
}

/// One entry of `Test.routes`.
#[derive(Clone, Debug)]
pub struct ExpectedRoute {
    /// Whose sidecar routes the call.
    pub from: ServiceName,
    /// Whom it calls; not a TCP service.
    pub to: ServiceName,
    /// The host that the call names; `None` is the callee's own.
    pub host: Option<Arc<str>>,
    /// As sent.
    pub method: Arc<str>,
    /// Path and query, as sent.
    pub target: Arc<str>,
    /// Header fields by lower-case name.
    pub headers: BTreeMap<Arc<str>, Arc<str>>,
    /// All that such calls go to, in any order; empty for `expect: none`.
    pub backends: Vec<ExpectedBackend>,
    /// Where the entry starts.
    pub span: Span,
}

/// Where calls are expected to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedBackend {
    /// Whose endpoints.
    pub service: ServiceName,
    /// Which of them; `None` is all.
    pub subset: Option<Arc<str>>,
    /// The weight that it must have, if it is said.
    pub weight: Option<u32>,
}

/// Who calls in a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TestCaller {
    /// A service of the mesh.
    Service(ServiceName),
    /// Whoever has this identity.
    Id(SpiffeId),
    /// `plain-text`.
    PlainText,
}

/// One `.cedar` file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    /// Path relative to the repository's root.
    pub path: Arc<str>,
    /// The whole text.
    pub text: Arc<str>,
}

/// One rule of `Service.routes` (Gateway API `HTTPRouteRule`).
#[derive(Clone, Debug)]
pub struct Route {
    /// Any of these must match; empty matches everything.
    pub matches: Vec<RouteMatch>,
    /// Where it goes; at least one, and weights that do not all equal 0.
    pub backends: Vec<BackendRef>,
    /// `timeouts.request`; the mesh's default without one.
    pub request_timeout: Option<Duration>,
    /// Where the rule starts.
    pub span: Span,
}

/// Gateway API `HTTPRouteMatch`: all of what is given must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// The path; prefix `/` where none is given.
    pub path: PathMatch,
    /// Each must hold.
    pub headers: Vec<HeaderMatch>,
    /// Exact method, if given.
    pub method: Option<Arc<str>>,
}

/// Gateway API `HTTPPathMatch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// By whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
    Prefix(Arc<str>),
}

/// Gateway API `HTTPHeaderMatch` of type `Exact`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower-case name.
    pub name: Arc<str>,
    /// The whole value.
    pub value: Arc<str>,
}

/// Where part of the traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// A subset of the service; `None` is all of its endpoints.
    pub subset: Option<Arc<str>>,
    /// Share of the rule's sum of weights; 0 gets nothing. Default 1.
    pub weight: u32,
    /// Where it is written.
    pub span: Span,
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
