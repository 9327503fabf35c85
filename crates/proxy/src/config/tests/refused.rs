//! What is refused, and by which path. Each row changes one thing of what the control plane compiles.

#![allow(deprecated)]

use envoy_types::pb::envoy::config::cluster::v3 as pb_cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{self as pb_route, route_action::ClusterSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager as hcm, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    DownstreamTlsContext, TlsCertificate, UpstreamTlsContext, common_tls_context::ValidationContextType,
};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use prost::{Message, Name};

use super::*;

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// Changes the message in an `Any`.
fn inside<M: Message + Name + Default>(any: &mut Any, change: impl FnOnce(&mut M)) {
    assert_eq!(any.type_url, M::type_url());
    let mut message = M::decode(&*any.value).unwrap();
    change(&mut message);
    any.value = message.encode_to_vec();
}

/// Offers a changed resource to a proxy that has the good one.
fn reason<M: Message + Default>(
    service: &str,
    type_url: &'static str,
    name: &str,
    change: impl FnOnce(&mut M),
) -> String {
    let mut message: M = of(&snapshot(service), type_url, name);
    change(&mut message);
    let mut builder = Builder::default();
    offer(&mut builder, Resource::new(type_url, name, &message)).err().unwrap_or_else(|| "accepted".to_owned())
}

fn check<M: Message + Default>(
    service: &str,
    type_url: &'static str,
    name: &str,
    rows: Vec<(Box<dyn FnOnce(&mut M)>, &str)>,
) {
    for (change, expected) in rows {
        let reason = reason(service, type_url, name, change);
        let root = type_url.rsplit('/').next().unwrap();
        let reason = reason.strip_prefix(root).unwrap_or(&reason);
        let expected = expected.replace(" NS", " not supported by this proxy");
        assert_eq!(reason, expected);
    }
}

fn row<M: 'static>(
    change: impl FnOnce(&mut M) + 'static,
    expected: &'static str,
) -> (Box<dyn FnOnce(&mut M)>, &'static str) {
    (Box::new(change), expected)
}

const ACCEPTED: &str = "accepted";

#[test]
fn clusters() {
    use pb_cluster::{Cluster, cluster};
    let tls = |change: fn(&mut UpstreamTlsContext)| {
        move |c: &mut Cluster| {
            let Some(core::transport_socket::ConfigType::TypedConfig(any)) =
                &mut c.transport_socket.as_mut().unwrap().config_type
            else {
                unreachable!()
            };
            inside(any, change);
        }
    };
    const TLS: &str = ".transport_socket.typed_config(UpstreamTlsContext)";
    let in_tls = |text: &'static str| &*format!("{TLS}{text}").leak();
    const HTTP: &str = r#".typed_extension_protocol_options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]"#;
    let in_http = |text: &'static str| &*format!("{HTTP}{text}").leak();
    let rows = vec![
        row(|_: &mut Cluster| (), ACCEPTED),
        row(|c: &mut Cluster| c.name.clear(), ".name: must not be empty"),
        row(
            |c: &mut Cluster| c.name = "other".into(),
            ".name: `other` is not the name of the resource, `outbound|8080||board.prod`",
        ),
        row(|c: &mut Cluster| c.outlier_detection = Some(Default::default()), ".outlier_detection: NS"),
        row(|c: &mut Cluster| c.health_checks = vec![Default::default()], ".health_checks: NS"),
        row(|c: &mut Cluster| c.lb_subset_config = Some(Default::default()), ".lb_subset_config: NS"),
        row(|c: &mut Cluster| c.lb_policy = 3, ".lb_policy: RANDOM is NS"),
        row(|c: &mut Cluster| c.lb_policy = 99, ".lb_policy: NS"),
        row(
            |c: &mut Cluster| c.lb_config = Some(cluster::LbConfig::MaglevLbConfig(Default::default())),
            ".maglev_lb_config: NS",
        ),
        row(
            |c: &mut Cluster| {
                let config = cluster::LeastRequestLbConfig {
                    choice_count: Some(UInt32Value { value: 3 }),
                    ..Default::default()
                };
                c.lb_config = Some(cluster::LbConfig::LeastRequestLbConfig(config));
            },
            ".least_request_lb_config.choice_count: only 2 is supported by this proxy",
        ),
        row(
            |c: &mut Cluster| {
                let config =
                    cluster::LeastRequestLbConfig { slow_start_config: Some(Default::default()), ..Default::default() };
                c.lb_config = Some(cluster::LbConfig::LeastRequestLbConfig(config));
            },
            ".least_request_lb_config.slow_start_config: NS",
        ),
        row(
            |c: &mut Cluster| c.connect_timeout = Some(Duration { seconds: -1, nanos: 0 }),
            ".connect_timeout: not a duration of zero or more",
        ),
        row(
            |c: &mut Cluster| c.connect_timeout = Some(Duration::default()),
            ".connect_timeout: must be more than zero",
        ),
        row(|c: &mut Cluster| c.connect_timeout = None, ACCEPTED),
        row(
            |c: &mut Cluster| c.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(4)),
            ".type: ORIGINAL_DST is NS",
        ),
        row(
            |c: &mut Cluster| {
                c.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::ClusterType(Default::default()))
            },
            ".cluster_type: NS",
        ),
        row(|c: &mut Cluster| c.eds_cluster_config = None, ".eds_cluster_config: required"),
        row(|c: &mut Cluster| c.load_assignment = Some(Default::default()), ".load_assignment: NS"),
        row(
            |c: &mut Cluster| c.eds_cluster_config.as_mut().unwrap().eds_config = Some(Default::default()),
            ACCEPTED_UNSPECIFIED_SOURCE,
        ),
        row(
            |c: &mut Cluster| {
                let source = core::config_source::ConfigSourceSpecifier::Path("/etc/x".into());
                c.eds_cluster_config.as_mut().unwrap().eds_config.as_mut().unwrap().config_source_specifier =
                    Some(source);
            },
            ".eds_cluster_config.eds_config.path: NS",
        ),
        row(
            |c: &mut Cluster| c.circuit_breakers.as_mut().unwrap().thresholds[0].priority = 1,
            ".circuit_breakers.thresholds[0].priority: NS",
        ),
        row(
            |c: &mut Cluster| {
                c.circuit_breakers.as_mut().unwrap().thresholds[0].retry_budget = Some(Default::default())
            },
            ".circuit_breakers.thresholds[0].retry_budget: NS",
        ),
        row(
            |c: &mut Cluster| c.circuit_breakers.as_mut().unwrap().thresholds.push(Default::default()),
            ".circuit_breakers.thresholds[1]: only one, of priority DEFAULT, is supported by this proxy",
        ),
        row(
            |c: &mut Cluster| c.circuit_breakers.as_mut().unwrap().per_host_thresholds.push(Default::default()),
            ".circuit_breakers.per_host_thresholds: NS",
        ),
        row(|c: &mut Cluster| c.transport_socket = None, ACCEPTED),
        row(
            |c: &mut Cluster| c.transport_socket.as_mut().unwrap().config_type = None,
            ".transport_socket.typed_config: required",
        ),
        row(
            |c: &mut Cluster| {
                let other = Any {
                    type_url: "type.googleapis.com/envoy.extensions.transport_sockets.alts.v3.Alts".into(),
                    value: vec![],
                };
                c.transport_socket.as_mut().unwrap().config_type =
                    Some(core::transport_socket::ConfigType::TypedConfig(other));
            },
            ".transport_socket.typed_config(Alts): NS",
        ),
        row(tls(|t| t.allow_renegotiation = true), in_tls(".allow_renegotiation: NS")),
        row(
            tls(|t| t.max_session_keys = Some(UInt32Value { value: 1 })),
            in_tls(".max_session_keys: this proxy does not resume TLS sessions: use 0"),
        ),
        row(tls(|t| t.max_session_keys = None), ACCEPTED),
        row(tls(|t| t.common_tls_context = None), in_tls(".common_tls_context: required")),
        row(
            tls(|t| t.common_tls_context.as_mut().unwrap().alpn_protocols = vec!["http/1.1".into()]),
            ".transport_socket: alpn_protocols must have h2: the cluster speaks HTTP/2",
        ),
        row(
            tls(|t| t.common_tls_context.as_mut().unwrap().tls_certificates = vec![TlsCertificate::default()]),
            in_tls(".common_tls_context.tls_certificates: NS"),
        ),
        row(
            tls(|t| t.common_tls_context.as_mut().unwrap().tls_certificate_sds_secret_configs.clear()),
            in_tls(".common_tls_context.tls_certificate_sds_secret_configs: must be one secret"),
        ),
        row(
            tls(|t| t.common_tls_context.as_mut().unwrap().tls_certificate_sds_secret_configs[0].name = "x".into()),
            in_tls(
                ".common_tls_context.tls_certificate_sds_secret_configs[0].name: only default is supported by this proxy",
            ),
        ),
        row(
            tls(|t| t.common_tls_context.as_mut().unwrap().tls_certificate_sds_secret_configs[0].sds_config = None),
            in_tls(".common_tls_context.tls_certificate_sds_secret_configs[0].sds_config: required"),
        ),
        row(
            tls(|t| {
                t.common_tls_context.as_mut().unwrap().tls_params.as_mut().unwrap().tls_minimum_protocol_version = 3
            }),
            in_tls(".common_tls_context.tls_params.tls_minimum_protocol_version: this proxy speaks TLSv1_3 only"),
        ),
        row(
            tls(|t| {
                t.common_tls_context.as_mut().unwrap().tls_params.as_mut().unwrap().ecdh_curves = vec!["P-521".into()]
            }),
            in_tls(".common_tls_context.tls_params.ecdh_curves: this proxy offers X25519MLKEM768, X25519, P-256"),
        ),
        row(
            tls(|t| {
                t.common_tls_context.as_mut().unwrap().tls_params.as_mut().unwrap().cipher_suites = vec!["x".into()]
            }),
            in_tls(".common_tls_context.tls_params.cipher_suites: NS"),
        ),
        row(
            tls(|t| t.common_tls_context.as_mut().unwrap().validation_context_type = None),
            in_tls(".common_tls_context.combined_validation_context: required"),
        ),
        row(tls(|t| validation(t).match_typed_subject_alt_names.clear()), VALIDATION_NAMES),
        row(tls(|t| validation(t).allow_expired_certificate = true), VALIDATION_EXPIRED),
        row(tls(|t| validation(t).match_typed_subject_alt_names[0].san_type = 2), VALIDATION_TYPE),
        row(tls(|t| pattern(t, MatchPattern::Exact("spiffe://x".into()))), VALIDATION_EXACT),
        row(tls(|t| pattern(t, MatchPattern::Prefix("spiffe://acme.internal/ns/".into()))), VALIDATION_PREFIX),
        row(tls(|t| pattern(t, MatchPattern::Prefix("spiffe://acme.internal/".into()))), VALIDATION_ONE),
        row(
            |c: &mut Cluster| drop(c.typed_extension_protocol_options.insert("a.b".into(), Any::default())),
            r#".typed_extension_protocol_options["a.b"]: NS"#,
        ),
        row(
            |c: &mut Cluster| {
                c.typed_extension_protocol_options.values_mut().for_each(|any| any.type_url = "x/a.B".into())
            },
            in_http("(B): NS"),
        ),
        row(
            |c: &mut Cluster| {
                c.typed_extension_protocol_options.values_mut().for_each(|any| {
                    any.value = upstream_http(None, Some(UInt32Value { value: 1 })).encode_to_vec();
                });
            },
            in_http("(HttpProtocolOptions).explicit_http_config.http2_protocol_options.max_concurrent_streams: NS"),
        ),
        row(
            |c: &mut Cluster| {
                c.typed_extension_protocol_options.values_mut().for_each(|any| {
                    any.value = upstream_http(Some(Default::default()), None).encode_to_vec();
                });
            },
            in_http("(HttpProtocolOptions).common_http_protocol_options: NS"),
        ),
    ];
    check("prod/web", type_url::CLUSTER, "outbound|8080||board.prod", rows);
}

const ACCEPTED_UNSPECIFIED_SOURCE: &str = ".eds_cluster_config.eds_config: only ads is supported by this proxy";
const VALIDATION_NAMES: &str = ".transport_socket.typed_config(UpstreamTlsContext).common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names: must be one matcher";
const VALIDATION_EXPIRED: &str = ".transport_socket.typed_config(UpstreamTlsContext).common_tls_context.combined_validation_context.default_validation_context.allow_expired_certificate: NS";
const VALIDATION_TYPE: &str = ".transport_socket.typed_config(UpstreamTlsContext).common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names[0].san_type: only URI is supported by this proxy";
const VALIDATION_EXACT: &str = ".transport_socket.typed_config(UpstreamTlsContext).common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names[0].matcher.exact: `spiffe://x` is not a SPIFFE ID: it has no path, so it names no workload";
const VALIDATION_PREFIX: &str = ".transport_socket.typed_config(UpstreamTlsContext).common_tls_context.combined_validation_context.default_validation_context.match_typed_subject_alt_names[0].matcher.prefix: must be a trust domain, like spiffe://acme.internal/";
const VALIDATION_ONE: &str =
    ".transport_socket.typed_config(UpstreamTlsContext).common_tls_context: whom to expect must be one exact SPIFFE ID";

use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options as http_options,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

fn validation(context: &mut UpstreamTlsContext) -> &mut CertificateValidationContext {
    match &mut context.common_tls_context.as_mut().unwrap().validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            combined.default_validation_context.as_mut().unwrap()
        }
        _ => unreachable!(),
    }
}

fn pattern(context: &mut UpstreamTlsContext, pattern: MatchPattern) {
    let name = &mut validation(context).match_typed_subject_alt_names[0];
    name.matcher.as_mut().unwrap().match_pattern = Some(pattern);
}

fn upstream_http(common: Option<core::HttpProtocolOptions>, streams: Option<UInt32Value>) -> HttpProtocolOptions {
    use http_options::explicit_http_config::ProtocolConfig;
    let http2 = core::Http2ProtocolOptions { max_concurrent_streams: streams, ..Default::default() };
    let explicit =
        http_options::ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)) };
    HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_protocol_options: Some(http_options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    }
}

#[test]
fn assignments() {
    use core::HealthStatus;
    use pb_endpoint::ClusterLoadAssignment as Assignment;
    let first = |change: fn(&mut pb_endpoint::LbEndpoint)| {
        move |a: &mut Assignment| change(&mut a.endpoints[0].lb_endpoints[0])
    };
    let endpoint = |change: fn(&mut pb_endpoint::Endpoint)| {
        move |a: &mut Assignment| match &mut a.endpoints[0].lb_endpoints[0].host_identifier {
            Some(pb_endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => change(endpoint),
            _ => unreachable!(),
        }
    };
    let rows = vec![
        row(|_: &mut Assignment| (), ACCEPTED),
        row(|a: &mut Assignment| a.policy = Some(Default::default()), ".policy: NS"),
        row(|a: &mut Assignment| a.endpoints[0].priority = 1, ".endpoints[0].priority: NS"),
        row(|a: &mut Assignment| a.endpoints[0].locality = None, ACCEPTED),
        row(
            |a: &mut Assignment| {
                a.endpoints[0].lb_config =
                    Some(pb_endpoint::locality_lb_endpoints::LbConfig::LedsClusterLocalityConfig(Default::default()))
            },
            ".endpoints[0].leds_cluster_locality_config: NS",
        ),
        row(first(|e| e.health_status = HealthStatus::Draining.into()), ACCEPTED),
        row(
            first(|e| e.health_status = HealthStatus::Degraded.into()),
            ".endpoints[0].lb_endpoints[0].health_status: NS",
        ),
        row(
            first(|e| e.load_balancing_weight = Some(UInt32Value { value: 0 })),
            ".endpoints[0].lb_endpoints[0].load_balancing_weight: must be at least 1",
        ),
        row(first(|e| e.host_identifier = None), ".endpoints[0].lb_endpoints[0].endpoint: required"),
        row(
            first(|e| drop(e.metadata.as_mut().unwrap().filter_metadata.insert("x".into(), Default::default()))),
            r#".endpoints[0].lb_endpoints[0].metadata.filter_metadata["x"]: NS"#,
        ),
        row(
            first(|e| {
                let fields = &mut e.metadata.as_mut().unwrap().filter_metadata.get_mut("envoy.lb").unwrap().fields;
                fields.insert("n".into(), Default::default());
            }),
            r#".endpoints[0].lb_endpoints[0].metadata.filter_metadata["envoy.lb"].fields["n"]: only strings are supported by this proxy"#,
        ),
        row(
            endpoint(|e| e.health_check_config = Some(Default::default())),
            ".endpoints[0].lb_endpoints[0].endpoint.health_check_config: NS",
        ),
        row(endpoint(|e| e.address = None), ".endpoints[0].lb_endpoints[0].endpoint.address: required"),
        row(
            endpoint(|e| socket(&mut e.address).address = "board".into()),
            ".endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: `board` is not an IP address",
        ),
        row(
            endpoint(|e| socket(&mut e.address).port_specifier = None),
            ".endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: required",
        ),
        row(
            endpoint(|e| {
                socket(&mut e.address).port_specifier = Some(core::socket_address::PortSpecifier::PortValue(65536))
            }),
            ".endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 65536 is not a port",
        ),
        row(
            endpoint(|e| {
                socket(&mut e.address).port_specifier = Some(core::socket_address::PortSpecifier::PortValue(0))
            }),
            ".endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: must not be 0",
        ),
        row(
            endpoint(|e| socket(&mut e.address).protocol = 1),
            ".endpoints[0].lb_endpoints[0].endpoint.address.socket_address.protocol: NS",
        ),
    ];
    check("prod/web", type_url::ENDPOINT, "outbound|8080||board.prod", rows);
}

fn socket(address: &mut Option<core::Address>) -> &mut core::SocketAddress {
    match address.as_mut().unwrap().address.as_mut().unwrap() {
        core::address::Address::SocketAddress(socket) => socket,
        _ => unreachable!(),
    }
}

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
            retry(|p| p.retriable_status_codes = vec![503]),
            ".virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes: NS",
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

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;

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

/// Changes the HTTP connection manager of a listener.
fn manager(change: fn(&mut HttpConnectionManager)) -> impl FnOnce(&mut pb_listener::Listener) {
    move |listener| match &mut listener.filter_chains[0].filters.last_mut().unwrap().config_type {
        Some(ConfigType::TypedConfig(any)) => inside(any, change),
        _ => unreachable!(),
    }
}

fn downstream(change: fn(&mut DownstreamTlsContext)) -> impl FnOnce(&mut pb_listener::Listener) {
    move |listener| match &mut listener.filter_chains[0].transport_socket.as_mut().unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => inside(any, change),
        _ => unreachable!(),
    }
}

const HCM: &str = ".filter_chains[0].filters[0].typed_config(HttpConnectionManager)";

fn in_hcm(text: &str) -> &'static str {
    format!("{HCM}{text}").leak()
}

#[test]
fn listeners() {
    use pb_listener::Listener;
    let rows = vec![
        row(|_: &mut Listener| (), ACCEPTED),
        row(|l: &mut Listener| l.enable_reuse_port = Some(BoolValue { value: true }), ACCEPTED),
        row(|l: &mut Listener| l.enable_reuse_port = Some(BoolValue { value: false }), ".enable_reuse_port: NS"),
        row(|l: &mut Listener| l.traffic_direction = 7, ".traffic_direction: NS"),
        row(|l: &mut Listener| l.listener_filters = vec![Default::default()], ".listener_filters: NS"),
        row(|l: &mut Listener| l.api_listener = Some(Default::default()), ".api_listener: NS"),
        row(|l: &mut Listener| l.default_filter_chain = Some(Default::default()), ".default_filter_chain: NS"),
        row(|l: &mut Listener| l.address = None, ".address: required"),
        row(
            |l: &mut Listener| {
                let pipe = core::address::Address::Pipe(core::Pipe { path: "/x".into(), mode: 0 });
                l.address.as_mut().unwrap().address = Some(pipe);
            },
            ".address: only socket_address is supported by this proxy",
        ),
        row(|l: &mut Listener| l.filter_chains.clear(), ".filter_chains: must be one chain"),
        row(|l: &mut Listener| l.filter_chains.push(Default::default()), ".filter_chains: must be one chain"),
        row(|l: &mut Listener| l.filter_chains[0].filters.clear(), ".filter_chains[0].filters: must not be empty"),
        row(|l: &mut Listener| l.filter_chains[0].name = "x".into(), ACCEPTED),
        row(|l: &mut Listener| l.filter_chains[0].filter_chain_match = Some(Default::default()), ACCEPTED),
        row(
            |l: &mut Listener| {
                let some = pb_listener::FilterChainMatch { server_names: vec!["a".into()], ..Default::default() };
                l.filter_chains[0].filter_chain_match = Some(some);
            },
            ".filter_chains[0].filter_chain_match: NS",
        ),
        row(
            |l: &mut Listener| l.filter_chains[0].filters[0].config_type = None,
            ".filter_chains[0].filters[0].typed_config: required",
        ),
        row(
            |l: &mut Listener| {
                let first = l.filter_chains[0].filters[0].clone();
                l.filter_chains[0].filters.push(first);
            },
            in_hcm(": NS"),
        ),
        row(
            |l: &mut Listener| {
                let config = ConfigType::ConfigDiscovery(Default::default());
                l.filter_chains[0].filters[0].config_type = Some(config);
            },
            ".filter_chains[0].filters[0].config_discovery: NS",
        ),
        row(
            |l: &mut Listener| {
                let Some(ConfigType::TypedConfig(any)) = &mut l.filter_chains[0].filters[0].config_type else {
                    unreachable!()
                };
                any.value = vec![0xff];
            },
            in_hcm(": failed to decode Protobuf message: invalid varint"),
        ),
        row(
            |l: &mut Listener| {
                let Some(ConfigType::TypedConfig(any)) = &mut l.filter_chains[0].filters[0].config_type else {
                    unreachable!()
                };
                prost::encoding::uint32::encode(999, &1, &mut any.value);
            },
            in_hcm(": field number 999 is newer than this proxy and not supported by it"),
        ),
    ];
    check("prod/web", type_url::LISTENER, "egress", rows);
}

#[test]
fn http_connection_managers() {
    let rows = vec![
        row(manager(|m| m.stat_prefix.clear()), in_hcm(".stat_prefix: must not be empty")),
        row(manager(|m| m.codec_type = 3), in_hcm(".codec_type: NS")),
        row(manager(|m| m.merge_slashes = true), in_hcm(".merge_slashes: NS")),
        row(manager(|m| m.use_remote_address = Some(BoolValue { value: true })), in_hcm(".use_remote_address: NS")),
        row(manager(|m| m.use_remote_address = Some(BoolValue { value: false })), ACCEPTED),
        row(manager(|m| m.server_name = "x".into()), in_hcm(".server_name: NS")),
        row(manager(|m| m.request_timeout = Some(Duration { seconds: 1, nanos: 0 })), in_hcm(".request_timeout: NS")),
        row(manager(|m| m.route_specifier = None), in_hcm(": one of rds and route_config is required")),
        row(
            manager(|m| m.route_specifier = Some(hcm::RouteSpecifier::ScopedRoutes(Default::default()))),
            in_hcm(".scoped_routes: NS"),
        ),
        row(manager(|m| m.http_filters.clear()), in_hcm(".http_filters: must end with the router")),
        row(
            manager(|m| m.http_filters.push(m.http_filters[0].clone())),
            in_hcm(".http_filters[1]: nothing can follow the router"),
        ),
        row(manager(|m| m.http_filters.insert(0, rbac(false))), in_hcm(".http_filters[0].typed_config(RBAC): NS")),
        row(manager(|m| m.http_filters.insert(0, rbac(true))), ACCEPTED),
        row(manager(|m| m.http_filters[0].disabled = true), in_hcm(".http_filters[0].disabled: NS")),
        row(
            manager(|m| {
                m.common_http_protocol_options = Some(core::HttpProtocolOptions {
                    max_headers_count: Some(UInt32Value { value: 5 }),
                    ..Default::default()
                })
            }),
            in_hcm(".common_http_protocol_options.max_headers_count: NS"),
        ),
        row(
            manager(|m| {
                m.http2_protocol_options.as_mut().unwrap().max_concurrent_streams = Some(UInt32Value { value: 0 })
            }),
            in_hcm(".http2_protocol_options.max_concurrent_streams: must be at least 1"),
        ),
        row(
            manager(|m| m.http2_protocol_options.as_mut().unwrap().connection_keepalive = Some(Default::default())),
            in_hcm(".http2_protocol_options.connection_keepalive: NS"),
        ),
        row(
            manager(|m| m.upgrade_configs[0].upgrade_type = "tls".into()),
            in_hcm(".upgrade_configs[0].upgrade_type: NS"),
        ),
        row(
            manager(|m| m.upgrade_configs[0].filters = m.http_filters.clone()),
            in_hcm(".upgrade_configs[0].filters: NS"),
        ),
        row(
            manager(|m| m.forward_client_cert_details = 2),
            in_hcm(".forward_client_cert_details: APPEND_FORWARD is NS"),
        ),
        row(manager(|m| m.path_with_escaped_slashes_action = 3), in_hcm(".path_with_escaped_slashes_action: NS")),
        row(
            manager(|m| m.server_header_transformation = 1),
            in_hcm(".server_header_transformation: only PASS_THROUGH is supported by this proxy"),
        ),
        row(
            manager(|m| m.tracing.as_mut().unwrap().random_sampling = None),
            in_hcm(".tracing.random_sampling: must be 0: this proxy does not export spans"),
        ),
        row(
            manager(|m| m.tracing.as_mut().unwrap().custom_tags = vec![Default::default()]),
            in_hcm(".tracing.custom_tags: NS"),
        ),
        row(manager(|m| m.tracing.as_mut().unwrap().provider = None), in_hcm(".tracing.provider: required")),
        row(manager(|m| m.tracing = None), ACCEPTED),
        row(
            manager(|m| m.proxy_status_config.as_mut().unwrap().remove_details = true),
            in_hcm(".proxy_status_config.remove_details: NS"),
        ),
        row(
            manager(|m| m.early_header_mutation_extensions[0].typed_config = Some(any(&Rbac::default()))),
            in_hcm(".early_header_mutation_extensions[0].typed_config(RBAC): NS"),
        ),
        row(
            manager(|m| {
                m.local_reply_config.as_mut().unwrap().mappers[0].status_code = Some(UInt32Value { value: 418 })
            }),
            in_hcm(".local_reply_config.mappers[0].status_code: NS"),
        ),
        row(
            manager(|m| {
                m.local_reply_config.as_mut().unwrap().body_format.as_mut().unwrap().content_type = "text/html".into()
            }),
            in_hcm(".local_reply_config.body_format: this proxy answers with its own problem documents only"),
        ),
        row(
            manager(|m| m.access_log.push(m.access_log[0].clone())),
            in_hcm(".access_log[1]: only one access log is supported by this proxy"),
        ),
        row(manager(|m| m.access_log[0].filter = Some(Default::default())), in_hcm(".access_log[0].filter: NS")),
        row(manager(|m| m.access_log.clear()), ACCEPTED),
    ];
    check("prod/web", type_url::LISTENER, "egress", rows);
}

fn rbac(is_optional: bool) -> HttpFilter {
    let config_type = Some(http_filter::ConfigType::TypedConfig(any(&Rbac::default())));
    HttpFilter { name: "x".into(), is_optional, config_type, ..Default::default() }
}

#[test]
fn ingress() {
    use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, ext_authz::Services};
    fn authz(m: &mut HttpConnectionManager, change: fn(&mut ExtAuthz)) {
        match &mut m.http_filters[0].config_type {
            Some(http_filter::ConfigType::TypedConfig(any)) => inside(any, change),
            _ => unreachable!(),
        }
    }
    const TLS: &str = ".filter_chains[0].transport_socket.typed_config(DownstreamTlsContext)";
    let in_tls = |text: &'static str| &*format!("{TLS}{text}").leak();
    let rows = vec![
        row(
            downstream(|t| t.require_client_certificate = None),
            in_tls(".require_client_certificate: must be true: this proxy serves only mutual TLS"),
        ),
        row(downstream(|t| t.ocsp_staple_policy = 1), in_tls(".ocsp_staple_policy: NS")),
        row(downstream(|t| t.require_sni = Some(BoolValue { value: true })), in_tls(".require_sni: NS")),
        row(downstream(|t| t.session_ticket_keys_type = None), ACCEPTED),
        row(
            manager(|m| authz(m, |a| a.failure_mode_allow = true)),
            in_hcm(".http_filters[0].typed_config(ExtAuthz).failure_mode_allow: NS"),
        ),
        row(
            manager(|m| authz(m, |a| a.with_request_body = Some(Default::default()))),
            in_hcm(".http_filters[0].typed_config(ExtAuthz).with_request_body: NS"),
        ),
        row(
            manager(|m| authz(m, |a| a.services = None)),
            in_hcm(".http_filters[0].typed_config(ExtAuthz).grpc_service: required"),
        ),
        row(
            manager(|m| {
                authz(m, |a| {
                    let Some(Services::GrpcService(service)) = &mut a.services else { unreachable!() };
                    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) = &mut service.target_specifier
                    else {
                        unreachable!()
                    };
                    grpc.cluster_name = "opa".into();
                });
            }),
            in_hcm(
                ".http_filters[0].typed_config(ExtAuthz).grpc_service.envoy_grpc.cluster_name: only weft_agent is supported by this proxy",
            ),
        ),
        row(
            manager(|m| m.set_current_client_cert_details.as_mut().unwrap().chain = true),
            in_hcm(".set_current_client_cert_details: this proxy sets uri, and nothing else"),
        ),
        row(
            manager(|m| match &mut m.route_specifier {
                Some(hcm::RouteSpecifier::RouteConfig(config)) => {
                    config.virtual_hosts[0].include_request_attempt_count = true
                }
                _ => unreachable!(),
            }),
            in_hcm(".route_config.virtual_hosts[0].include_request_attempt_count: NS"),
        ),
    ];
    check("prod/web", type_url::LISTENER, "ingress", rows);
}

#[test]
fn tcp() {
    fn proxy(change: fn(&mut TcpProxy)) -> impl FnOnce(&mut pb_listener::Listener) {
        move |listener| match &mut listener.filter_chains[0].filters.last_mut().unwrap().config_type {
            Some(ConfigType::TypedConfig(any)) => inside(any, change),
            _ => unreachable!(),
        }
    }
    const TCP: &str = ".filter_chains[0].filters[1].typed_config(TcpProxy)";
    let in_tcp = |text: &'static str| &*format!("{TCP}{text}").leak();
    let rows = vec![
        row(proxy(|_| ()), ACCEPTED),
        row(proxy(|p| p.cluster_specifier = None), in_tcp(".cluster: required")),
        row(proxy(|p| p.max_connect_attempts = Some(UInt32Value { value: 3 })), in_tcp(".max_connect_attempts: NS")),
        row(proxy(|p| p.upstream_connect_mode = 2), in_tcp(".upstream_connect_mode: NS")),
        row(proxy(|p| p.tunneling_config = Some(Default::default())), in_tcp(".tunneling_config: NS")),
        row(
            |l: &mut pb_listener::Listener| l.filter_chains[0].filters.truncate(1),
            ".filter_chains[0].filters[0].typed_config(ExtAuthz): NS",
        ),
    ];
    check("prod/db", type_url::LISTENER, "ingress", rows);
}

#[test]
fn a_resource_of_another_type() {
    let good = snapshot("prod/web").get(type_url::CLUSTER)["inbound|8080||"].clone();
    let lie = Update { type_url: type_url::ROUTE, revision: "r".into(), changed: vec![good], removed: Vec::new() };
    let reason = Builder::default().apply(lie).pop().unwrap().reason;
    assert_eq!(
        reason,
        "envoy.config.route.v3.RouteConfiguration: the resource is of another type, `type.googleapis.com/envoy.config.cluster.v3.Cluster`"
    );
}
