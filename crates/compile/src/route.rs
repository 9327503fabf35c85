//! Routes: the Gateway API's rules of precedence as Envoy's ordered list, where the first match wins.

use std::cmp::Reverse;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryHostPredicate, retry_host_predicate};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterSpecifier, MaxStreamDuration, UpgradeConfig, upgrade_config::ConnectConfig,
};
use envoy_types::pb::envoy::config::route::v3::route_match::{ConnectMatcher, PathSpecifier};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteMatch, VirtualHost, WeightedCluster,
    header_matcher::HeaderMatchSpecifier,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use weft_model::intent::{self, BackendRef, PathMatch, Protocol, Service};

use crate::pb::{any, duration, uint32};
use crate::{headers, names};

/// Failures that prove that no server began to work on the request: no connection, `REFUSED_STREAM` (or a stream beyond the last
/// one of a GOAWAY), a connection that broke before the request was written to it, and an ingress that says so of its app.
const RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request,retriable-headers";
/// Of an app behind its ingress that speaks HTTP/2: only there is a stream refused. It has one address: one that does not listen is not
/// asked again (Envoy's `reset-before-request` would).
const RETRY_ON_OF_APP: &str = "refused-stream";
/// Attempts after the first.
const RETRIES: u32 = 2;

/// How often Envoy's balancer is asked again for an endpoint that was not tried. A dead one looks least busy, so of two it is
/// chosen three times of four; with 5 questions, as others have it, every sixth retry would go to it again.
const HOST_SELECTIONS: i64 = 64;

/// How one service is called, by sidecars of its own namespace or of others.
pub(crate) fn virtual_host(service: &Service, default_timeout: Duration, from_own_namespace: bool) -> VirtualHost {
    let mut domains = names::hosts(&service.name, from_own_namespace);
    let routes = match service.protocol {
        Protocol::Tcp => {
            // The target of a CONNECT has its port (RFC 9110 s.9.3.6). Envoy looks it up without, because it strips ports.
            domains = domains.into_iter().flat_map(|host| [format!("{host}:{}", service.port), host]).collect();
            vec![connect(service)]
        }
        Protocol::Http => http(service, Some(default_timeout)),
        // A stream may last for ever, and a gRPC caller brings its own deadline.
        Protocol::Grpc => http(service, None),
    };
    VirtualHost { name: names::virtual_host(service), domains, routes, ..without_mesh_headers() }
}

/// What sidecars tell each other in answers is for them alone.
fn without_mesh_headers() -> VirtualHost {
    VirtualHost { response_headers_to_remove: vec![headers::UNTOUCHED.to_owned()], ..Default::default() }
}

/// How a proxyless gRPC client calls a service. Its listener has chosen the service, so any host is right.
pub(crate) fn virtual_host_for_grpc(service: &Service) -> VirtualHost {
    let routes = ordered(service).into_iter().flat_map(|rule| rule.for_grpc()).collect();
    VirtualHost { name: names::virtual_host(service), domains: vec!["*".to_owned()], routes, ..Default::default() }
}

/// One match of one rule: what becomes one route.
struct Rule<'a> {
    service: &'a Service,
    name: String,
    matches: &'a intent::RouteMatch,
    backends: &'a [BackendRef],
    timeout: Option<Duration>,
}

static EVERYTHING: std::sync::LazyLock<intent::RouteMatch> = std::sync::LazyLock::new(|| intent::RouteMatch {
    path: PathMatch::Prefix("/".into()),
    headers: Vec::new(),
    method: None,
});

static EVERY_ENDPOINT: std::sync::LazyLock<[BackendRef; 1]> = std::sync::LazyLock::new(|| {
    let span = weft_model::Span { file: "".into(), line: 1, column: 1 };
    [BackendRef { subset: None, weight: 1, span }]
});

/// The matches of all rules of a service, each with the rule's backends, most specific first.
fn ordered(service: &Service) -> Vec<Rule<'_>> {
    let mut rules = Vec::new();
    for (index, route) in service.routes.iter().enumerate() {
        let rule = |name: String, matches| {
            let (backends, timeout) = (&*route.backends, route.request_timeout);
            Rule { service, name, matches, backends, timeout }
        };
        let name = format!("{}/routes[{index}]", service.name.host());
        match &*route.matches {
            [] => rules.push(rule(name, &*EVERYTHING)),
            [only] => rules.push(rule(name, only)),
            several => rules
                .extend(several.iter().enumerate().map(|(at, matches)| rule(format!("{name}.matches[{at}]"), matches))),
        }
    }
    if rules.is_empty() {
        let name = format!("{}/default", service.name.host());
        rules.push(Rule { service, name, matches: &EVERYTHING, backends: &*EVERY_ENDPOINT, timeout: None });
    }
    rules.sort_by_key(|rule| precedence(rule.matches)); // stable: what is equal stays in the order written
    rules
}

/// Gateway API `HTTPRouteRule.matches`: an exact path, then the longest prefix, then a method, then the most headers.
pub(crate) fn precedence(matches: &intent::RouteMatch) -> impl Ord + use<> {
    let path = match &matches.path {
        PathMatch::Exact(_) => (0, Reverse(0)),
        PathMatch::Prefix(prefix) => (1, Reverse(segments(prefix).chars().count())),
    };
    (path, matches.method.is_none(), Reverse(matches.headers.len()))
}

/// A prefix without its trailing slashes, which mean nothing (Gateway API `PathMatchPathPrefix`); empty for the root.
pub(crate) fn segments(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

fn http(service: &Service, default_timeout: Option<Duration>) -> Vec<Route> {
    ordered(service).into_iter().map(|rule| rule.for_sidecar(default_timeout)).collect()
}

fn connect(service: &Service) -> Route {
    let upgrade = UpgradeConfig {
        upgrade_type: "CONNECT".to_owned(),
        connect_config: Some(ConnectConfig::default()),
        ..Default::default()
    };
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(names::outbound_cluster(service, None).to_string())),
        upgrade_configs: vec![upgrade],
        timeout: duration(Duration::ZERO),
        retry_policy: Some(retry_policy()),
        ..Default::default()
    };
    Route {
        name: format!("{}/connect", service.name.host()),
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})),
            ..Default::default()
        }),
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

impl Rule<'_> {
    fn for_sidecar(&self, default_timeout: Option<Duration>) -> Route {
        let path = match &self.matches.path {
            PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
            PathMatch::Prefix(prefix) => match segments(prefix) {
                "" => PathSpecifier::Prefix("/".to_owned()),
                prefix => PathSpecifier::PathSeparatedPrefix(prefix.to_owned()),
            },
        };
        let method = self.matches.method.iter().map(|method| exactly(":method", method));
        let action = RouteAction {
            timeout: duration(self.timeout.or(default_timeout).unwrap_or(Duration::ZERO)),
            retry_policy: Some(retry_policy()),
            ..self.backends()
        };
        self.route(path, method.chain(self.headers()).collect(), action)
    }

    /// gRPC knows no `path_separated_prefix`, so a prefix becomes two routes; it has no method but POST; and its timeout is called
    /// `max_stream_duration` (gRFC A31).
    fn for_grpc(&self) -> Vec<Route> {
        if self.matches.method.as_deref().is_some_and(|method| method != "POST") {
            return Vec::new();
        }
        let paths = match &self.matches.path {
            PathMatch::Exact(path) => vec![PathSpecifier::Path(path.to_string())],
            PathMatch::Prefix(prefix) => match segments(prefix) {
                "" => vec![PathSpecifier::Prefix(String::new())],
                prefix => vec![PathSpecifier::Path(prefix.to_owned()), PathSpecifier::Prefix(format!("{prefix}/"))],
            },
        };
        let max_stream_duration = self
            .timeout
            .map(|timeout| MaxStreamDuration { max_stream_duration: duration(timeout), ..Default::default() });
        let action = RouteAction { max_stream_duration, ..self.backends() };
        paths.into_iter().map(|path| self.route(path, self.headers().collect(), action.clone())).collect()
    }

    fn route(&self, path: PathSpecifier, headers: Vec<HeaderMatcher>, action: RouteAction) -> Route {
        Route {
            name: self.name.clone(),
            r#match: Some(RouteMatch { path_specifier: Some(path), headers, ..Default::default() }),
            action: Some(Action::Route(action)),
            ..Default::default()
        }
    }

    fn headers(&self) -> impl Iterator<Item = HeaderMatcher> {
        self.matches.headers.iter().map(|header| exactly(&header.name, &header.value))
    }

    /// Where it goes: one cluster, or several with the weights as written.
    fn backends(&self) -> RouteAction {
        let cluster =
            |backend: &BackendRef| names::outbound_cluster(self.service, backend.subset.as_deref()).to_string();
        let specifier = match self.backends {
            [only] => ClusterSpecifier::Cluster(cluster(only)),
            several => ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: several
                    .iter()
                    .map(|backend| ClusterWeight {
                        name: cluster(backend),
                        weight: uint32(backend.weight),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            }),
        };
        RouteAction { cluster_specifier: Some(specifier), ..Default::default() }
    }
}

fn exactly(name: &str, value: &str) -> HeaderMatcher {
    let matcher = StringMatcher { match_pattern: Some(MatchPattern::Exact(value.to_owned())), ignore_case: false };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..Default::default()
    }
}

/// The retries that every call gets. An endpoint that was tried is avoided: a dead one looks least busy to the balancer.
fn retry_policy() -> RetryPolicy {
    RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        retriable_headers: vec![exactly(headers::UNTOUCHED, "true")],
        num_retries: uint32(RETRIES),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(&PreviousHostsPredicate {}))),
        }],
        host_selection_retry_max_attempts: HOST_SELECTIONS,
        ..Default::default()
    }
}

/// Ingress: whatever was let in goes to the app, for as long as it takes; the caller's side keeps the time.
pub(crate) fn to_app(service: &Service) -> VirtualHost {
    let cluster = names::inbound_cluster(service).to_string();
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.clone())),
        timeout: duration(Duration::ZERO),
        retry_policy: (service.protocol == Protocol::Grpc).then(|| RetryPolicy {
            retry_on: RETRY_ON_OF_APP.to_owned(),
            num_retries: uint32(RETRIES),
            ..Default::default()
        }),
        ..Default::default()
    };
    let route = Route {
        name: "app".to_owned(),
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), ..Default::default() }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    VirtualHost { name: cluster, domains: vec!["*".to_owned()], routes: vec![route], ..without_mesh_headers() }
}
