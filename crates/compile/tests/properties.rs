//! What holds for every mesh.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route as PbRoute, RouteConfiguration, header_matcher::HeaderMatchSpecifier,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use support::intent;
use weft_compile::testing::{endpoint, name, sidecar};
use weft_compile::{CompiledMesh, EndpointSet, Proxy, ProxyKind, compile};
use weft_model::intent::{
    AccessRule, BackendRef, Caller, HeaderMatch, Intent, PathMatch, Protocol, Route, RouteMatch, Service,
};
use weft_model::{ServiceName, Span};
use weft_xds::{Snapshot, type_url};

const NAMES: [&str; 6] = ["a/one", "a/two", "a/three", "b/one", "b/two", "c/one"];
const SUBSETS: [Option<&str>; 3] = [None, Some("v1"), Some("v2")];

fn span() -> Span {
    Span { file: "x.yaml".into(), line: 1, column: 1 }
}

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let path = (select(vec!["/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"]), any::<bool>());
    let headers = subsequence(vec![("x-a", "1"), ("x-b", "2"), ("x-c", "3")], 0..=3);
    (path, headers, select(vec![None, Some("GET"), Some("POST")])).prop_map(|((path, exact), headers, method)| {
        RouteMatch {
            path: if exact { PathMatch::Exact(path.into()) } else { PathMatch::Prefix(path.into()) },
            headers: headers
                .into_iter()
                .map(|(name, value)| HeaderMatch { name: name.into(), value: value.into() })
                .collect(),
            method: method.map(Into::into),
        }
    })
}

fn any_route() -> impl Strategy<Value = Route> {
    let backends = subsequence(SUBSETS.to_vec(), 1..=3).prop_flat_map(|subsets| {
        let count = subsets.len();
        (Just(subsets), vec(0..1000_u32, count), 1..1000_u32)
    });
    (vec(any_match(), 0..3), backends).prop_map(|(matches, (subsets, mut weights, first))| {
        weights[0] = first;
        let backend =
            |(subset, weight): (Option<&str>, u32)| BackendRef { subset: subset.map(Into::into), weight, span: span() };
        Route {
            matches,
            backends: subsets.into_iter().zip(weights).map(backend).collect(),
            request_timeout: None,
            span: span(),
        }
    })
}

fn any_service(name: &'static str) -> impl Strategy<Value = Service> {
    let protocol = select(vec![Protocol::Http, Protocol::Grpc, Protocol::Tcp]);
    let callers = subsequence(NAMES.to_vec(), 0..NAMES.len());
    (protocol, callers, vec(any_route(), 0..4)).prop_map(move |(protocol, callers, routes)| {
        let base = intent("{kind: Mesh, name: m, trustDomain: td}\n---\n{kind: Service, name: x, namespace: y, port: 80, protocol: http}");
        let rule = AccessRule {
            from: callers.into_iter().map(|caller| Caller::Service(caller.parse().unwrap())).collect(),
            allow: Vec::new(),
            shadow: false,
            span: span(),
        };
        Service {
            name: name.parse().unwrap(),
            protocol,
            access: if rule.from.is_empty() { Vec::new() } else { vec![rule] },
            routes: if protocol == Protocol::Tcp { Vec::new() } else { routes },
            subsets: ["v1", "v2"].map(|version| (version.into(), [("version".into(), version.into())].into())).into(),
            ..base.services.values().next().unwrap().clone()
        }
    })
}

fn any_intent() -> impl Strategy<Value = Intent> {
    NAMES.map(any_service).prop_map(|services| {
        let base = intent("{kind: Mesh, name: m, trustDomain: td}");
        let services = services.into_iter().map(|service| (service.name.clone(), service)).collect();
        Intent { services, ..Intent::clone(&base) }
    })
}

fn any_endpoints() -> impl Strategy<Value = EndpointSet> {
    let list = vec((1..5_u16, select(vec!["v1", "v2", "v3"])), 0..5);
    NAMES.map(|_| list.clone()).prop_map(|lists| {
        let one = |(port, version)| endpoint(([10, 0, 0, 1], port).into(), &[("version", version), ("zone", "z")]);
        let lists = lists.into_iter().map(|list| list.into_iter().map(one).collect());
        NAMES.map(name).into_iter().zip(lists).collect()
    })
}

fn compiled(intent: &Intent, revision: &str) -> CompiledMesh {
    let policy = weft_policy::compile(intent, revision).unwrap();
    CompiledMesh::new(Arc::new(intent.clone()), Arc::new(policy), revision)
}

fn proxies() -> impl Iterator<Item = Proxy> {
    let kinds = [ProxyKind::Sidecar, ProxyKind::Grpc];
    NAMES.into_iter().flat_map(move |name| kinds.map(|kind| Proxy { kind, ..sidecar(name, 1) }))
}

/// Type and name of every resource, with its version.
fn versions(snapshot: &Snapshot) -> BTreeMap<(&'static str, String), String> {
    let all = snapshot.types().flat_map(|(kind, resources)| resources.values().map(move |one| (kind, one)));
    all.map(|(kind, one)| ((kind, one.name.to_string()), one.version.to_string())).collect()
}

fn changed(before: &Snapshot, after: &Snapshot) -> BTreeSet<(&'static str, String)> {
    let (before, after) = (versions(before), versions(after));
    let all: BTreeSet<_> = before.keys().chain(after.keys()).cloned().collect();
    all.into_iter().filter(|key| before.get(key) != after.get(key)).collect()
}

fn routes(snapshot: &Snapshot) -> Vec<RouteConfiguration> {
    snapshot.get(type_url::ROUTE).values().map(|one| one.decode().unwrap()).collect()
}

/// The clusters of a route with their weights.
fn targets(route: &PbRoute) -> Vec<(String, u32)> {
    let Some(Action::Route(action)) = &route.action else { panic!("{route:?}") };
    match action.cluster_specifier.clone() {
        Some(ClusterSpecifier::Cluster(name)) => vec![(name, 1)],
        Some(ClusterSpecifier::WeightedClusters(several)) => {
            several.clusters.into_iter().map(|one| (one.name, one.weight.unwrap().value)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn is_called_by(service: &Service, caller: &ServiceName) -> bool {
    service.access.iter().flat_map(|rule| &rule.from).any(|from| *from == Caller::Service(caller.clone()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_same_input_gives_the_same_bytes(intent in any_intent(), endpoints in any_endpoints()) {
        let (one, other) = (compiled(&intent, "c1"), compiled(&intent, "c1"));
        let shuffled = endpoints.iter().map(|(name, list)| (name.clone(), list.iter().rev().cloned().collect())).collect();
        // The other is asked in another order, after other endpoints.
        let backwards: Vec<_> = proxies().collect::<Vec<_>>().into_iter().rev().collect();
        backwards.iter().for_each(|proxy| drop(compile(&other, &EndpointSet::new(), proxy)));
        for proxy in &backwards {
            prop_assert_eq!(versions(&compile(&one, &endpoints, proxy)), versions(&compile(&other, &shuffled, proxy)));
        }
    }

    #[test]
    fn a_changed_route_changes_the_routes_of_its_callers_and_nothing_else(
        intent in any_intent(), endpoints in any_endpoints(), which in select(NAMES.to_vec()), route in any_route(),
    ) {
        let which = name(which);
        let mut after = intent.clone();
        let service = after.services.get_mut(&which).unwrap();
        prop_assume!(service.protocol != Protocol::Tcp);
        service.routes.insert(0, route);
        let host = format!("{}:{}", which.host(), service.port);
        let (old, new) = (compiled(&intent, "c1"), compiled(&after, "c2"));
        for proxy in proxies() {
            let mut expected = BTreeSet::from([(type_url::REVISION, "mesh".to_owned())]);
            if is_called_by(&intent.services[&which], &proxy.service) {
                let routes = if proxy.kind == ProxyKind::Grpc { &*host } else { "egress" };
                expected.insert((type_url::ROUTE, routes.to_owned()));
            }
            let changed = changed(&compile(&old, &endpoints, &proxy), &compile(&new, &endpoints, &proxy));
            // gRPC has no method but POST, so a route for another is nothing to it.
            prop_assert!(changed == expected || (proxy.kind == ProxyKind::Grpc && changed.is_subset(&expected)), "{:?}: {:?}", proxy.service, changed);
        }
    }

    #[test]
    fn a_changed_endpoint_changes_the_endpoints_of_its_callers_and_nothing_else(
        intent in any_intent(), endpoints in any_endpoints(), which in select(NAMES.to_vec()),
    ) {
        let which = name(which);
        let mut after = endpoints.clone();
        after.insert(which.clone(), [endpoint(([10, 9, 9, 9], 9).into(), &[("version", "v1")])].into());
        let mesh = compiled(&intent, "c1");
        let prefix = "outbound|";
        for proxy in proxies() {
            let before = compile(&mesh, &endpoints, &proxy);
            for (kind, name) in changed(&before, &compile(&mesh, &after, &proxy)) {
                prop_assert_eq!(kind, type_url::ENDPOINT);
                prop_assert!(name.starts_with(prefix) && name.ends_with(&format!("|{}", which.host())), "{}", name);
                prop_assert!(is_called_by(&intent.services[&which], &proxy.service));
            }
        }
    }

    #[test]
    fn a_proxy_hears_of_those_that_it_may_call_and_of_all_of_each(intent in any_intent(), endpoints in any_endpoints()) {
        let mesh = compiled(&intent, "c1");
        for proxy in proxies() {
            let snapshot = compile(&mesh, &endpoints, &proxy);
            let spoken = |service: &&Service| proxy.kind == ProxyKind::Sidecar || service.protocol != Protocol::Tcp;
            let callees: Vec<_> = intent.services.values().filter(|service| is_called_by(service, &proxy.service)).filter(spoken).collect();
            let hosts: BTreeSet<_> = routes(&snapshot).into_iter().flat_map(|config| config.virtual_hosts).map(|host| host.name).collect();
            let expected: BTreeSet<_> = callees.iter().map(|service| format!("{}:{}", service.name.host(), service.port)).collect();
            prop_assert_eq!(hosts, expected);

            let clusters: Vec<Cluster> = snapshot.get(type_url::CLUSTER).values().map(|one| one.decode().unwrap()).collect();
            let by_eds = clusters.iter().filter_map(|cluster| Some(cluster.eds_cluster_config.as_ref()?.service_name.clone()));
            let by_eds: BTreeSet<_> = by_eds.collect();
            prop_assert_eq!(by_eds.len(), callees.len() * SUBSETS.len());
            let assignments: BTreeSet<_> = snapshot.get(type_url::ENDPOINT).keys().map(|name| name.to_string()).collect();
            prop_assert_eq!(&by_eds, &assignments);
            for host in routes(&snapshot).into_iter().flat_map(|config| config.virtual_hosts) {
                for (cluster, _) in host.routes.iter().flat_map(targets) {
                    prop_assert!(by_eds.contains(&cluster), "{} is not sent", cluster);
                }
            }
        }
    }

    #[test]
    fn every_route_has_the_weights_that_are_written(routes_written in vec(any_route(), 1..4)) {
        let mut intent = Intent::clone(&intent("{kind: Mesh, name: m, trustDomain: td}\n---\n\
            {kind: Service, name: one, namespace: a, port: 80, protocol: http, access: [{from: [a/one]}]}"));
        intent.services.values_mut().for_each(|service| service.routes = routes_written.clone());
        let snapshot = compile(&compiled(&intent, "c1"), &EndpointSet::new(), &sidecar("a/one", 1));
        for route in &routes(&snapshot)[0].virtual_hosts[0].routes {
            let index: usize = route.name.split(['[', ']']).nth(1).unwrap().parse().unwrap();
            let written = &routes_written[index].backends;
            let sum: u64 = written.iter().map(|backend| u64::from(backend.weight)).sum();
            let targets = targets(route);
            prop_assert_eq!(targets.len(), written.len());
            if written.len() > 1 {
                prop_assert_eq!(targets.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>(), sum);
            }
        }
    }

    #[test]
    fn the_first_match_of_the_list_is_the_match_that_the_gateway_api_prefers(
        written in vec(any_route(), 1..5),
        requests in vec((select(vec!["/", "/a", "/a/", "/ab", "/a/b", "/a/b/", "/a/b/c", "/a/bc", "/x"]),
            select(vec!["GET", "POST", "PUT"]), subsequence(vec!["x-a", "x-b", "x-c"], 0..=3)), 20),
    ) {
        let mut intent = Intent::clone(&intent("{kind: Mesh, name: m, trustDomain: td}\n---\n\
            {kind: Service, name: one, namespace: a, port: 80, protocol: http, access: [{from: [a/one]}]}"));
        intent.services.values_mut().for_each(|service| service.routes = written.clone());
        let snapshot = compile(&compiled(&intent, "c1"), &EndpointSet::new(), &sidecar("a/one", 1));
        let list = routes(&snapshot).remove(0).virtual_hosts.remove(0).routes;
        for (path, method, headers) in requests {
            let headers: BTreeMap<_, _> = headers.into_iter().zip(["1", "2", "3"]).map(|(name, _)| (name, value_of(name))).collect();
            let first = list.iter().find(|route| takes(route, path, method, &headers));
            let first = first.map(|route| route.name.split(['[', ']']).nth(1).unwrap().parse::<usize>().unwrap());
            prop_assert_eq!(first, preferred(&written, path, method, &headers), "{} {} {:?}", method, path, headers);
        }
    }
}

fn value_of(name: &str) -> &'static str {
    ["1", "2", "3"][usize::from(name.as_bytes()[2] - b'a')]
}

/// Envoy's matching, for what we compile.
fn takes(route: &PbRoute, path: &str, method: &str, headers: &BTreeMap<&str, &str>) -> bool {
    let matches = route.r#match.as_ref().unwrap();
    let path_holds = match matches.path_specifier.as_ref().unwrap() {
        PathSpecifier::Path(exact) => path == exact,
        PathSpecifier::Prefix(prefix) => path.starts_with(prefix.as_str()),
        PathSpecifier::PathSeparatedPrefix(prefix) => {
            path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        other => panic!("{other:?}"),
    };
    path_holds
        && matches.headers.iter().all(|header| {
            let Some(HeaderMatchSpecifier::StringMatch(matcher)) = &header.header_match_specifier else { panic!() };
            let Some(MatchPattern::Exact(wanted)) = &matcher.match_pattern else { panic!() };
            let value = if header.name == ":method" { Some(method) } else { headers.get(&*header.name).copied() };
            value == Some(wanted)
        })
}

/// The rule that the Gateway API's text prefers, found without sorting: the best of all that match, the first of equals.
fn preferred(written: &[Route], path: &str, method: &str, headers: &BTreeMap<&str, &str>) -> Option<usize> {
    let segments =
        |path: &str| path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let everything = [RouteMatch { path: PathMatch::Prefix("/".into()), headers: Vec::new(), method: None }];
    let mut best: Option<((u8, usize, bool, usize), usize)> = None;
    for (index, route) in written.iter().enumerate() {
        for one in if route.matches.is_empty() { &everything[..] } else { &route.matches } {
            let (path_holds, exact, length) = match &one.path {
                PathMatch::Exact(exact) => (path == &**exact, 1, 0),
                PathMatch::Prefix(prefix) => {
                    let whole = segments(prefix);
                    (segments(path).starts_with(&whole), 0, whole.iter().map(|segment| segment.len() + 1).sum())
                }
            };
            let method_holds = one.method.as_deref().is_none_or(|wanted| wanted == method);
            let headers_hold = one.headers.iter().all(|header| headers.get(&*header.name) == Some(&&*header.value));
            let rank = (exact, length, one.method.is_some(), one.headers.len());
            if path_holds && method_holds && headers_hold && best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, index));
            }
        }
    }
    best.map(|(_, index)| index)
}
