//! LDS: `Listener`, and TCP.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Address, TrafficDirection, address::Address as AddressKind};
use envoy_types::pb::envoy::config::listener::v3::{self as pb, filter::ConfigType};
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy, UpstreamConnectMode, tcp_proxy::ClusterSpecifier,
};
use envoy_types::pb::google::protobuf::Any;

use super::permissive::{inspection, plain_text};
use super::strict::{NOT_SUPPORTED, Path, Refused, boolean, bound, holds, named, unbounded};
use super::{Names, access_log, authz, http, socket_address, tls};
use crate::authz::Authorizer;
use crate::listener::{Direction, Listener, ListenerKind, TcpListener};
use crate::log_format::LogFormat;

/// As long as our own compile gives.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a chain of network filters says.
pub(crate) type Chain = (ListenerKind, Option<std::sync::Arc<LogFormat>>);

/// Whether `[::]` stands for both families; what says so is taken out.
fn both_families(address: &mut Option<Address>) -> bool {
    match address.as_mut().and_then(|address| address.address.as_mut()) {
        Some(AddressKind::SocketAddress(socket)) if socket.address == "::" => take(&mut socket.ipv4_compat),
        _ => false,
    }
}

/// One listener.
pub(crate) fn listener(mut given: pb::Listener, at: &Path<'_>, names: &mut Names) -> Result<Listener, Refused> {
    let name = named(&mut given.name, &at.field("name"))?;
    let is_compatible = both_families(&mut given.address);
    let address = socket_address(given.address.take(), &at.field("address"))?;
    if address.is_ipv6() && address.ip().is_unspecified() && !is_compatible {
        let address = at.field("address");
        let at = address.field("socket_address");
        return Err(at.field("ipv4_compat").refuse("must be true at [::]: this proxy listens there for both families"));
    }
    let direction = TrafficDirection::try_from(take(&mut given.traffic_direction));
    // Each worker listens on a socket of its own, in any case.
    if boolean(given.enable_reuse_port, true) {
        given.enable_reuse_port = None;
    }
    if boolean(given.bind_to_port, true) {
        given.bind_to_port = None;
    }
    let at_chains = at.field("filter_chains");
    let permissive = inspection(&mut given, at)?;
    let mut chains = take(&mut given.filter_chains);
    at.rest(&given)?;
    if permissive.is_some() {
        plain_text(&mut chains, &at_chains)?;
    }
    let (Some(mut chain), true) = (chains.pop(), chains.is_empty()) else {
        return Err(at_chains.refuse("must be one chain"));
    };
    let at_chain = &at_chains.index(0);
    chain.name.clear(); // for people
    if chain.filter_chain_match == Some(Default::default()) {
        chain.filter_chain_match = None;
    }
    let tls = tls::downstream(chain.transport_socket.take(), &at_chain.field("transport_socket"))?;
    let at_handshake = at_chain.field("transport_socket_connect_timeout");
    if permissive.is_some() && tls.is_none() {
        return Err(at_chain.field("transport_socket").refuse("required where TLS is inspected"));
    }
    let handshake_timeout = bound(chain.transport_socket_connect_timeout.take(), HANDSHAKE_TIMEOUT, &at_handshake)?;
    let (kind, access_log) = filters(take(&mut chain.filters), &at_chain.field("filters"), names)?;
    at_chain.rest(&chain)?;
    let direction = match direction {
        Ok(TrafficDirection::Inbound) => Direction::Inbound,
        Ok(TrafficDirection::Outbound) => Direction::Outbound,
        Ok(TrafficDirection::Unspecified) if tls.is_some() => Direction::Inbound,
        Ok(TrafficDirection::Unspecified) => Direction::Outbound,
        Err(_) => return Err(at.field("traffic_direction").refuse(NOT_SUPPORTED)),
    };
    Ok(Listener { name, address, direction, tls, permissive, handshake_timeout, kind, access_log })
}

/// Optionally the authorization of connections, then what serves them.
fn filters(given: Vec<pb::Filter>, at: &Path<'_>, names: &mut Names) -> Result<Chain, Refused> {
    let last = given.len().checked_sub(1).ok_or_else(|| at.refuse("must not be empty"))?;
    let mut authorize = None;
    for (index, mut filter) in given.into_iter().enumerate() {
        let at = &at.index(index);
        filter.name.clear(); // the type says what it is
        let at_config = &at.field("typed_config");
        let Some(ConfigType::TypedConfig(config)) =
            filter.config_type.take_if(|c| matches!(c, ConfigType::TypedConfig(_)))
        else {
            at.rest(&filter)?;
            return Err(at_config.refuse("required"));
        };
        if index < last {
            if !holds::<ExtAuthz>(&config) {
                return Err(at_config.refuse_type(&config));
            }
            let authorizer = at_config.any(&config, |filter, at| authz::of_connections(filter, at, names))?;
            if authorize.is_some() {
                return Err(at.refuse("this proxy asks one authorization server, not several"));
            }
            authorize = authorizer;
            continue;
        }
        if holds::<HttpConnectionManager>(&config) && authorize.is_some() {
            return Err(at.refuse("connections of HTTP are authorized by request: use an HTTP filter"));
        }
        return serve(&config, at_config, authorize, names);
    }
    Err(at.refuse("must not be empty"))
}

fn serve(config: &Any, at: &Path<'_>, authorize: Option<Authorizer>, names: &mut Names) -> Result<Chain, Refused> {
    if let Some((http, log)) = at.any(config, |manager, at| http::manager(manager, at, names))? {
        return Ok((ListenerKind::Http(http), log));
    }
    if let Some((tcp, log)) = at.any(config, |proxy, at| tcp_proxy(proxy, at, authorize, names))? {
        return Ok((ListenerKind::Tcp(tcp), log));
    }
    Err(at.refuse_type(config))
}

fn tcp_proxy(
    mut given: TcpProxy,
    at: &Path<'_>,
    authorize: Option<Authorizer>,
    names: &mut Names,
) -> Result<(TcpListener, Option<std::sync::Arc<LogFormat>>), Refused> {
    let log = access_log::only(take(&mut given.access_log), &at.field("access_log"))?;
    let stat_prefix = named(&mut given.stat_prefix, &at.field("stat_prefix"))?;
    unbounded(given.idle_timeout.take(), &at.field("idle_timeout"))?;
    if authorize.is_some() && given.upstream_connect_mode == UpstreamConnectMode::OnDownstreamData as i32 {
        // It means that nothing may be connected before the decision. Ours is made when the handshake is done.
        given.upstream_connect_mode = 0;
        given.max_early_data_bytes = None;
    }
    let cluster = match given.cluster_specifier.take() {
        Some(ClusterSpecifier::Cluster(mut name)) => names.cluster(&named(&mut name, &at.field("cluster"))?),
        Some(ClusterSpecifier::WeightedClusters(_)) => return Err(at.field("weighted_clusters").refuse(NOT_SUPPORTED)),
        None => return Err(at.field("cluster").refuse("required")),
    };
    at.rest(&given)?;
    Ok((TcpListener { cluster, authorize, stat_prefix }, log))
}
