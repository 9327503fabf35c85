//! ext_authz, of requests and of connections.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{GrpcService, grpc_service::TargetSpecifier};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    BufferSettings, ExtAuthz as OfRequests, ext_authz::Services,
};
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as OfConnections;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use http::StatusCode;

use super::strict::{NOT_SUPPORTED, Path, Refused, bound, named, required};
use super::{AGENT, Names, to_agent, v3};
use crate::authz::{Authorizer, AuthzServer, BodyShown};
use crate::cluster::ClusterRef;

/// Envoy's.
const TIMEOUT: Duration = Duration::from_millis(200);

/// The HTTP filter.
pub(crate) fn of_requests(mut given: OfRequests, at: &Path<'_>, names: &mut Names) -> Result<Authorizer, Refused> {
    given.stat_prefix.clear(); // the listener's is used
    v3(&mut given.transport_api_version, &at.field("transport_api_version"))?;
    let service = match given.services.take() {
        Some(Services::GrpcService(service)) => service,
        Some(Services::HttpService(_)) => return Err(at.field("http_service").refuse(NOT_SUPPORTED)),
        None => return Err(at.field("grpc_service").refuse("required")),
    };
    let at_service = &at.field("grpc_service");
    let include_tls_session = take(&mut given.include_tls_session); // the engine sees it anyway
    let Some((cluster, timeout)) = server(service, at_service, names)? else {
        given.status_on_error = None; // the policy engine of this process always answers
        given.include_peer_certificate = false;
        at.rest(&given)?;
        return Ok(Authorizer::Engine);
    };
    given.clear_route_cache = false; // a route is chosen after the answer in any case
    let server = AuthzServer {
        cluster,
        timeout,
        fail_open: take(&mut given.failure_mode_allow),
        tells_fail_open: take(&mut given.failure_mode_allow_header_add),
        status_on_error: status(given.status_on_error.take(), &at.field("status_on_error"))?,
        include_tls_session,
        body: given.with_request_body.take().map(|given| body(given, &at.field("with_request_body"))).transpose()?,
    };
    at.rest(&given)?;
    Ok(Authorizer::Server(server))
}

/// The network filter.
pub(crate) fn of_connections(
    mut given: OfConnections,
    at: &Path<'_>,
    names: &mut Names,
) -> Result<Authorizer, Refused> {
    given.stat_prefix.clear(); // the prefix of what serves the connection is used
    v3(&mut given.transport_api_version, &at.field("transport_api_version"))?;
    let at_service = &at.field("grpc_service");
    let service = required(given.grpc_service.take(), at_service)?;
    let include_tls_session = take(&mut given.include_tls_session);
    let Some((cluster, timeout)) = server(service, at_service, names)? else {
        given.include_peer_certificate = false;
        at.rest(&given)?;
        return Ok(Authorizer::Engine);
    };
    let server = AuthzServer {
        cluster,
        timeout,
        fail_open: take(&mut given.failure_mode_allow),
        tells_fail_open: false, // bytes have no fields
        status_on_error: StatusCode::FORBIDDEN,
        include_tls_session,
        body: None,
    };
    at.rest(&given)?;
    Ok(Authorizer::Server(server))
}

/// Which cluster is asked, and how long it may take; `None` is the agent, which is this process.
fn server(
    mut service: GrpcService,
    at: &Path<'_>,
    names: &mut Names,
) -> Result<Option<(ClusterRef, Option<Duration>)>, Refused> {
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &mut service.target_specifier else {
        to_agent(service, at)?; // refuses it
        return Ok(None);
    };
    if grpc.cluster_name == AGENT {
        to_agent(service, at)?;
        return Ok(None);
    }
    let at_grpc = &at.field("envoy_grpc");
    let cluster = names.cluster(&named(&mut grpc.cluster_name, &at_grpc.field("cluster_name"))?);
    at_grpc.rest(grpc)?;
    service.target_specifier = None;
    let timeout = bound(service.timeout.take(), TIMEOUT, &at.field("timeout"))?;
    at.rest(&service)?;
    Ok(Some((cluster, timeout)))
}

fn body(mut given: BufferSettings, at: &Path<'_>) -> Result<BodyShown, Refused> {
    let most = usize::try_from(take(&mut given.max_request_bytes)).unwrap_or(usize::MAX);
    if most == 0 {
        return Err(at.field("max_request_bytes").refuse("must be greater than 0"));
    }
    let shown =
        BodyShown { most, in_part: take(&mut given.allow_partial_message), as_bytes: take(&mut given.pack_as_bytes) };
    at.rest(&given)?;
    Ok(shown)
}

fn status(given: Option<HttpStatus>, at: &Path<'_>) -> Result<StatusCode, Refused> {
    let Some(HttpStatus { code }) = given else { return Ok(StatusCode::FORBIDDEN) };
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    status
        .filter(|status| status.as_u16() >= 200)
        .ok_or_else(|| at.field("code").refuse(format!("{code} is no status of an answer")))
}
