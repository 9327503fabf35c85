//! Clusters and endpoints.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, TlsCertificate, UpstreamTlsContext, common_tls_context::ValidationContextType,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options as http_options,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::*;

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
    const VALIDATION: &str = ".common_tls_context.combined_validation_context.default_validation_context";
    let in_validation = |text: &'static str| &*format!("{TLS}{VALIDATION}{text}").leak();
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
            ".eds_cluster_config.eds_config: only ads is supported by this proxy",
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
                c.circuit_breakers.as_mut().unwrap().thresholds[0].max_retries = Some(UInt32Value { value: 3 })
            },
            ".circuit_breakers.thresholds[0].max_retries: only 1024 and more is supported by this proxy",
        ),
        row(
            |c: &mut Cluster| {
                c.circuit_breakers.as_mut().unwrap().thresholds[0].max_requests = Some(UInt32Value { value: 1024 })
            },
            ".circuit_breakers.thresholds[0].max_requests: NS",
        ),
        row(
            |c: &mut Cluster| {
                c.circuit_breakers.as_mut().unwrap().thresholds[0].retry_budget = Some(Default::default())
            },
            ".circuit_breakers.thresholds[0].retry_budget: NS",
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
        row(
            tls(|t| validation(t).match_typed_subject_alt_names.clear()),
            in_validation(".match_typed_subject_alt_names: must be one matcher at least"),
        ),
        row(tls(|t| bundle(t, "ROOTCA")), ACCEPTED),
        row(
            tls(|t| bundle(t, "spiffe://other.test")),
            in_tls(
                ".common_tls_context.combined_validation_context.validation_context_sds_secret_config.name: only ROOTCA is supported by this proxy",
            ),
        ),
        row(tls(|t| validation(t).allow_expired_certificate = true), in_validation(".allow_expired_certificate: NS")),
        row(
            tls(|t| validation(t).match_typed_subject_alt_names[0].san_type = 2),
            in_validation(".match_typed_subject_alt_names[0].san_type: only URI is supported by this proxy"),
        ),
        row(
            tls(|t| pattern(t, MatchPattern::Exact("spiffe://x".into()))),
            in_validation(
                ".match_typed_subject_alt_names[0].matcher.exact: `spiffe://x` is not a SPIFFE ID: it has no path, so it names no workload",
            ),
        ),
        row(
            tls(|t| pattern(t, MatchPattern::Prefix("spiffe://acme.internal/ns/".into()))),
            in_validation(
                ".match_typed_subject_alt_names[0].matcher.prefix: must be a trust domain, like spiffe://acme.internal/",
            ),
        ),
        row(
            tls(|t| pattern(t, MatchPattern::Prefix("spiffe://acme.internal/".into()))),
            in_tls(".common_tls_context: whom to expect must be one exact SPIFFE ID"),
        ),
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
                    let common = core::HttpProtocolOptions {
                        max_stream_duration: Some(Duration { seconds: 1, nanos: 0 }),
                        ..Default::default()
                    };
                    any.value = upstream_http(Some(common), None).encode_to_vec();
                });
            },
            in_http("(HttpProtocolOptions).common_http_protocol_options.max_stream_duration: NS"),
        ),
        row(
            |c: &mut Cluster| {
                c.typed_extension_protocol_options.values_mut().for_each(|any| {
                    let common = core::HttpProtocolOptions {
                        idle_timeout: Some(Duration { seconds: 60, nanos: 0 }),
                        ..Default::default()
                    };
                    any.value = upstream_http(Some(common), None).encode_to_vec();
                });
            },
            in_http(
                "(HttpProtocolOptions).common_http_protocol_options.idle_timeout: only 0, which is for ever, is supported by \
                 this proxy",
            ),
        ),
        row(
            |c: &mut Cluster| {
                c.typed_extension_protocol_options.values_mut().for_each(|any| {
                    let common = core::HttpProtocolOptions {
                        max_response_headers_kb: Some(UInt32Value { value: 60 }),
                        ..Default::default()
                    };
                    any.value = upstream_http(Some(common), None).encode_to_vec();
                });
            },
            in_http(
                "(HttpProtocolOptions).common_http_protocol_options.max_response_headers_kb: only 64 to 72, which this proxy \
                 takes in any case, is supported",
            ),
        ),
    ];
    check("prod/web", type_url::CLUSTER, "outbound|8080||board.prod", rows);
}

fn bundle(tls: &mut UpstreamTlsContext, name: &str) {
    let common = tls.common_tls_context.as_mut().unwrap();
    let Some(ValidationContextType::CombinedValidationContext(combined)) = &mut common.validation_context_type else {
        unreachable!()
    };
    combined.validation_context_sds_secret_config.as_mut().unwrap().name = name.to_owned();
}

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
