//! An `AuthorizationPolicy` as it was written, with the places of all that could not be carried over.

use std::sync::Arc;

use weft_model::Span;

/// One document.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) action: Action,
    /// Annotated `istio.io/dry-run`: Istio only counts what it would have decided.
    pub(super) dry_run: bool,
    pub(super) selection: Selection,
    pub(super) rules: Vec<Rule>,
    pub(super) span: Span,
    /// Which document of its file it is, from 1.
    pub(super) document: usize,
    /// What stands in `spec` that is not known here: it could mean anything.
    pub(super) unknown: Vec<Match>,
}

/// What is done with a request that the rules match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    Audit,
    Custom,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// The workloads of the namespace (of the mesh, for the root namespace) that a policy is for.
#[derive(Clone, Debug)]
pub(super) enum Selection {
    All,
    Labels { labels: Vec<(String, Text)>, span: Span },
    Targets(Vec<TargetRef>),
}

/// A resource that a policy hangs on.
#[derive(Clone, Debug)]
pub(super) struct TargetRef {
    pub(super) kind: String,
    pub(super) group: String,
    pub(super) name: String,
    pub(super) path: String,
    pub(super) span: Span,
}

/// Any of `from`, any of `to`, and all of `when`. An empty list demands nothing.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) from: Vec<Vec<Match>>,
    pub(super) to: Vec<Vec<Match>>,
    pub(super) when: Vec<Match>,
    pub(super) path: String,
    pub(super) span: Span,
}

/// A field with a list of values: one of them holds, or for a `not` field none.
#[derive(Clone, Debug)]
pub(super) struct Match {
    pub(super) attribute: Attribute,
    pub(super) negated: bool,
    pub(super) values: Vec<Text>,
    /// Like `rules[0].from[1].source.principals`.
    pub(super) path: String,
}

/// A text and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: Arc<str>,
    pub(super) span: Span,
}

/// What of a request is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    Principal,
    Namespace,
    ServiceAccount,
    TrustDomain,
    SourceIp,
    RemoteIp,
    RequestPrincipal,
    Audiences,
    Presenter,
    Claim,
    /// Its name as written.
    Header(String),
    Host,
    Method,
    Path,
    Port,
    DestinationIp,
    Sni,
    EnvoyFilter,
    /// The name of a field or key that this importer does not know.
    Unknown(String),
    /// A part of a rule that Istio refuses, and why: what it would mean cannot be told.
    Refused(&'static str),
}

impl Attribute {
    /// Whether only a request of HTTP has it. For TCP Istio leaves out a rule that allows by it, and the condition from one that denies.
    pub(super) fn is_http(&self) -> bool {
        match self {
            Self::RequestPrincipal | Self::Audiences | Self::Presenter | Self::Claim | Self::Header(_) => true,
            Self::Host | Self::Method | Self::Path => true,
            Self::Principal | Self::Namespace | Self::ServiceAccount | Self::TrustDomain => false,
            Self::SourceIp | Self::RemoteIp | Self::Port | Self::DestinationIp | Self::Sni => false,
            Self::EnvoyFilter | Self::Unknown(_) | Self::Refused(_) => false,
        }
    }
}
