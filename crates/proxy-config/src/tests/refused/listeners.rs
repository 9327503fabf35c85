//! Listeners, their TLS, and TCP.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;

use super::http::in_hcm;
use super::*;

fn downstream(change: fn(&mut DownstreamTlsContext)) -> impl FnOnce(&mut pb_listener::Listener) {
    move |listener| match &mut listener.filter_chains[0].transport_socket.as_mut().unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => inside(any, change),
        _ => unreachable!(),
    }
}

#[test]
fn listeners() {
    use pb_listener::Listener;
    let rows = vec![
        row(|_: &mut Listener| (), ACCEPTED),
        row(|l: &mut Listener| l.enable_reuse_port = Some(BoolValue { value: true }), ACCEPTED),
        row(|l: &mut Listener| l.enable_reuse_port = Some(BoolValue { value: false }), ".enable_reuse_port: NS"),
        row(|l: &mut Listener| l.traffic_direction = 7, ".traffic_direction: NS"),
        row(
            |l: &mut Listener| l.listener_filters = vec![Default::default()],
            ".listener_filters[0].typed_config: required",
        ),
        row(|l: &mut Listener| l.listener_filters_timeout = Some(Default::default()), ".listener_filters_timeout: NS"),
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
fn permissive() {
    use pb_listener::{FilterChainMatch, Listener, ListenerFilter, listener_filter};

    /// As it is compiled of a permissive service, with one thing changed.
    fn with(change: fn(&mut Listener)) -> impl FnOnce(&mut Listener) {
        move |listener| {
            let by = |protocol: &str| {
                Some(FilterChainMatch { transport_protocol: protocol.to_owned(), ..Default::default() })
            };
            let inspector = listener_filter::ConfigType::TypedConfig(any(&TlsInspector::default()));
            listener.listener_filters = vec![ListenerFilter { config_type: Some(inspector), ..Default::default() }];
            listener.filter_chains[0].filter_chain_match = by("tls");
            let mut plain = listener.filter_chains[0].clone();
            plain.filter_chain_match = by("raw_buffer");
            (plain.transport_socket, plain.transport_socket_connect_timeout) = (None, None);
            listener.filter_chains.push(plain);
            change(listener);
        }
    }
    fn of(change: fn(&mut TlsInspector)) -> impl FnOnce(&mut Listener) {
        move |listener| {
            with(|_| ())(listener);
            match &mut listener.listener_filters[0].config_type {
                Some(listener_filter::ConfigType::TypedConfig(any)) => inside(any, change),
                _ => unreachable!(),
            }
        }
    }
    const CHAINS: &str =
        ".filter_chains: must be one chain that matches transport_protocol tls, and one for raw_buffer";
    let rows = vec![
        row(with(|_| ()), ACCEPTED),
        row(with(|l| l.filter_chains.reverse()), ACCEPTED),
        row(with(|l| l.filter_chains[1].name = "plain".into()), ACCEPTED),
        row(with(|l| l.listener_filters_timeout = Some(Default::default())), ACCEPTED),
        row(with(|l| l.continue_on_listener_filters_timeout = true), ".continue_on_listener_filters_timeout: NS"),
        row(with(|l| l.listener_filters.push(Default::default())), ".listener_filters: must be one filter"),
        row(
            with(|l| l.listener_filters[0].filter_disabled = Some(Default::default())),
            ".listener_filters[0].filter_disabled: NS",
        ),
        row(
            with(|l| {
                let other = listener_filter::ConfigType::TypedConfig(any(&TcpProxy::default()));
                l.listener_filters[0].config_type = Some(other);
            }),
            ".listener_filters[0].typed_config(TcpProxy): NS",
        ),
        row(
            of(|inspector| inspector.enable_ja3_fingerprinting = Some(BoolValue { value: true })),
            ".listener_filters[0].typed_config(TlsInspector).enable_ja3_fingerprinting: NS",
        ),
        row(with(|l| drop(l.filter_chains.pop())), CHAINS),
        row(with(|l| l.filter_chains.push(Default::default())), CHAINS),
        row(with(|l| l.filter_chains[1].filter_chain_match = None), CHAINS),
        row(
            with(|l| l.filter_chains[0].transport_socket = None),
            ".filter_chains[0].transport_socket: required where TLS is inspected",
        ),
        row(
            with(|l| l.filter_chains[1].transport_socket = l.filter_chains[0].transport_socket.clone()),
            ".filter_chains[1].transport_socket: must not be TLS",
        ),
        row(
            with(|l| l.filter_chains[1].filters.clear()),
            ".filter_chains[1].filters: must be those of the chain for TLS",
        ),
        row(with(|l| l.filter_chains[1].metadata = Some(Default::default())), ".filter_chains[1].metadata: NS"),
    ];
    check("prod/web", type_url::LISTENER, "ingress", rows);
}

#[test]
fn downstream_tls() {
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
