//! Who may call: entries of `access`, and roles.

use std::sync::Arc;

use crate::finding::Span;
use crate::id::{ServiceName, SpiffeId};

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

/// Whether `text` is `pattern` with something in the place of each `*`.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
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
