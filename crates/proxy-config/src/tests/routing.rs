//! Routing against a naive reading of Envoy's rules, on generated tables and requests.

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::UInt32Value;
use proptest::prelude::*;

use super::*;
use crate::parse::route::table_for_test;

fn table(hosts: Vec<(Vec<String>, Vec<pb::Route>)>) -> Result<RouteTable, String> {
    let host = |(index, (domains, routes)): (usize, (Vec<String>, _))| pb::VirtualHost {
        name: format!("{index}"),
        domains,
        routes,
        ..Default::default()
    };
    let virtual_hosts = hosts.into_iter().enumerate().map(host).collect();
    table_for_test(pb::RouteConfiguration { virtual_hosts, ..Default::default() })
        .map_err(|refused| refused.to_string())
}

/// A route to one cluster, which has the route's name.
fn route(name: &str, path: PathSpecifier, headers: Vec<pb::HeaderMatcher>) -> pb::Route {
    let specifier = Some(ClusterSpecifier::Cluster(name.to_owned()));
    pb::Route {
        name: name.to_owned(),
        r#match: Some(pb::RouteMatch { path_specifier: Some(path), headers, ..Default::default() }),
        action: Some(Action::Route(pb::RouteAction { cluster_specifier: specifier, ..Default::default() })),
        ..Default::default()
    }
}

fn anything() -> PathSpecifier {
    PathSpecifier::Prefix("/".into())
}

fn domains(table: &[&[&str]]) -> Result<RouteTable, String> {
    let host =
        |domains: &&[&str]| (domains.iter().map(|&d| d.to_owned()).collect(), vec![route("r", anything(), vec![])]);
    self::table(table.iter().map(host).collect())
}

#[test]
fn the_whole_domain_then_the_longest_suffix_then_the_longest_prefix_then_the_star() {
    let table =
        domains(&[&["*"], &["*.com", "board.*"], &["*.example.com"], &["board.example.*"], &["board.example.com"]]);
    let table = table.unwrap();
    let host = |host| &*table.virtual_host(host).unwrap().name;
    assert_eq!(host("board.example.com"), "4");
    assert_eq!(host("x.example.com"), "2");
    assert_eq!(host("board.com"), "1");
    assert_eq!(host("board.x.com"), "1");
    assert_eq!(host("board.example.org"), "3");
    assert_eq!(host("board.org"), "1");
    assert_eq!(host("else"), "0");
    // A star stands for at least one character.
    assert_eq!(host(".example.com"), "1");
    assert_eq!(host(".com"), "0");
    assert_eq!(host("board."), "0");
    assert_eq!(host("*"), "0");
}

#[test]
fn bad_domains_are_refused() {
    let at = |host: usize, domain: usize| {
        format!("envoy.config.route.v3.RouteConfiguration.virtual_hosts[{host}].domains[{domain}]")
    };
    let shape = "must be a host, or have one * at its start or end";
    for bad in ["", "a*b", "**", "*a*", "a**"] {
        assert_eq!(domains(&[&["ok", bad]]).unwrap_err(), format!("{}: {shape}", at(0, 1)));
    }
    for twice in ["a", "A", "*.a", "a.*", "*"] {
        let again = twice.to_ascii_lowercase();
        let expected = format!("{}: {again:?} stands here for the second time", at(1, 0));
        assert_eq!(domains(&[&["x", &again], &[twice]]).unwrap_err(), expected);
    }
    assert!(domains(&[&[]]).unwrap_err().ends_with("domains: must not be empty"));
}

#[test]
fn header_rules_as_envoy_reads_them() {
    let rule = |value: ValueMatch, invert| HeaderMatch { name: "x-a".parse().unwrap(), value, invert };
    let headers = |values: &[&str]| {
        let mut map = HeaderMap::new();
        for value in values {
            map.append("x-a", value.parse().unwrap());
        }
        map
    };
    let exact = |text: &str| ValueMatch::Exact(text.into());
    for (rule, values, expected) in [
        (rule(exact("1"), false), &["1"][..], true),
        (rule(exact("1"), false), &["2"], false),
        (rule(exact("1"), false), &[], false),
        (rule(exact("1"), true), &["2"], true),
        (rule(exact("1"), true), &[], false),
        (rule(exact("1,2,3"), false), &["1", "2", "3"], true),
        (rule(exact("1"), false), &["1", "2"], false),
        (rule(ValueMatch::Prefix("ab".into()), false), &["abc"], true),
        (rule(ValueMatch::Suffix("bc".into()), false), &["abc"], true),
        (rule(ValueMatch::Contains("b".into()), false), &["abc"], true),
        (rule(ValueMatch::Contains("x".into()), false), &["abc"], false),
        (rule(ValueMatch::Contains("".into()), false), &[""], true),
        (rule(ValueMatch::Present(true), false), &[""], true),
        (rule(ValueMatch::Present(true), false), &[], false),
        (rule(ValueMatch::Present(true), true), &[], true),
        (rule(ValueMatch::Present(false), false), &[], true),
        (rule(ValueMatch::Present(false), false), &["1"], false),
    ] {
        assert_eq!(rule.matches(&headers(values)), expected, "{rule:?} on {values:?}");
    }
}

#[test]
fn hosts_are_looked_up_in_lower_case_and_without_port() {
    let key = |authority, strip| host_key(authority, strip, &Method::GET).into_owned();
    assert_eq!(key("Board.PROD:8080", true), "board.prod");
    assert_eq!(key("board.prod:8080", false), "board.prod:8080");
    assert_eq!(key("board.prod", true), "board.prod");
    assert_eq!(key("[::1]:80", true), "[::1]");
    assert_eq!(key("[::1]", true), "[::1]");
    assert_eq!(key("::1", true), "::1");
    assert_eq!(key("a:b", true), "a:b");
    assert_eq!(key("a:", true), "a");
    assert_eq!(key("", true), "");
    assert_eq!(host_key("DB:5432", true, &Method::CONNECT), "db:5432");
    assert!(matches!(host_key("board.prod:80", true, &Method::GET), std::borrow::Cow::Borrowed("board.prod")));
}

/// Hosts of few letters, so that they collide.
fn host() -> impl Strategy<Value = String> {
    "[ab.]{1,5}"
}

fn domain() -> impl Strategy<Value = String> {
    prop_oneof![
        host(),
        host().prop_map(|part| format!("*{part}")),
        host().prop_map(|part| format!("{part}*")),
        Just("*".to_owned())
    ]
}

fn path() -> impl Strategy<Value = String> {
    "(/[ab]{0,2}){1,3}"
}

fn path_specifier() -> impl Strategy<Value = PathSpecifier> {
    prop_oneof![
        path().prop_map(PathSpecifier::Path),
        path().prop_map(PathSpecifier::Prefix),
        "(/[ab]{1,2}){1,2}".prop_map(PathSpecifier::PathSeparatedPrefix),
        Just(PathSpecifier::ConnectMatcher(pb::route_match::ConnectMatcher {})),
    ]
}

fn matcher() -> impl Strategy<Value = pb::HeaderMatcher> {
    let pattern = prop_oneof![
        "[ab]{1,2}".prop_map(MatchPattern::Exact),
        "[ab]{1,2}".prop_map(MatchPattern::Prefix),
        "[ab]{1,2}".prop_map(MatchPattern::Suffix),
        "[ab]{1,2}".prop_map(MatchPattern::Contains),
    ];
    let specifier = prop_oneof![
        any::<bool>().prop_map(HeaderMatchSpecifier::PresentMatch),
        pattern.prop_map(|pattern| {
            HeaderMatchSpecifier::StringMatch(StringMatcher { match_pattern: Some(pattern), ignore_case: false })
        }),
    ];
    let header = ("x-[ab]", specifier, any::<bool>()).prop_map(|(name, specifier, invert_match)| pb::HeaderMatcher {
        name,
        invert_match,
        header_match_specifier: Some(specifier),
        ..Default::default()
    });
    let method = prop::sample::select(vec!["GET", "POST"]).prop_map(|method| pb::HeaderMatcher {
        name: ":method".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(method.into())),
            ignore_case: false,
        })),
        ..Default::default()
    });
    prop_oneof![3 => header, 1 => method]
}

fn vhosts() -> impl Strategy<Value = Vec<(Vec<String>, Vec<pb::Route>)>> {
    let routes = prop::collection::vec((path_specifier(), prop::collection::vec(matcher(), 0..3)), 0..4);
    let hosts = prop::collection::vec((prop::collection::hash_set(domain(), 1..4), routes), 0..5);
    hosts.prop_map(|hosts| {
        let mut seen = std::collections::HashSet::new();
        let hosts = hosts.into_iter().enumerate().map(|(host, (domains, routes))| {
            let domains: Vec<_> = domains.into_iter().filter(|domain| seen.insert(domain.clone())).collect();
            let routes = routes.into_iter().enumerate();
            let routes =
                routes.map(|(at, (path, headers))| with_connect(route(&format!("{host}/{at}"), path, headers)));
            (domains, routes.collect())
        });
        hosts.filter(|(domains, _)| !domains.is_empty()).collect()
    })
}

fn with_connect(mut route: pb::Route) -> pb::Route {
    let connect =
        matches!(route.r#match, Some(pb::RouteMatch { path_specifier: Some(PathSpecifier::ConnectMatcher(_)), .. }));
    if let (Some(Action::Route(action)), true) = (&mut route.action, connect) {
        action.upgrade_configs = vec![pb::route_action::UpgradeConfig {
            upgrade_type: "CONNECT".into(),
            connect_config: Some(Default::default()),
            ..Default::default()
        }];
    }
    // Two rules on the method are refused; see `refused`.
    let mut method = false;
    let headers = &mut route.r#match.as_mut().unwrap().headers;
    headers.retain(|header| header.name != ":method" || !std::mem::replace(&mut method, true));
    route
}

/// The same, as the documentation says it.
fn naive<'a>(
    hosts: &'a [(Vec<String>, Vec<pb::Route>)],
    host: &str,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<&'a str, NoRoute> {
    let rank = |domain: &str| -> Option<(u8, usize)> {
        if domain == "*" {
            return Some((0, 0));
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            return (host.len() > suffix.len() && host.ends_with(suffix)).then_some((2, suffix.len()));
        }
        if let Some(prefix) = domain.strip_suffix('*') {
            return (host.len() > prefix.len() && host.starts_with(prefix)).then_some((1, prefix.len()));
        }
        (domain == host).then_some((3, 0))
    };
    let ranked = hosts.iter().filter_map(|one| Some((one.0.iter().filter_map(|domain| rank(domain)).max()?, one)));
    let (_, (_, routes)) = ranked.max_by_key(|(rank, _)| *rank).ok_or(NoRoute::Host)?;
    let takes = |route: &&pb::Route| {
        let matches = route.r#match.as_ref().unwrap();
        let path_holds = match matches.path_specifier.as_ref().unwrap() {
            PathSpecifier::ConnectMatcher(_) => *method == Method::CONNECT,
            _ if *method == Method::CONNECT => false,
            PathSpecifier::Path(whole) => path == whole,
            PathSpecifier::Prefix(prefix) => path.starts_with(prefix),
            PathSpecifier::PathSeparatedPrefix(prefix) => path == prefix || path.starts_with(&format!("{prefix}/")),
            _ => unreachable!(),
        };
        path_holds && matches.headers.iter().all(|rule| naive_header(rule, method, headers))
    };
    routes.iter().find(takes).map(|route| &*route.name).ok_or(NoRoute::Path)
}

fn naive_header(rule: &pb::HeaderMatcher, method: &Method, headers: &HeaderMap) -> bool {
    let values: Vec<_> = headers.get_all(rule.name.replace(':', "")).iter().map(|v| v.to_str().unwrap()).collect();
    let value = match &*rule.name {
        ":method" => Some(method.to_string()),
        _ => (!values.is_empty()).then(|| values.join(",")),
    };
    match (rule.header_match_specifier.as_ref().unwrap(), value) {
        (HeaderMatchSpecifier::PresentMatch(wanted), value) => (value.is_some() == *wanted) ^ rule.invert_match,
        (_, None) => false,
        (HeaderMatchSpecifier::StringMatch(matcher), Some(value)) => {
            let holds = match matcher.match_pattern.as_ref().unwrap() {
                MatchPattern::Exact(text) => value == *text,
                MatchPattern::Prefix(text) => value.starts_with(text),
                MatchPattern::Suffix(text) => value.ends_with(text),
                MatchPattern::Contains(text) => value.contains(text),
                _ => unreachable!(),
            };
            holds ^ rule.invert_match
        }
        _ => unreachable!(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn routing_agrees_with_the_naive_reading(
        hosts in vhosts(),
        requests in prop::collection::vec(
            (host(), path(), prop::sample::select(vec!["GET", "POST", "CONNECT"]),
             prop::collection::vec(("x-[ab]", "[ab]{0,3}"), 0..4)),
            1..12,
        ),
    ) {
        let table = table(hosts.clone()).unwrap();
        for (host, path, method, headers) in requests {
            let method: Method = method.parse().unwrap();
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
            }
            let expected = naive(&hosts, &host, &path, &method, &map);
            let found = table.route(&host, &path, &method, &map, 0);
            prop_assert_eq!(found.map(|hit| &*hit.route.name), expected, "{} {} {}", method, host, path);
            if let Ok(hit) = found {
                prop_assert_eq!(&hit.route.name, &hit.cluster.name);
            }
        }
    }

    #[test]
    fn weights_are_exact_over_the_whole_line(weights in prop::collection::vec(0_u32..50, 1..8), turn in 0_u64..1000) {
        let clusters = weights.iter().enumerate().map(|(at, weight)| ClusterWeight {
            name: format!("c{at}"),
            weight: Some(UInt32Value { value: *weight }),
            ..Default::default()
        });
        let mut route = route("r", anything(), Vec::new());
        let Some(Action::Route(action)) = &mut route.action else { unreachable!() };
        let several = pb::WeightedCluster { clusters: clusters.collect(), ..Default::default() };
        action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(several));
        let table = table(vec![(vec!["*".to_owned()], vec![route])]);
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        if total == 0 {
            prop_assert!(table.unwrap_err().contains("the sum of the weights must be 1 to 4294967295"));
            return Ok(());
        }
        let table = table.unwrap();
        let mut counts = vec![0_u32; weights.len()];
        for random in turn * total..(turn + 1) * total {
            let hit = table.route("x", "/", &Method::GET, &HeaderMap::new(), random).unwrap();
            counts[hit.cluster.name[1..].parse::<usize>().unwrap()] += 1;
        }
        prop_assert_eq!(&counts, &weights);
        let route = &table.virtual_hosts()[0].routes[0];
        prop_assert_eq!(route.clusters.iter().map(|(_, weight)| weight as u32).collect::<Vec<_>>(), weights);
    }
}
