//! Listeners: egress, where the app calls, and ingress, where other sidecars call.
//!
//! They hold nothing that a commit usually changes (routes, weights and policy travel in other resources), because Envoy drains
//! the connections of a listener that changed.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, Http1ProtocolOptions, Http2ProtocolOptions, TrafficDirection, TransportSocket, TypedExtensionConfig,
    data_source::Specifier,
};
use envoy_types::pb::envoy::config::listener::v3::{
    ApiListener, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::config::trace::v3::{OpenTelemetryConfig, tracing};
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager as hcm,
    http_connection_manager::proxy_status_config::ProxyName, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, UpstreamConnectMode, tcp_proxy};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use weft_model::intent::{EscapedSlashes, PolicyInputs, Protocol, Service, Slashes};
use weft_model::{Intent, Mtls};
use weft_xds::{Resource, type_url};

use crate::access_log::{self, HTTP_AUTHZ, TCP_AUTHZ};
use crate::hop::{EGRESS, Hop, INGRESS};
use crate::pb::{ads, agent_service, any, boolean, duration, listening_at, uint32};
use crate::{Proxy, authz, headers, limits, local_reply, names, route, tls, wire};

/// What a TCP caller may send while the app is being connected to.
const EARLY_DATA_BYTES: u32 = 64 * 1024;

/// HTTP in clear from the app, to whatever the `Host` names; CONNECT for TCP services.
pub(crate) fn egress(proxy: &Proxy, slashes: Slashes) -> Arc<Resource> {
    let rds = Rds { config_source: ads(), route_config_name: EGRESS.to_owned() };
    let manager = HttpConnectionManager {
        route_specifier: Some(hcm::RouteSpecifier::Rds(rds)),
        http_filters: vec![router()],
        strip_port_mode: Some(hcm::StripPortMode::StripAnyHostPort(true)),
        forward_client_cert_details: hcm::ForwardClientCertDetails::Sanitize.into(),
        upgrade_configs: vec![upgrade("websocket"), upgrade("CONNECT")],
        // Which service is called, and what it does with encoded slashes, is known after this: its ingress refuses them.
        path_with_escaped_slashes_action: hcm::PathWithEscapedSlashesAction::KeepUnchanged.into(),
        merge_slashes: slashes == Slashes::Merge,
        ..manager(&proxy.access_log, Hop::Egress)
    };
    let listener = Listener {
        name: EGRESS.to_owned(),
        address: listening_at(proxy.egress),
        traffic_direction: TrafficDirection::Outbound.into(),
        filter_chains: vec![chain(vec![http(&manager, Hop::Egress)], None)],
        ..Default::default()
    };
    Resource::new(type_url::LISTENER, EGRESS, &listener)
}

/// How long a client may take nothing of an answer that is there, so that none holds up an app for ever. Five minutes are Envoy's
/// own bound for idle streams.
const FLUSH: Duration = Duration::from_secs(300);

/// From accept to the end of the TLS handshake, so that silent connections do not pile up.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Mutual TLS from other sidecars, and plain text where the service takes it; each request (or TCP connection) is decided on, then goes to the app.
pub(crate) fn ingress(proxy: &Proxy, service: &Service, intent: &Intent) -> Arc<Resource> {
    let mesh = &intent.mesh;
    let trust_domains = std::iter::once(&mesh.trust_domain).chain(intent.trust_domains.keys());
    let (filters, alpn): (_, &[&str]) = match service.protocol {
        Protocol::Http | Protocol::Grpc => (vec![ingress_http(proxy, service, &mesh.policy)], &["h2", "http/1.1"]),
        Protocol::Tcp => (ingress_tcp(proxy, service), &[]),
    };
    let listener = Listener {
        name: INGRESS.to_owned(),
        address: listening_at(proxy.ingress),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![chain(filters, Some(tls::downstream(trust_domains, alpn)))],
        ..Default::default()
    };
    let listener = match service.mtls {
        Mtls::Strict => listener,
        Mtls::Permissive => permissive(listener),
    };
    Resource::new(type_url::LISTENER, INGRESS, &listener)
}

/// Takes plain text too: by the first bytes of a client the same filters serve it behind TLS, or without. Who sends nothing is closed.
fn permissive(mut listener: Listener) -> Listener {
    let by = |protocol: &str| Some(FilterChainMatch { transport_protocol: protocol.to_owned(), ..Default::default() });
    let plain: Vec<FilterChain> = listener
        .filter_chains
        .iter_mut()
        .map(|behind_tls| {
            behind_tls.filter_chain_match = by("tls");
            FilterChain { filter_chain_match: by("raw_buffer"), ..chain(behind_tls.filters.clone(), None) }
        })
        .collect();
    listener.filter_chains.extend(plain);
    let inspector = listener_filter::ConfigType::TypedConfig(any(&TlsInspector::default()));
    let name = "envoy.filters.listener.tls_inspector".to_owned();
    listener.listener_filters = vec![ListenerFilter { name, config_type: Some(inspector), ..Default::default() }];
    listener.listener_filters_timeout = duration(HANDSHAKE);
    listener
}

/// What a proxyless gRPC client asks for by the name in its `xds:///` target: routes by `routes`, and no socket.
pub(crate) fn for_grpc(name: &str, routes: &str) -> Arc<Resource> {
    let rds = Rds { config_source: ads(), route_config_name: routes.to_owned() };
    let manager = HttpConnectionManager {
        route_specifier: Some(hcm::RouteSpecifier::Rds(rds)),
        http_filters: vec![router()],
        ..Default::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        api_listener: Some(ApiListener { api_listener: Some(any(&manager)) }),
        ..Default::default()
    };
    Resource::new(type_url::LISTENER, name, &listener)
}

fn ingress_http(proxy: &Proxy, service: &Service, inputs: &PolicyInputs) -> Filter {
    let mut filters = vec![http_filter(HTTP_AUTHZ, &authz::of_requests(&service.authorization)), router()];
    if service.protocol == Protocol::Http {
        filters.insert(1, app_response());
    }
    let routes = RouteConfiguration {
        name: INGRESS.to_owned(),
        virtual_hosts: vec![route::to_app(service)],
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(hcm::RouteSpecifier::RouteConfig(routes)),
        http_filters: filters,
        // The caller's sidecar made the id; it is the same at both hops.
        preserve_external_request_id: true,
        forward_client_cert_details: hcm::ForwardClientCertDetails::SanitizeSet.into(),
        set_current_client_cert_details: Some(hcm::SetCurrentClientCertDetails { uri: true, ..Default::default() }),
        upgrade_configs: vec![upgrade("websocket")],
        early_header_mutation_extensions: vec![without_reserved_headers(&inputs.headers)],
        merge_slashes: service.paths.slashes == Slashes::Merge,
        path_with_escaped_slashes_action: match service.paths.escaped_slashes {
            EscapedSlashes::Reject => hcm::PathWithEscapedSlashesAction::RejectRequest.into(),
            EscapedSlashes::Keep => hcm::PathWithEscapedSlashesAction::KeepUnchanged.into(),
        },
        ..manager(&proxy.access_log, Hop::Ingress)
    };
    http(&manager, Hop::Ingress)
}

fn ingress_tcp(proxy: &Proxy, service: &Service) -> Vec<Filter> {
    let authz = authz::of_connections(&service.authorization);
    let forward = TcpProxy {
        stat_prefix: INGRESS.to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(names::inbound_cluster(service).to_string())),
        access_log: vec![access_log::json(&proxy.access_log, Hop::Ingress, TCP_AUTHZ)],
        // Envoy asks for a decision when the first bytes of the caller come, and would by then have passed on what an app says
        // first. So nothing is connected before; the price is that such protocols need our own proxy at the callee.
        upstream_connect_mode: UpstreamConnectMode::OnDownstreamData.into(),
        max_early_data_bytes: uint32(EARLY_DATA_BYTES),
        ..Default::default()
    };
    vec![network_filter(TCP_AUTHZ, any(&authz)), network_filter("envoy.filters.network.tcp_proxy", any(&forward))]
}

/// What holds for HTTP on both sides.
fn manager(access_log: &str, hop: Hop) -> HttpConnectionManager {
    let head = match hop {
        Hop::Egress => limits::FROM_APP,
        Hop::Ingress => limits::BETWEEN,
    };
    HttpConnectionManager {
        codec_type: hcm::CodecType::Auto.into(),
        stat_prefix: hop.listener().to_owned(),
        http_protocol_options: Some(Http1ProtocolOptions { accept_http_10: true, ..Default::default() }),
        http2_protocol_options: Some(Http2ProtocolOptions { allow_connect: true, ..Default::default() }),
        common_http_protocol_options: Some(head.of_requests()),
        max_request_headers_kb: uint32(head.kib),
        access_log: vec![access_log::json(access_log, hop, HTTP_AUTHZ)],
        tracing: Some(trace_context()),
        early_header_mutation_extensions: vec![without_reserved_headers(&[])],
        normalize_path: boolean(true),
        generate_request_id: boolean(true),
        // An app may refuse an upload by its head: nobody says 100 but the app (RFC 9110 s.10.1.1).
        proxy_100_continue: true,
        // The app's own `server` header, or none: the mesh is not what the caller talks to.
        server_header_transformation: hcm::ServerHeaderTransformation::PassThrough.into(),
        // Streams live as long as their ends want; the route's timeout is for requests.
        stream_idle_timeout: duration(Duration::ZERO),
        stream_flush_timeout: duration(FLUSH),
        proxy_status_config: Some(hcm::ProxyStatusConfig {
            proxy_name: Some(ProxyName::UseNodeId(true)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `traceparent` is made where a request has none, and carried on; nothing is sampled, so nothing is exported.
fn trace_context() -> hcm::Tracing {
    let provider = OpenTelemetryConfig { grpc_service: Some(agent_service()), ..Default::default() };
    hcm::Tracing {
        random_sampling: Some(Percent { value: 0.0 }),
        provider: Some(tracing::Http {
            name: "envoy.tracers.opentelemetry".to_owned(),
            config_type: Some(tracing::http::ConfigType::TypedConfig(any(&provider))),
        }),
        ..Default::default()
    }
}

/// Takes off what only the mesh may say, and what an app may take for a header that policies `read`.
fn without_reserved_headers(read: &[Arc<str>]) -> TypedExtensionConfig {
    let names = headers::IDENTITY.iter().chain(&headers::PATH).chain(&headers::STEERING).map(|name| (*name).to_owned());
    let of_callers =
        headers::IDENTITY.iter().chain(&headers::PATH).chain([&headers::CERTIFICATE, &headers::FAILED_OPEN]);
    let remove = |name| HeaderMutation { action: Some(header_mutation::Action::Remove(name)) };
    let of_policies = read.iter().flat_map(|name| headers::look_alikes(name));
    let of_policies = of_policies.filter(|name| read.iter().all(|read| **read != **name));
    let look_alikes = of_callers.flat_map(|name| headers::look_alikes(name)).chain(of_policies);
    let mutations = names.chain(look_alikes).map(remove).collect();
    let mutation = EarlyHeaderMutation { mutations };
    TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".to_owned(),
        typed_config: Some(any(&mutation)),
    }
}

fn upgrade(kind: &str) -> hcm::UpgradeConfig {
    hcm::UpgradeConfig { upgrade_type: kind.to_owned(), ..Default::default() }
}

/// For Envoy alone, so it is optional: our own data plane does the same by itself.
fn app_response() -> HttpFilter {
    let code = Specifier::InlineString(include_str!("app_response.lua").to_owned());
    let lua = Lua {
        default_source_code: Some(DataSource { specifier: Some(code), ..Default::default() }),
        ..Default::default()
    };
    HttpFilter { is_optional: true, ..http_filter("envoy.filters.http.lua", &lua) }
}

fn router() -> HttpFilter {
    http_filter("envoy.filters.http.router", &Router::default())
}

fn http_filter<M: Name + Message>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(config))),
        ..Default::default()
    }
}

/// The connection manager with the local replies, whose maps need an order, behind it: protobuf fields may come in any order.
fn http(manager: &HttpConnectionManager, hop: Hop) -> Filter {
    let mut config = any(manager);
    let tail = wire::HttpConnectionManagerTail { local_reply_config: Some(local_reply::config(hop)) };
    config.value.extend_from_slice(&tail.encode_to_vec());
    network_filter("envoy.filters.network.http_connection_manager", config)
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(config)) }
}

fn chain(filters: Vec<Filter>, transport_socket: Option<TransportSocket>) -> FilterChain {
    let handshake = transport_socket.as_ref().and_then(|_| duration(HANDSHAKE));
    FilterChain { filters, transport_socket, transport_socket_connect_timeout: handshake, ..Default::default() }
}
