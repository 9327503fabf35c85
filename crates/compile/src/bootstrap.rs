//! What a stock Envoy needs before it can ask for anything: who it is, and the Unix socket of the agent next door.
//!
//! Everything else comes over that socket: ADS (LDS, RDS, CDS, EDS), SDS and the authorization service. How many workers Envoy runs
//! is an argument (`--concurrency`), not part of this file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_model::ServiceName;

use crate::pb::{AGENT_CLUSTER, is_of_both_families};

/// `sun_path` has 108 bytes with its final NUL (`unix(7)`).
const MAX_SOCKET_PATH: usize = 107;

/// Connections from outside that one Envoy takes at most; without a bound it would run out of file descriptors or memory first.
const MAX_DOWNSTREAM_CONNECTIONS: u32 = 50_000;

/// What one Envoy is started with.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// `node.id`, like `prod/board~k3x9`.
    pub node_id: String,
    /// `node.cluster`.
    pub service: ServiceName,
    /// `node.metadata`, an object.
    pub metadata: Value,
    /// Unix socket on which the agent serves ADS, SDS and ext_authz.
    pub agent: PathBuf,
    /// Where Envoy's admin endpoint listens.
    pub admin: SocketAddr,
}

/// Why there is no bootstrap.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The kernel takes no longer path.
    #[error("the agent's socket {0} has a path of more than {MAX_SOCKET_PATH} bytes; choose a shorter state directory")]
    SocketPath(PathBuf),
    /// Envoy's configuration is text.
    #[error("the agent's socket {0:?} is not UTF-8; choose another state directory")]
    NotText(PathBuf),
}

/// The bootstrap as JSON, for `envoy --config-path FILE.json`.
pub fn envoy(bootstrap: &Bootstrap) -> Result<String, BootstrapError> {
    let Bootstrap { node_id, service, metadata, agent, admin } = bootstrap;
    let agent = socket_path(agent)?;
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let document = json!({
        "node": {"id": node_id, "cluster": service, "metadata": metadata},
        "admin": {"address": {"socket_address": {"address": admin.ip().to_string(), "port_value": admin.port(), "ipv4_compat": is_of_both_families(*admin)}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": AGENT_CLUSTER}}],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {"clusters": [agent_cluster(agent)]},
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_DOWNSTREAM_CONNECTIONS,
            },
        }]},
    });
    Ok(format!("{document:#}\n"))
}

fn agent_cluster(socket: &str) -> Value {
    json!({
        "name": AGENT_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
        "load_assignment": {
            "cluster_name": AGENT_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
    })
}

fn socket_path(path: &Path) -> Result<&str, BootstrapError> {
    let text = path.to_str().ok_or_else(|| BootstrapError::NotText(path.to_owned()))?;
    if text.len() > MAX_SOCKET_PATH {
        return Err(BootstrapError::SocketPath(path.to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_agent(agent: &str) -> Bootstrap {
        Bootstrap {
            node_id: "prod/board~k3x9".to_owned(),
            service: "prod/board".parse().unwrap(),
            metadata: json!({"weft": {"service": "prod/board"}}),
            agent: agent.into(),
            admin: ([127, 0, 0, 1], 15000).into(),
        }
    }

    #[test]
    fn a_bootstrap_knows_the_node_and_the_agent_and_nothing_else() {
        insta::assert_snapshot!(envoy(&with_agent("/run/weft/agent.sock")).unwrap());
    }

    #[test]
    fn a_socket_that_the_kernel_would_refuse_is_refused_with_advice() {
        let error = envoy(&with_agent(&format!("/{}", "x".repeat(MAX_SOCKET_PATH)))).unwrap_err();
        assert!(error.to_string().contains("shorter state directory"), "{error}");
        assert!(envoy(&with_agent(&format!("/{}", "x".repeat(MAX_SOCKET_PATH - 1)))).is_ok());
    }
}
