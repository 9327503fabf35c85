//! Who is asked whether a call is allowed: the agent next door, or the control plane's ext_authz.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{self as http, ext_authz::Services};
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3 as tcp;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use weft_model::TrustDomain;
use weft_model::intent::{Authorization, DecidedBy, Service};
use weft_xds::Resource;

use crate::hop::INGRESS;
use crate::local_reply::NO_DECISION;
use crate::pb::{AGENT_CLUSTER, grpc_service};
use crate::{Proxy, cluster};

/// The cluster that leads to the control plane's ext_authz, over mutual TLS.
pub const AUTHZ_CLUSTER: &str = "weft_authz";

/// Envoy's question to its agent next door, which answers from memory within a millisecond. Envoy's own 200 ms are less than a busy
/// machine may take to run the agent at all (two cores under a load of ten: just over a second), and each such pause would fail
/// calls; after five seconds the agent is rather stuck than slow. An agent that is gone is told at once. It is far below the 15 s
/// that a route allows, so that the caller is told the cause and not that its time ran out.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);

fn asked(authorization: &Authorization) -> GrpcService {
    match authorization.by {
        DecidedBy::Sidecar => grpc_service(AGENT_CLUSTER, Some(AGENT_TIMEOUT)),
        DecidedBy::Server => grpc_service(AUTHZ_CLUSTER, Some(authorization.timeout)),
    }
}

/// About each request.
pub(crate) fn of_requests(authorization: &Authorization) -> http::ExtAuthz {
    http::ExtAuthz {
        services: Some(Services::GrpcService(asked(authorization))),
        transport_api_version: ApiVersion::V3.into(),
        status_on_error: Some(HttpStatus { code: NO_DECISION.into() }),
        include_tls_session: true,
        failure_mode_allow: authorization.fail_open,
        // The app, and the log, are told of each call that nobody decided on.
        failure_mode_allow_header_add: authorization.fail_open,
        ..Default::default()
    }
}

/// About each connection of a TCP service.
pub(crate) fn of_connections(authorization: &Authorization) -> tcp::ExtAuthz {
    tcp::ExtAuthz {
        stat_prefix: INGRESS.to_owned(),
        grpc_service: Some(asked(authorization)),
        transport_api_version: ApiVersion::V3.into(),
        include_tls_session: true,
        failure_mode_allow: authorization.fail_open,
        ..Default::default()
    }
}

/// The control plane's ext_authz. Also for a sidecar that decides by itself now: connections that were open when that changed ask it until
/// their listener has drained. `None` for one that has not said where it is and need not know.
pub(crate) fn server(proxy: &Proxy, service: &Service, trust_domain: &TrustDomain) -> Option<Arc<Resource>> {
    let is_needed = proxy.authz.is_some() || service.authorization.by == DecidedBy::Server;
    is_needed.then(|| cluster::control_plane(AUTHZ_CLUSTER, trust_domain, proxy.authz))
}
