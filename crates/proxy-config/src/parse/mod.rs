//! From Envoy's messages to our values. One file a kind of resource; [`strict`] is the rule that nothing is ignored.
//!
//! Where a field is not given, Envoy's default holds, with these exceptions: no `server` header is written, TLS is never
//! resumed (an expired or withdrawn certificate must count at the next connection), and neither idleness nor what is
//! under way has a bound (`idle_timeout`, `stream_idle_timeout`, `circuit_breakers`); bounds that are given are refused.

pub(crate) mod access_log;
mod authz;
pub(crate) mod cluster;
pub(crate) mod endpoint;
pub(crate) mod http;
mod limits;
pub(crate) mod listener;
mod local_reply;
mod permissive;
pub(crate) mod route;
pub(crate) mod strict;
mod tls;
mod wire;

use std::collections::HashMap;
use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{
    Address, ApiVersion, ConfigSource, GrpcService, address::Address as AddressKind, api_config_source::ApiType,
    config_source::ConfigSourceSpecifier, grpc_service::TargetSpecifier, socket_address::PortSpecifier,
};

use self::strict::{Path, Refused, required};
use super::cluster::{ClusterId, ClusterRef};
use super::listener::RouteRef;

/// Numbers for names, given once and kept.
#[derive(Debug, Default)]
pub(crate) struct Names {
    clusters: HashMap<Arc<str>, u32>,
    routes: HashMap<Arc<str>, u32>,
}

impl Names {
    /// The reference to a cluster of this name.
    pub(crate) fn cluster(&mut self, name: &str) -> ClusterRef {
        let (name, id) = number(&mut self.clusters, name);
        let service = name.rsplit('|').next().unwrap_or_default().into();
        ClusterRef { name, id: ClusterId(id), service }
    }

    /// The reference to a route configuration of this name.
    pub(crate) fn route(&mut self, name: &str) -> RouteRef {
        let (name, id) = number(&mut self.routes, name);
        RouteRef { name, id }
    }

    /// How many names of clusters there are.
    pub(crate) fn clusters(&self) -> usize {
        self.clusters.len()
    }

    /// How many names of route configurations there are.
    pub(crate) fn routes(&self) -> usize {
        self.routes.len()
    }
}

fn number(known: &mut HashMap<Arc<str>, u32>, name: &str) -> (Arc<str>, u32) {
    if let Some((name, id)) = known.get_key_value(name) {
        return (name.clone(), *id);
    }
    let (name, id): (Arc<str>, _) = (name.into(), known.len() as u32);
    known.insert(name.clone(), id);
    (name, id)
}

/// The cluster that Envoy reaches its agent by. To us it means: the live identity, and the policy engine of this
/// process.
const AGENT: &str = "weft_agent";

/// A TCP address with a numeric host.
fn socket_address(given: Option<Address>, at: &Path<'_>) -> Result<SocketAddr, Refused> {
    let kind = required(required(given, at)?.address, at)?;
    let AddressKind::SocketAddress(mut socket) = kind else {
        return Err(at.refuse("only socket_address is supported by this proxy"));
    };
    let at = &at.field("socket_address");
    let host = take(&mut socket.address);
    let host: IpAddr = host
        .parse()
        .map_err(|_| at.field("address").refuse(format!("`{}` is not an IP address", host.escape_debug())))?;
    let port = match socket.port_specifier.take() {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(port).map_err(|_| at.field("port_value").refuse(format!("{port} is not a port")))?
        }
        Some(PortSpecifier::NamedPort(_)) => return Err(at.field("named_port").refuse(strict::NOT_SUPPORTED)),
        None => return Err(at.field("port_value").refuse("required")),
    };
    at.rest(&socket)?;
    Ok(SocketAddr::new(host, port))
}

/// Requires that a resource comes over the stream that this proxy has (`ads`).
fn from_ads(given: Option<ConfigSource>, at: &Path<'_>) -> Result<(), Refused> {
    let mut source = required(given, at)?;
    v3(&mut source.resource_api_version, &at.field("resource_api_version"))?;
    source.initial_fetch_timeout = None; // what to do when it passes without an answer: nothing here waits for it
    match source.config_source_specifier {
        None => return Err(at.refuse("only ads is supported by this proxy")),
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => source.config_source_specifier = None,
        Some(_) => {}
    }
    at.rest(&source)
}

/// Requires that secrets come from the agent, which is this process.
fn from_agent(given: Option<ConfigSource>, at: &Path<'_>) -> Result<(), Refused> {
    let mut source = required(given, at)?;
    let Some(ConfigSourceSpecifier::ApiConfigSource(api)) = &mut source.config_source_specifier else {
        return from_ads(Some(source), at);
    };
    {
        let at = &at.field("api_config_source");
        if matches!(ApiType::try_from(api.api_type), Ok(ApiType::Grpc | ApiType::DeltaGrpc)) {
            api.api_type = 0;
        }
        v3(&mut api.transport_api_version, &at.field("transport_api_version"))?;
        api.set_node_on_first_message_only = false;
        let services = take(&mut api.grpc_services);
        if services.len() != 1 {
            return Err(at.field("grpc_services").refuse("must be one service"));
        }
        for service in services {
            to_agent(service, &at.field("grpc_services").index(0))?;
        }
        at.rest(api)?;
    }
    v3(&mut source.resource_api_version, &at.field("resource_api_version"))?;
    source.initial_fetch_timeout = None;
    source.config_source_specifier = None;
    at.rest(&source)
}

/// Requires that a question goes to the agent, which is this process. It answers at once, so no timeout is needed.
fn to_agent(mut service: GrpcService, at: &Path<'_>) -> Result<(), Refused> {
    service.timeout = None;
    if service.target_specifier.is_none() {
        return Err(at.field("envoy_grpc").refuse("required"));
    }
    if let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &mut service.target_specifier {
        let at = &at.field("envoy_grpc");
        if take(&mut grpc.cluster_name) != AGENT {
            return Err(at.field("cluster_name").refuse(format!("only {AGENT} is supported by this proxy")));
        }
        at.rest(grpc)?;
        service.target_specifier = None;
    }
    at.rest(&service)
}

fn v3(version: &mut i32, at: &Path<'_>) -> Result<(), Refused> {
    match ApiVersion::try_from(take(version)) {
        Ok(ApiVersion::V3 | ApiVersion::Auto) => Ok(()),
        _ => Err(at.refuse("only V3 is supported by this proxy")),
    }
}
