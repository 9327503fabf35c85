//! Where calls go: rules of a service.

use std::sync::Arc;
use std::time::Duration;

use crate::finding::Span;

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
