//! Which cluster a request goes to: a pure function of host, path, method, headers and a random number.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use http::header::{AsHeaderName, HeaderMap, HeaderName};

use super::cluster::ClusterRef;

/// `envoy.config.route.v3.RouteConfiguration`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    /// Unique name, like `egress`.
    pub name: Arc<str>,
    pub(super) hosts: Vec<VirtualHost>,
    /// Whole domain -> index in `hosts`.
    pub(super) exact: HashMap<Box<str>, u32>,
    /// `*.example.com` without its star -> index, by falling length.
    pub(super) suffixes: Vec<(Box<str>, u32)>,
    /// `board.*` without its star -> index, by falling length.
    pub(super) prefixes: Vec<(Box<str>, u32)>,
    /// The host of `*`.
    pub(super) any: Option<u32>,
}

/// `envoy.config.route.v3.VirtualHost`: the routes of some domains, first match wins.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// Name, unique in the table.
    pub name: Arc<str>,
    /// In order.
    pub routes: Vec<Arc<Route>>,
}

/// One route: what it matches and where that goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name for the access log; may be empty.
    pub name: Arc<str>,
    /// What it takes.
    pub matches: RouteMatch,
    /// Where it goes.
    pub clusters: Weighted,
    /// From the last byte of the request to the last of the response; `None` is for ever. Default 15 s.
    pub timeout: Option<Duration>,
    /// When a request is sent once more; `None` is never.
    pub retry: Option<RetryPolicy>,
    /// Upgrades to `websocket` on this route, if it differs from the listener's.
    pub websocket: Option<bool>,
    /// Fields that answers are passed on without (`VirtualHost.response_headers_to_remove`).
    pub removed_response_headers: Arc<[HeaderName]>,
}

/// All of it must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// The method, if given (a matcher of `:method`).
    pub method: Option<Method>,
    /// Each must hold.
    pub headers: Vec<HeaderMatch>,
}

/// On the path without its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Box<str>),
    /// Its beginning, any bytes behind it.
    Prefix(Box<str>),
    /// Whole segments: `/api` takes `/api` and `/api/x`, not `/apix`.
    Segments(Box<str>),
    /// CONNECT requests, which have no path.
    Connect,
}

/// A rule on one header. Several values count as one, joined by commas, as in Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower-case name.
    pub name: HeaderName,
    /// What the value must be.
    pub value: ValueMatch,
    /// The rule holds when the value does *not* match.
    pub invert: bool,
}

/// A rule on a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// There is one (or, with `false`, there is none).
    Present(bool),
    /// The whole value.
    Exact(Box<str>),
    /// Its beginning.
    Prefix(Box<str>),
    /// Its end.
    Suffix(Box<str>),
    /// A part of it.
    Contains(Box<str>),
}

/// Clusters with weights. Never empty, and never of total weight 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    pub(super) clusters: Vec<Arc<ClusterRef>>,
    /// Running sums of the weights, one a cluster.
    pub(super) cumulative: Vec<u64>,
}

/// When a request is sent once more (`envoy.config.route.v3.RetryPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// After what.
    pub on: RetryOn,
    /// Attempts after the first one. Default 1.
    pub num_retries: u32,
    /// First pause, doubled each time. Default 25 ms.
    pub base_interval: Duration,
    /// Longest pause. Default 10 times the first.
    pub max_interval: Duration,
    /// Endpoints that were tried are avoided (`envoy.retry_host_predicates.previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// Answers after which another attempt is made (`retriable_headers`, where `retry_on` has `retriable-headers`).
    pub retriable_headers: Vec<HeaderMatch>,
}

impl RetryPolicy {
    /// Whether another attempt follows an answer with such a head.
    pub fn is_retriable(&self, answer: &HeaderMap) -> bool {
        self.retriable_headers.iter().any(|header| header.matches(answer))
    }
}

/// Conditions of `retry_on`; only those that prove that no server began to work on the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    /// `connect-failure`: no connection could be made.
    pub connect_failure: bool,
    /// `refused-stream`: the server sent `REFUSED_STREAM`.
    pub refused_stream: bool,
    /// `reset-before-request`: the connection broke before the request was sent.
    pub reset_before_request: bool,
    /// `retriable-headers`: the answer has a field that says so.
    pub retriable_headers: bool,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteHit<'a> {
    /// By which route.
    pub route: &'a Arc<Route>,
    /// To which of its clusters.
    pub cluster: &'a Arc<ClusterRef>,
}

/// Why a request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// No virtual host has this domain.
    #[error("no service of this name is known to this proxy")]
    Host,
    /// The virtual host has no route for this request.
    #[error("the service has no route that matches the request")]
    Path,
}

impl RouteTable {
    /// The route of a request and, by its weights and `random`, the cluster.
    ///
    /// `host` comes from [`host_key`]; `path` has no query (empty for CONNECT). A WebSocket over HTTP/2 (extended
    /// CONNECT) is looked up as `GET`.
    pub fn route(
        &self,
        host: &str,
        path: &str,
        method: &Method,
        headers: &HeaderMap,
        random: u64,
    ) -> Result<RouteHit<'_>, NoRoute> {
        let host = self.virtual_host(host).ok_or(NoRoute::Host)?;
        let route =
            host.routes.iter().find(|route| route.matches.matches(path, method, headers)).ok_or(NoRoute::Path)?;
        Ok(RouteHit { route, cluster: route.clusters.pick(random) })
    }

    /// The virtual host of a domain: whole, then longest suffix wildcard, then longest prefix wildcard, then `*`. A
    /// wildcard stands for at least one character.
    pub fn virtual_host(&self, host: &str) -> Option<&VirtualHost> {
        let longer = |part: &str| host.len() > part.len();
        let index = self
            .exact
            .get(host)
            .or_else(|| {
                self.suffixes.iter().find(|(part, _)| longer(part) && host.ends_with(&**part)).map(|(_, at)| at)
            })
            .or_else(|| {
                self.prefixes.iter().find(|(part, _)| longer(part) && host.starts_with(&**part)).map(|(_, at)| at)
            })
            .or(self.any.as_ref())?;
        self.hosts.get(*index as usize)
    }

    /// Every virtual host, in the order given.
    pub fn virtual_hosts(&self) -> &[VirtualHost] {
        &self.hosts
    }
}

impl RouteMatch {
    /// Whether a request is taken.
    pub fn matches(&self, path: &str, method: &Method, headers: &HeaderMap) -> bool {
        let connect = *method == Method::CONNECT;
        let path_holds = match &self.path {
            PathMatch::Connect => connect,
            _ if connect => false,
            PathMatch::Exact(whole) => path == &**whole,
            PathMatch::Prefix(prefix) => path.starts_with(&**prefix),
            PathMatch::Segments(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        path_holds
            && self.method.as_ref().is_none_or(|wanted| wanted == method)
            && self.headers.iter().all(|rule| rule.matches(headers))
    }
}

impl HeaderMatch {
    /// Whether the rule holds. A header that is not there matches no rule on its value, inverted or not, as in Envoy.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        let value = joined(headers, &self.name);
        match (&self.value, value) {
            (ValueMatch::Present(wanted), value) => (value.is_some() == *wanted) != self.invert,
            (_, None) => false,
            (rule, Some(value)) => rule.matches(&value) != self.invert,
        }
    }
}

impl ValueMatch {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(wanted) => *wanted,
            Self::Exact(text) => value == text.as_bytes(),
            Self::Prefix(text) => value.starts_with(text.as_bytes()),
            Self::Suffix(text) => value.ends_with(text.as_bytes()),
            Self::Contains(text) => text.is_empty() || value.windows(text.len()).any(|part| part == text.as_bytes()),
        }
    }
}

fn joined(headers: &HeaderMap, name: impl AsHeaderName) -> Option<Cow<'_, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut all = [first, second.as_bytes()].join(&b',');
    for value in values {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

impl Weighted {
    /// The cluster at `random` modulo the total weight, on a line on which each takes its weight.
    pub fn pick(&self, random: u64) -> &Arc<ClusterRef> {
        let [only] = &*self.clusters else {
            let point = random % self.total();
            return &self.clusters[self.cumulative.partition_point(|sum| *sum <= point)];
        };
        only
    }

    /// Sum of the weights, at least 1.
    pub fn total(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(1)
    }

    /// Every cluster with its weight, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<ClusterRef>, u64)> {
        let before = std::iter::once(0).chain(self.cumulative.iter().copied());
        self.clusters.iter().zip(self.cumulative.iter().zip(before).map(|(sum, before)| sum - before))
    }
}

/// What a request's authority is looked up by: lower case, and without its port where `strip_port` says so. The port of
/// a CONNECT stays (RFC 9110 s.9.3.6: it is part of the target), as in Envoy. Borrowed when nothing changes.
pub fn host_key<'a>(authority: &'a str, strip_port: bool, method: &Method) -> Cow<'a, str> {
    let strip = strip_port && *method != Method::CONNECT;
    let host = if strip { without_port(authority) } else { authority };
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// `[::1]:80` -> `[::1]`, `a:80` -> `a`; a bare `::1` is left alone.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (host.ends_with(']') || !host.contains(':')) =>
        {
            host
        }
        _ => authority,
    }
}
