//! `kind: Test`: what is expected of the policies and routes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::finding::Span;
use crate::id::{ServiceName, SpiffeId};

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
