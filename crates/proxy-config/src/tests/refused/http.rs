//! HTTP connection managers.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{BufferSettings, ExtAuthz, ext_authz::Services};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager as hcm, http_filter,
};

use super::*;

/// Changes the HTTP connection manager of a listener.
fn manager(change: fn(&mut HttpConnectionManager)) -> impl FnOnce(&mut pb_listener::Listener) {
    move |listener| match &mut listener.filter_chains[0].filters.last_mut().unwrap().config_type {
        Some(ConfigType::TypedConfig(any)) => inside(any, change),
        _ => unreachable!(),
    }
}

const HCM: &str = ".filter_chains[0].filters[0].typed_config(HttpConnectionManager)";

const SLASHES: &str = ".path_with_escaped_slashes_action: this proxy refuses escaped slashes where it normalizes \
                       paths or keeps them, and does nothing else";

/// A path inside the connection manager.
pub(super) fn in_hcm(text: &str) -> &'static str {
    format!("{HCM}{text}").leak()
}

#[test]
fn http_connection_managers() {
    let rows = vec![
        row(manager(|m| m.stat_prefix.clear()), in_hcm(".stat_prefix: must not be empty")),
        row(manager(|m| m.codec_type = 3), in_hcm(".codec_type: NS")),
        row(manager(|m| m.merge_slashes = false), ACCEPTED),
        row(
            manager(|m| (m.normalize_path, m.merge_slashes) = (None, true)),
            in_hcm(".merge_slashes: this proxy merges slashes only where it normalizes paths"),
        ),
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
            in_hcm(
                ".common_http_protocol_options.max_headers_count: only 256 to 288, which this proxy takes in any case, is supported",
            ),
        ),
        row(
            manager(|m| m.max_request_headers_kb = Some(UInt32Value { value: 96 })),
            in_hcm(".max_request_headers_kb: only 64 to 72, which this proxy takes in any case, is supported"),
        ),
        row(manager(|m| m.max_request_headers_kb = None), ACCEPTED),
        row(manager(|m| m.http_protocol_options = None), ACCEPTED),
        row(
            manager(|m| m.http_protocol_options.as_mut().unwrap().default_host_for_http_10 = "board.prod".into()),
            in_hcm(".http_protocol_options.default_host_for_http_10: NS"),
        ),
        row(
            manager(|m| m.http_protocol_options.as_mut().unwrap().enable_trailers = true),
            in_hcm(".http_protocol_options.enable_trailers: NS"),
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
        row(manager(|m| m.path_with_escaped_slashes_action = 0), ACCEPTED),
        row(manager(|m| m.path_with_escaped_slashes_action = 1), ACCEPTED),
        row(manager(|m| m.path_with_escaped_slashes_action = 3), in_hcm(SLASHES)),
        row(manager(|m| m.path_with_escaped_slashes_action = 2), ACCEPTED),
        row(manager(|m| (m.normalize_path, m.merge_slashes) = (None, false)), ACCEPTED),
        row(manager(|m| (m.normalize_path, m.path_with_escaped_slashes_action) = (None, 2)), in_hcm(SLASHES)),
        row(manager(|m| m.proxy_100_continue = false), ACCEPTED),
        row(manager(|m| m.generate_request_id = Some(BoolValue { value: false })), in_hcm(".generate_request_id: NS")),
        row(
            manager(|m| m.stream_idle_timeout = Some(Duration { seconds: 300, nanos: 0 })),
            in_hcm(".stream_idle_timeout: only 0, which is for ever, is supported by this proxy"),
        ),
        row(manager(|m| m.stream_idle_timeout = None), ACCEPTED),
        row(
            manager(|m| m.proxy_status_config.as_mut().unwrap().proxy_name = None),
            in_hcm(".proxy_status_config.use_node_id: must be true"),
        ),
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
            in_hcm(
                ".local_reply_config.mappers[0].status_code: only 502, for what the app broke, is supported by this proxy",
            ),
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

/// Changes the HTTP filter that authorizes.
fn authz(m: &mut HttpConnectionManager, change: fn(&mut ExtAuthz)) {
    match &mut m.http_filters[0].config_type {
        Some(http_filter::ConfigType::TypedConfig(any)) => inside(any, change),
        _ => unreachable!(),
    }
}

fn grpc_service(authz: &mut ExtAuthz) -> &mut core::GrpcService {
    match &mut authz.services {
        Some(Services::GrpcService(service)) => service,
        _ => unreachable!(),
    }
}

/// The filter asks the server at another cluster.
fn asks_a_server(authz: &mut ExtAuthz) {
    let grpc = core::grpc_service::EnvoyGrpc { cluster_name: "opa".into(), ..Default::default() };
    grpc_service(authz).target_specifier = Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc));
}

#[test]
fn an_authorization_server() {
    const AUTHZ: &str = ".http_filters[0].typed_config(ExtAuthz)";
    let in_authz = |text: &str| in_hcm(&format!("{AUTHZ}{text}"));
    let changed = |change: fn(&mut ExtAuthz)| {
        move |listener: &mut pb_listener::Listener| {
            manager(|m| authz(m, asks_a_server))(listener);
            match &mut listener.filter_chains[0].filters.last_mut().unwrap().config_type {
                Some(ConfigType::TypedConfig(any)) => inside(any, |m: &mut HttpConnectionManager| authz(m, change)),
                _ => unreachable!(),
            }
        }
    };
    let rows = vec![
        row(changed(|_| ()), ACCEPTED),
        row(changed(|a| (a.failure_mode_allow, a.failure_mode_allow_header_add) = (true, true)), ACCEPTED),
        row(changed(|a| (a.clear_route_cache, a.include_tls_session) = (true, false)), ACCEPTED),
        row(
            changed(|a| a.status_on_error.as_mut().unwrap().code = 99),
            in_authz(".status_on_error.code: 99 is no status of an answer"),
        ),
        row(
            changed(|a| a.with_request_body = Some(Default::default())),
            in_authz(".with_request_body.max_request_bytes: must be greater than 0"),
        ),
        row(
            changed(|a| {
                let shown = BufferSettings { max_request_bytes: 1, allow_partial_message: true, pack_as_bytes: true };
                a.with_request_body = Some(shown);
            }),
            ACCEPTED,
        ),
        // No filter before this one writes metadata, so there would be nothing to send.
        row(
            changed(|a| a.metadata_context_namespaces = vec!["envoy.filters.http.jwt_authn".into()]),
            in_authz(".metadata_context_namespaces: NS"),
        ),
        row(
            changed(|a| a.typed_metadata_context_namespaces = vec!["x".into()]),
            in_authz(".typed_metadata_context_namespaces: NS"),
        ),
        row(changed(|a| a.include_peer_certificate = true), in_authz(".include_peer_certificate: NS")),
        row(changed(|a| a.validate_mutations = true), in_authz(".validate_mutations: NS")),
        row(changed(|a| a.allowed_headers = Some(Default::default())), in_authz(".allowed_headers: NS")),
        row(changed(|a| a.filter_enabled = Some(Default::default())), in_authz(".filter_enabled: NS")),
        row(
            changed(|a| grpc_service(a).retry_policy = Some(Default::default())),
            in_authz(".grpc_service.retry_policy: NS"),
        ),
        row(
            changed(|a| {
                let google = core::grpc_service::GoogleGrpc { target_uri: "opa:9191".into(), ..Default::default() };
                grpc_service(a).target_specifier = Some(core::grpc_service::TargetSpecifier::GoogleGrpc(google));
            }),
            in_authz(".grpc_service.google_grpc: NS"),
        ),
        row(
            changed(|a| {
                let grpc = core::grpc_service::EnvoyGrpc {
                    authority: "opa".into(),
                    cluster_name: "opa".into(),
                    ..Default::default()
                };
                grpc_service(a).target_specifier = Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc));
            }),
            in_authz(".grpc_service.envoy_grpc.authority: NS"),
        ),
        row(
            manager(|m| m.http_filters.insert(0, m.http_filters[0].clone())),
            in_hcm(".http_filters[1]: this proxy asks one authorization server, not several"),
        ),
    ];
    check("prod/web", type_url::LISTENER, "ingress", rows);
}

#[test]
fn ingress() {
    let rows = vec![
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
