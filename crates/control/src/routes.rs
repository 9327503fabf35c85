//! Where calls go (`routes` of `kind: Test`), found by what a sidecar runs on: the resources that the control plane would send it, read and
//! looked up by the code of the proxy itself.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use weft_compile::{CompiledMesh, EGRESS, EndpointSet, Proxy, ProxyKind, names};
use weft_model::finding::{Finding, Severity, Span};
use weft_model::intent::{ExpectedBackend, ExpectedRoute, Intent, Protocol};
use weft_model::{ServiceName, code};
use weft_policy::{PolicyModel, path};
use weft_proxy_config::{Builder, Config, HttpListener, ListenerKind, NoRoute, host_key};
use weft_proxy_http::headers::strip_identity;
use weft_xds::{Update, type_url};

/// What an expectation came to.
pub struct RouteOutcome<'a> {
    /// The name of the test.
    pub test: &'a str,
    /// What was expected.
    pub expected: &'a ExpectedRoute,
    /// Where such calls go, in words.
    pub told: String,
    /// Why that is not as expected; `None` if it is.
    pub failure: Option<Finding>,
}

/// Runs the expectations on routes of all tests of `intent`, whose policies `policy` has.
pub fn run(intent: &Intent, policy: Arc<PolicyModel>) -> Vec<RouteOutcome<'_>> {
    if intent.tests.iter().all(|test| test.routes.is_empty()) {
        return Vec::new();
    }
    let mesh = CompiledMesh::new(Arc::new(intent.clone()), policy, "");
    let clusters = clusters(intent);
    let mut sidecars = HashMap::<&ServiceName, Result<Config, String>>::new();
    let mut outcomes = Vec::new();
    for test in &intent.tests {
        for expected in &test.routes {
            let config = sidecars.entry(&expected.from).or_insert_with(|| config(&mesh, &expected.from));
            let found = config.as_ref().map_err(|fault| Nowhere::Fault(fault.clone()));
            let found = found.and_then(|config| look_up(intent, config, &clusters, expected));
            let told = found.as_ref().map_or_else(|nowhere| nowhere.told(expected), Found::told);
            let failure = judge(intent, expected, &found, &told);
            outcomes.push(RouteOutcome { test: &test.name, expected, told, failure });
        }
    }
    outcomes
}

/// Where one call goes, in words: `to prod/board v2, by board.prod/routes[0] (services/board.yaml:12)`. What is expected of it does not matter.
pub fn tell(intent: &Intent, policy: Arc<PolicyModel>, call: &ExpectedRoute) -> String {
    let mesh = CompiledMesh::new(Arc::new(intent.clone()), policy, "");
    let config = config(&mesh, &call.from).map_err(Nowhere::Fault);
    let found = config.and_then(|config| look_up(intent, &config, &clusters(intent), call));
    found.as_ref().map_or_else(|nowhere| nowhere.told(call), Found::told)
}

/// Where calls go, with what share.
struct Found {
    backends: Vec<(ExpectedBackend, u64)>,
    /// As the access log has it.
    route: Arc<str>,
    /// Where the rule is written, unless nobody wrote one.
    place: Option<Span>,
}

enum Nowhere {
    NoRoute(NoRoute),
    /// Refused before it is routed, or something that is no call.
    Refused(String),
    Fault(String),
}

impl Found {
    fn told(&self) -> String {
        let total: u64 = self.backends.iter().map(|(_, weight)| weight).sum();
        let one = |(backend, weight): &(ExpectedBackend, u64)| match self.backends.len() {
            1 => name(backend),
            _ => format!("{} ({weight} of {total})", name(backend)),
        };
        let mut told = format!("to {}", self.backends.iter().map(one).collect::<Vec<_>>().join(" and "));
        let _ = match &self.place {
            Some(place) => write!(told, ", by {} ({}:{})", self.route, place.file, place.line),
            None => write!(told, ", by {}", self.route),
        };
        told
    }
}

impl Nowhere {
    fn told(&self, expected: &ExpectedRoute) -> String {
        match self {
            Self::NoRoute(NoRoute::Host) => {
                format!("nowhere: the sidecar of {} knows no service of the host {}", expected.from, host(expected))
            }
            Self::NoRoute(NoRoute::Path) => format!("nowhere: no route of {} takes it", expected.to),
            Self::Refused(why) => format!("nowhere: {why}"),
            Self::Fault(why) => format!("nowhere that can be told, by a fault of weft: {why}"),
        }
    }
}

/// `prod/board v2`, or `prod/board` for all of its endpoints.
fn name(backend: &ExpectedBackend) -> String {
    match &backend.subset {
        Some(subset) => format!("{} {subset}", backend.service),
        None => backend.service.to_string(),
    }
}

fn host(expected: &ExpectedRoute) -> String {
    expected.host.as_deref().map_or_else(|| expected.to.host(), str::to_owned)
}

/// What each cluster's name stands for.
fn clusters(intent: &Intent) -> HashMap<Arc<str>, ExpectedBackend> {
    let mut clusters = HashMap::new();
    for service in intent.services.values() {
        for subset in service.subsets.keys().map(Some).chain([None]) {
            let backend = ExpectedBackend { service: service.name.clone(), subset: subset.cloned(), weight: None };
            clusters.insert(names::outbound_cluster(service, subset.map(|subset| &**subset)), backend);
        }
    }
    clusters
}

/// What a sidecar of `service` would run on. Addresses and endpoints have no say in where a call goes.
fn config(mesh: &CompiledMesh, service: &ServiceName) -> Result<Config, String> {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let proxy = Proxy {
        service: service.clone(),
        ingress: at(15006),
        egress: at(15001),
        app: at(8080),
        authz: Some(at(15011)),
        access_log: "/dev/stdout".to_owned(),
        kind: ProxyKind::Sidecar,
    };
    let snapshot = weft_compile::compile(mesh, &EndpointSet::default(), &proxy);
    let mut builder = Builder::default();
    for type_url in [type_url::CLUSTER, type_url::LISTENER, type_url::ROUTE] {
        let changed = snapshot.get(type_url).values().cloned().collect();
        let refused = builder.apply(Update { type_url, revision: "".into(), changed, removed: Vec::new() });
        if let Some(refused) = refused.first() {
            return Err(format!("its own {} is refused: {}", refused.name, refused.reason));
        }
    }
    Ok(builder.build())
}

fn egress(config: &Config) -> Option<&HttpListener> {
    let listener = config.listeners.iter().find(|listener| &*listener.name == EGRESS)?;
    match &listener.kind {
        ListenerKind::Http(http) => Some(http),
        ListenerKind::Tcp(_) => None,
    }
}

/// In the order of the proxy's phases: one spelling of the path, then what only the mesh may say is gone, then the route.
fn look_up(
    intent: &Intent,
    config: &Config,
    clusters: &HashMap<Arc<str>, ExpectedBackend>,
    expected: &ExpectedRoute,
) -> Result<Found, Nowhere> {
    let refused = |why: String| Nowhere::Refused(why);
    if intent.services.get(&expected.to).is_some_and(|service| service.protocol == Protocol::Tcp) {
        return Err(refused(format!("{} is a tcp service, and its connections have no routes", expected.to)));
    }
    let fault = |what: &str| Nowhere::Fault(what.to_owned());
    let http = egress(config).ok_or_else(|| fault("there is no egress"))?;
    let table = config.route_table(&http.routes).ok_or_else(|| fault("there are no routes"))?;
    let target = match http.paths {
        Some(paths) => path::normalize(&expected.target, paths).map_err(|error| refused(error.to_string()))?,
        None => expected.target.as_ref().into(),
    };
    let method: Method = expected.method.parse().map_err(|_| refused(format!("{} is no method", expected.method)))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &expected.headers {
        let name: HeaderName = name.parse().map_err(|_| refused(format!("`{name}` is no name of a header field")))?;
        let value = HeaderValue::from_str(value).map_err(|_| refused(format!("no header field can be `{value}`")))?;
        headers.append(name, value);
    }
    strip_identity(&mut headers, &http.reserved);
    let authority = host(expected);
    let host = host_key(&authority, http.strip_port, &method);
    let hit = table.route(&host, path::split(&target).0, &method, &headers, 0).map_err(Nowhere::NoRoute)?;
    let mut backends = Vec::new();
    for (cluster, weight) in hit.route.clusters.iter().filter(|(_, weight)| *weight > 0) {
        let backend = clusters.get(&cluster.name).ok_or_else(|| fault(&format!("what is {}?", cluster.name)))?;
        backends.push((backend.clone(), weight));
    }
    let place = written(intent, &hit.route.name);
    Ok(Found { backends, route: hit.route.name.clone(), place })
}

/// The rule of a route by its name, like `board.prod/routes[2]`.
fn written(intent: &Intent, route: &str) -> Option<Span> {
    let (host, rule) = route.split_once("/routes[")?;
    let index: usize = rule.split_once(']')?.0.parse().ok()?;
    let service = intent.services.values().find(|service| service.name.host() == host)?;
    Some(service.routes.get(index)?.span.clone())
}

fn judge(intent: &Intent, expected: &ExpectedRoute, found: &Result<Found, Nowhere>, told: &str) -> Option<Finding> {
    let undeclared = expected.backends.iter().find_map(|backend| {
        let subsets = &intent.services.get(&backend.service)?.subsets;
        let subset = backend.subset.as_ref().filter(|subset| !subsets.contains_key(*subset))?;
        let known = subsets.keys().map(|known| &**known).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        Some((format!("{} has no subset `{subset}`", backend.service), format!("its subsets are: {known}")))
    });
    if let Some((message, hint)) = undeclared {
        return Some(finding(code::UNKNOWN_SUBSET, expected, message, &hint));
    }
    let holds = match found {
        Ok(found) => {
            let is_expected = |(backend, weight): &(ExpectedBackend, u64)| {
                expected.backends.iter().any(|wanted| {
                    (&wanted.service, &wanted.subset) == (&backend.service, &backend.subset)
                        && wanted.weight.is_none_or(|wanted| u64::from(wanted) == *weight)
                })
            };
            found.backends.len() == expected.backends.len() && found.backends.iter().all(is_expected)
        }
        Err(Nowhere::NoRoute(_)) => expected.backends.is_empty(),
        Err(_) => false,
    };
    if holds {
        return None;
    }
    if let Err(Nowhere::Refused(why)) = found {
        let hint = "write it as a client sends it, to an http or grpc service";
        return Some(finding("WEFT0216", expected, format!("the call is refused before it is routed: {why}"), hint));
    }
    let wanted = expected.backends.iter().map(|backend| match backend.weight {
        Some(weight) => format!("{} (weight {weight})", name(backend)),
        None => name(backend),
    });
    let wanted: Vec<_> = wanted.collect();
    let wanted = if wanted.is_empty() { "nowhere".to_owned() } else { format!("to {}", wanted.join(" and ")) };
    let message = format!("{} {} is expected to go {wanted}, and goes {told}", expected.method, expected.target);
    let hint = "change the routes or the expectation, whichever is wrong";
    Some(finding("WEFT0216", expected, message, hint))
}

fn finding(code: &'static str, expected: &ExpectedRoute, message: String, hint: &str) -> Finding {
    Finding { code, severity: Severity::Error, message, hint: hint.to_owned(), span: Some(expected.span.clone()) }
}

#[cfg(test)]
mod tests {
    use weft_compile::testing::{MESH, ROUTES, intent, service, service_of};

    use super::*;

    /// What is wrong with some expectations about `prod/web` calling `prod/board`, which has the routes of other tests too.
    fn failures(routes: &str) -> Vec<String> {
        let board =
            format!("subsets: {{v1: {{version: v1}}, v2: {{version: v2}}}}\naccess: [{{from: [prod/web]}}]\n{ROUTES}");
        let test = format!("---\nkind: Test\nname: routes\nroutes:\n{routes}");
        let yaml = [
            MESH.to_owned(),
            service("prod/web", ""),
            service("dev/web", ""),
            service("prod/board", &board),
            service_of("prod/db", "tcp", 5432, "access: [{from: [prod/web]}]"),
            test,
        ];
        let intent = intent(&yaml.concat());
        let model = Arc::new(weft_policy::compile(&intent, "").expect("good policies"));
        run(&intent, model).into_iter().filter_map(|outcome| Some(outcome.failure?.to_string())).collect()
    }

    fn expect(rest: &str) -> String {
        format!("  - {{from: prod/web, to: prod/board, {rest}}}\n")
    }

    #[test]
    fn what_holds_is_silent() {
        let good = [
            expect("call: GET /, headers: {X-Version: v2}, expect: {service: prod/board, subset: v2}"),
            expect("call: GET /, expect: [{subset: v2}, {subset: v1, weight: 90}]"),
            expect("call: 'GET /x/../slow?y=1', expect: {service: prod/board}"),
            expect("call: POST /slow/x, host: 'BOARD:8080', expect: {}"),
            expect("call: GET /, host: ledger.shared, expect: none"),
            "  - {from: dev/web, to: prod/board, call: GET /, expect: none}\n".to_owned(),
        ];
        assert_eq!(failures(&good.concat()), [""; 0]);
    }

    #[test]
    fn what_does_not_hold_says_where_calls_go() {
        let bad = [
            expect("call: GET /, expect: {subset: v1}"),
            expect("call: GET /, expect: [{subset: v1, weight: 80}, {subset: v2}]"),
            expect("call: GET /slow, headers: {x-version: v2}, expect: {subset: v2}"),
            expect("call: GET /, expect: none"),
            expect("call: GET /a%2Fb, expect: none"),
            expect("call: GET /, expect: {subset: v3}"),
            "  - {from: dev/web, to: prod/board, call: GET /, expect: {}}\n".to_owned(),
            "  - {from: prod/web, to: prod/db, call: GET /, expect: none}\n".to_owned(),
        ];
        insta::assert_snapshot!(failures(&bad.concat()).join("\n"));
    }
}
