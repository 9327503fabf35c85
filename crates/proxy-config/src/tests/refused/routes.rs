//! Route configurations.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{self as pb_route, route_action::ClusterSpecifier};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::*;

#[test]
fn route_configurations() {
    use pb_route::{RouteConfiguration, route_match::PathSpecifier};
    let host = |c: &RouteConfiguration| c.virtual_hosts.iter().position(|host| host.name == "board.prod:8080").unwrap();
    let vhost = move |change: fn(&mut pb_route::VirtualHost)| {
        move |c: &mut RouteConfiguration| {
            let at = host(c);
            c.virtual_hosts.swap(0, at);
            change(&mut c.virtual_hosts[0]);
        }
    };
    let route = move |change: fn(&mut pb_route::Route)| {
        move |c: &mut RouteConfiguration| {
            let at = host(c);
            c.virtual_hosts.swap(0, at);
            let routes = &mut c.virtual_hosts[0].routes;
            let with_header =
                routes.iter_mut().position(|route| matches(route).headers.iter().any(|h| h.name == "x-version"));
            routes.swap(0, with_header.unwrap());
            change(&mut routes[0]);
        }
    };
    let action = move |change: fn(&mut pb_route::RouteAction)| {
        move |c: &mut RouteConfiguration| {
            let at = host(c);
            c.virtual_hosts.swap(0, at);
            match &mut c.virtual_hosts[0].routes[0].action {
                Some(Action::Route(action)) => change(action),
                _ => unreachable!(),
            }
        }
    };
    let retry = move |change: fn(&mut pb_route::RetryPolicy)| {
        move |c: &mut RouteConfiguration| {
            let at = host(c);
            c.virtual_hosts.swap(0, at);
            match &mut c.virtual_hosts[0].routes[0].action {
                Some(Action::Route(action)) => change(action.retry_policy.as_mut().unwrap()),
                _ => unreachable!(),
            }
        }
    };
    let rows = vec![
        row(|_: &mut RouteConfiguration| (), ACCEPTED),
        row(|c: &mut RouteConfiguration| c.validate_clusters = Some(BoolValue { value: false }), ACCEPTED),
        row(
            |c: &mut RouteConfiguration| c.validate_clusters = Some(BoolValue { value: true }),
            ".validate_clusters: NS",
        ),
        row(
            |c: &mut RouteConfiguration| c.request_headers_to_remove = vec!["x".into()],
            ".request_headers_to_remove: NS",
        ),
        row(|c: &mut RouteConfiguration| c.ignore_port_in_host_matching = true, ".ignore_port_in_host_matching: NS"),
        row(vhost(|h| h.retry_policy = Some(Default::default())), ".virtual_hosts[0].retry_policy: NS"),
        row(vhost(|h| h.require_tls = 2), ".virtual_hosts[0].require_tls: NS"),
        row(vhost(|h| h.name.clear()), ".virtual_hosts[0].name: must not be empty"),
        row(
            vhost(|h| drop(h.typed_per_filter_config.insert("a".into(), Any::default()))),
            ".virtual_hosts[0].typed_per_filter_config: NS",
        ),
        row(vhost(|h| h.routes.clear()), ACCEPTED),
        row(route(|r| r.decorator = Some(Default::default())), ".virtual_hosts[0].routes[0].decorator: NS"),
        row(route(|r| r.r#match = None), ".virtual_hosts[0].routes[0].match: required"),
        row(route(|r| r.action = None), ".virtual_hosts[0].routes[0].route: required"),
        row(
            route(|r| r.action = Some(Action::Redirect(Default::default()))),
            ".virtual_hosts[0].routes[0].redirect: NS",
        ),
        row(
            route(|r| r.action = Some(Action::DirectResponse(Default::default()))),
            ".virtual_hosts[0].routes[0].direct_response: NS",
        ),
        row(
            route(|r| matches(r).path_specifier = Some(PathSpecifier::SafeRegex(Default::default()))),
            ".virtual_hosts[0].routes[0].match.safe_regex: NS",
        ),
        row(
            route(|r| matches(r).path_specifier = Some(PathSpecifier::PathSeparatedPrefix("/a/".into()))),
            ".virtual_hosts[0].routes[0].match.path_separated_prefix: must start with / and not end with it",
        ),
        row(
            route(|r| matches(r).path_specifier = None),
            ".virtual_hosts[0].routes[0].match: one of path, prefix, path_separated_prefix and connect_matcher is required",
        ),
        row(
            route(|r| matches(r).path_specifier = Some(PathSpecifier::ConnectMatcher(Default::default()))),
            ".virtual_hosts[0].routes[0].route.upgrade_configs: a connect_config and a connect_matcher only work together",
        ),
        row(route(|r| matches(r).case_sensitive = Some(BoolValue { value: true })), ACCEPTED),
        row(
            route(|r| matches(r).case_sensitive = Some(BoolValue { value: false })),
            ".virtual_hosts[0].routes[0].match.case_sensitive: NS",
        ),
        row(
            route(|r| matches(r).query_parameters = vec![Default::default()]),
            ".virtual_hosts[0].routes[0].match.query_parameters: NS",
        ),
        row(route(|r| matches(r).grpc = Some(Default::default())), ".virtual_hosts[0].routes[0].match.grpc: NS"),
        row(
            route(|r| matches(r).headers[0].treat_missing_header_as_empty = true),
            ".virtual_hosts[0].routes[0].match.headers[0].treat_missing_header_as_empty: NS",
        ),
        row(
            route(|r| matches(r).headers[0].name = ":path".into()),
            r#".virtual_hosts[0].routes[0].match.headers[0].name: ":path" is not the name of a header that can be matched"#,
        ),
        row(
            route(|r| {
                let header = pb_route::HeaderMatcher { name: ":method".into(), ..Default::default() };
                matches(r).headers = vec![header];
            }),
            ".virtual_hosts[0].routes[0].match.headers[0]: of :method only an exact match is supported by this proxy",
        ),
        row(
            route(|r| {
                let mut header = matches(r).headers[0].clone();
                header.name = ":method".into();
                matches(r).headers = vec![header.clone(), header];
            }),
            ".virtual_hosts[0].routes[0].match.headers[1]: only one matcher of :method is supported by this proxy",
        ),
        row(
            route(|r| {
                matches(r).headers[0].header_match_specifier =
                    Some(HeaderMatchSpecifier::SafeRegexMatch(Default::default()))
            }),
            ".virtual_hosts[0].routes[0].match.headers[0].safe_regex_match: NS",
        ),
        row(
            route(|r| {
                let matcher = StringMatcher { match_pattern: Some(MatchPattern::Exact("a".into())), ignore_case: true };
                matches(r).headers[0].header_match_specifier = Some(HeaderMatchSpecifier::StringMatch(matcher));
            }),
            ".virtual_hosts[0].routes[0].match.headers[0].string_match.ignore_case: NS",
        ),
        row(
            route(|r| {
                matches(r).headers[0].header_match_specifier = Some(HeaderMatchSpecifier::ExactMatch("a".into()))
            }),
            ACCEPTED,
        ),
        row(action(|a| a.prefix_rewrite = "/x".into()), ".virtual_hosts[0].routes[0].route.prefix_rewrite: NS"),
        row(action(|a| a.hash_policy = vec![Default::default()]), ".virtual_hosts[0].routes[0].route.hash_policy: NS"),
        row(
            action(|a| a.request_mirror_policies = vec![Default::default()]),
            ".virtual_hosts[0].routes[0].route.request_mirror_policies: NS",
        ),
        row(
            action(|a| a.max_stream_duration = Some(Default::default())),
            ".virtual_hosts[0].routes[0].route.max_stream_duration: NS",
        ),
        row(
            action(|a| a.timeout = Some(Duration { seconds: 0, nanos: -1 })),
            ".virtual_hosts[0].routes[0].route.timeout: not a duration of zero or more",
        ),
        row(
            action(|a| a.cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into()))),
            ".virtual_hosts[0].routes[0].route.cluster_header: NS",
        ),
        row(action(|a| a.cluster_specifier = None), ".virtual_hosts[0].routes[0].route.cluster: required"),
        row(
            action(|a| a.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(weighted(0)))),
            ".virtual_hosts[0].routes[0].route.weighted_clusters.clusters: the sum of the weights must be 1 to 4294967295",
        ),
        row(
            action(|a| {
                let mut weighted = weighted(3);
                weighted.total_weight = Some(UInt32Value { value: 100 });
                a.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(weighted));
            }),
            ".virtual_hosts[0].routes[0].route.weighted_clusters.total_weight: is not the sum of the weights, 3",
        ),
        row(
            action(|a| {
                let mut weighted = weighted(3);
                weighted.clusters[0].response_headers_to_remove = vec!["x".into()];
                a.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(weighted));
            }),
            ".virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].response_headers_to_remove: NS",
        ),
        row(
            retry(|p| p.retry_on = "5xx,connect-failure".into()),
            ".virtual_hosts[0].routes[0].route.retry_policy.retry_on: `5xx` is NS",
        ),
        row(
            retry(|p| p.per_try_timeout = Some(Duration { seconds: 1, nanos: 0 })),
            ".virtual_hosts[0].routes[0].route.retry_policy.per_try_timeout: only 0, which is for ever, is supported by this proxy",
        ),
        row(
            action(|a| a.idle_timeout = Some(Duration { seconds: 1, nanos: 0 })),
            ".virtual_hosts[0].routes[0].route.idle_timeout: only 0, which is for ever, is supported by this proxy",
        ),
        row(
            retry(|p| p.retriable_status_codes = vec![503]),
            ".virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes: NS",
        ),
        row(
            retry(|p| p.retry_on = "connect-failure".into()),
            ".virtual_hosts[0].routes[0].route.retry_policy.retriable_headers: goes with `retriable-headers` in retry_on",
        ),
        row(
            retry(|p| p.retriable_headers.clear()),
            ".virtual_hosts[0].routes[0].route.retry_policy.retriable_headers: goes with `retriable-headers` in retry_on",
        ),
        row(
            retry(|p| p.retry_host_predicate[0].config_type = None),
            ".virtual_hosts[0].routes[0].route.retry_policy.retry_host_predicate[0].typed_config: required",
        ),
        row(
            retry(|p| {
                let back_off = pb_route::retry_policy::RetryBackOff {
                    base_interval: Some(Duration::default()),
                    max_interval: None,
                };
                p.retry_back_off = Some(back_off);
            }),
            ".virtual_hosts[0].routes[0].route.retry_policy.retry_back_off: base_interval must be more than zero and max_interval no less than it",
        ),
    ];
    check("prod/web", type_url::ROUTE, "egress", rows);
}

fn matches(route: &mut pb_route::Route) -> &mut pb_route::RouteMatch {
    route.r#match.as_mut().unwrap()
}

fn weighted(weight: u32) -> pb_route::WeightedCluster {
    let cluster = pb_route::weighted_cluster::ClusterWeight {
        name: "a".into(),
        weight: Some(UInt32Value { value: weight }),
        ..Default::default()
    };
    pb_route::WeightedCluster { clusters: vec![cluster], ..Default::default() }
}
