//! Stock Envoy as both sidecars, with static bootstraps that do what Weft's sidecars do: HTTP/1.1 from the client, mutual TLS 1.3
//! with HTTP/2 between the sidecars, peers checked by SPIFFE ID, RBAC on the ingress, a JSON access-log line at each hop.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use weft_tests::pki::{Authority, Pair};
use weft_tests::process::Process;
use weft_tests::{peers, ports, wait};

const CLIENT: &str = "spiffe://bench.internal/ns/bench/sa/client";
const SERVER: &str = "spiffe://bench.internal/ns/bench/sa/app";

/// The running pair.
pub(crate) struct Envoys {
    pub(crate) egress: SocketAddr,
    pub(crate) processes: Vec<Process>,
}

/// Starts both, under the program and arguments of `under` if any, and waits until they listen.
pub(crate) fn start(folder: &Path, app: SocketAddr, under: &[String]) -> Result<Envoys> {
    let ca = Authority::create(folder, "ca", "bench.internal");
    let client = ca.issue("client", CLIENT, 2);
    let server = ca.issue("server", SERVER, 2);
    let (egress, ingress) = (ports::free(), ports::free());
    let processes = vec![
        one(folder, "envoy-egress", &egress_config(folder, egress, ingress, ca.certificate(), &client), under)?,
        one(folder, "envoy-ingress", &ingress_config(folder, ingress, app, ca.certificate(), &server), under)?,
    ];
    for address in [egress, ingress] {
        wait::until("Envoy to listen", if under.is_empty() { wait::SOON } else { wait::SLOW }, || {
            std::net::TcpStream::connect(address)
        });
    }
    Ok(Envoys { egress, processes })
}

fn one(folder: &Path, name: &str, config: &Value, under: &[String]) -> Result<Process> {
    let path = folder.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(config)?)?;
    let path = path.display().to_string();
    let args = ["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning", "-c", &path];
    Ok(Process::start_under(under, folder, name, peers::venv("envoy"), args, &[]))
}

fn egress_config(folder: &Path, listen: SocketAddr, ingress: SocketAddr, ca: &Path, own: &Pair) -> Value {
    let manager = json!({
        "@type": HCM,
        "stat_prefix": "egress",
        "codec_type": "AUTO",
        "normalize_path": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "access_log": [access_log(folder, "envoy-egress")],
        "route_config": {"virtual_hosts": [{
            "name": "app", "domains": ["app.bench"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "15s"}}]
        }]},
        "http_filters": [router()],
    });
    let upstream_tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "app.bench",
            "common_tls_context": common_tls(ca, own, json!({"exact": SERVER})),
        }
    });
    let mut cluster = cluster(ingress);
    cluster["transport_socket"] = upstream_tls;
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}
        }
    });
    bootstrap(listen, manager, None, cluster)
}

fn ingress_config(folder: &Path, listen: SocketAddr, app: SocketAddr, ca: &Path, own: &Pair) -> Value {
    let rbac = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {"client": {
                "permissions": [{"any": true}],
                "principals": [{"authenticated": {"principal_name": {"exact": CLIENT}}}]
            }}}
        }
    });
    let manager = json!({
        "@type": HCM,
        "stat_prefix": "ingress",
        "codec_type": "AUTO",
        "normalize_path": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "preserve_external_request_id": true,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"uri": true},
        "access_log": [access_log(folder, "envoy-ingress")],
        "route_config": {"virtual_hosts": [{
            "name": "app", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next", "timeout": "15s"}}]
        }]},
        "http_filters": [rbac, router()],
    });
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": common_tls(ca, own, json!({"prefix": "spiffe://bench.internal/"})),
        }
    });
    bootstrap(listen, manager, Some(tls), cluster(app))
}

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

fn router() -> Value {
    json!({"name": "envoy.filters.http.router",
           "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
}

fn common_tls(ca: &Path, own: &Pair, peer: Value) -> Value {
    json!({
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{
            "certificate_chain": {"filename": own.certificate}, "private_key": {"filename": own.key}
        }],
        "validation_context": {
            "trusted_ca": {"filename": ca},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}]
        }
    })
}

fn cluster(address: SocketAddr) -> Value {
    json!({
        "name": "next", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "next", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": socket(address)}}
        ]}]}
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

fn bootstrap(listen: SocketAddr, manager: Value, tls: Option<Value>, cluster: Value) -> Value {
    let mut chain =
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"static_resources": {
        "listeners": [{"name": "in", "address": socket(listen), "filter_chains": [chain]}],
        "clusters": [cluster],
    }})
}

/// Istio's 24 keys, buffered by Envoy and written to a file.
fn access_log(folder: &Path, name: &str) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": folder.join(format!("{name}.access.json")),
            "log_format": {"json_format": {
                "start_time": "%START_TIME%",
                "route_name": "%ROUTE_NAME%",
                "method": "%REQ(:METHOD)%",
                "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                "protocol": "%PROTOCOL%",
                "response_code": "%RESPONSE_CODE%",
                "response_flags": "%RESPONSE_FLAGS%",
                "response_code_details": "%RESPONSE_CODE_DETAILS%",
                "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
                "bytes_received": "%BYTES_RECEIVED%",
                "bytes_sent": "%BYTES_SENT%",
                "duration": "%DURATION%",
                "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
                "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
                "user_agent": "%REQ(USER-AGENT)%",
                "request_id": "%REQ(X-REQUEST-ID)%",
                "authority": "%REQ(:AUTHORITY)%",
                "upstream_host": "%UPSTREAM_HOST%",
                "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
                "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
                "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
                "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
                "requested_server_name": "%REQUESTED_SERVER_NAME%",
                "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%"
            }}
        }
    })
}
