//! Envoy's external authorization (ext_authz v3) answered by the mesh's policies, so that a stock Envoy as sidecar decides as
//! our own does.
//!
//! A check is read (`call`), decided by the callee's [`Engine`] or from the memory of what that decided, answered (`answer`) and,
//! when denied, logged. Without an engine, or when a check cannot be read, the answer is a denial.

mod answer;
mod call;
mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tonic::{Request, Response, Status};
use weft_model::SpiffeId;
use weft_policy::Engine;
use weft_telemetry::Failure;
use weft_xds::ConnectPeer;

use crate::answer::Verdict;
use crate::call::Call;
use crate::memory::Memory;

/// Where the policies of a callee are found.
pub trait EngineSource: Send + Sync + 'static {
    /// The engine of the service whose sidecar asks; `callee` is the identity of that sidecar's own certificate, if it says.
    /// `None` denies.
    fn engine(&self, callee: Option<&SpiffeId>) -> Option<Arc<Engine>>;
}

impl<F: Fn(Option<&SpiffeId>) -> Option<Arc<Engine>> + Send + Sync + 'static> EngineSource for F {
    fn engine(&self, callee: Option<&SpiffeId>) -> Option<Arc<Engine>> {
        self(callee)
    }
}

/// A check is at most so long, in bytes. Of a request's body, which an Envoy sends along if it is told to (`with_request_body`), no policy
/// reads anything: it is taken and ignored. A longer check fails with `OUT_OF_RANGE`, so the call is not let through.
const CHECK_MAX: usize = 4 * 1024 * 1024;

/// The `envoy.service.auth.v3.Authorization` service.
pub struct ExtAuthz<S> {
    engines: S,
    memory: Memory,
}

impl<S: EngineSource> ExtAuthz<S> {
    /// Decides with the engines of `engines`.
    pub fn new(engines: S) -> Self {
        Self { engines, memory: Memory::default() }
    }

    /// As a gRPC service, to be added to a server.
    pub fn into_service(self) -> AuthorizationServer<Self> {
        AuthorizationServer::new(self).max_decoding_message_size(CHECK_MAX)
    }

    /// The answer to one check, which `peer` asks.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` for a peer that asks about calls to another service than its own: who may call whom, and by which line
    /// of which file, is nobody else's business.
    fn answer(&self, peer: Option<&SpiffeId>, check: &CheckRequest) -> Result<CheckResponse, Status> {
        let id = weft_telemetry::trace::decision_id(&mut rand::rng());
        let id = std::str::from_utf8(&id).unwrap_or_default();
        let callee = call::callee(check, peer);
        if let Some(peer) = peer.filter(|peer| callee.as_ref() != Some(*peer)) {
            let callee = callee.as_ref().map_or("nobody", SpiffeId::as_str);
            return Err(Status::permission_denied(format!("{peer} may ask about calls to itself, not to {callee}")));
        }
        let engine = self.engines.engine(callee.as_ref());
        let paths = engine.as_deref().map(Engine::paths).unwrap_or_default();
        let call = Call::read(check, paths);
        let verdict = self.decide(&call, engine.as_deref());
        log(&call, &verdict, id, engine.as_deref());
        Ok(answer::respond(&call, &verdict, id))
    }

    fn decide(&self, call: &Call<'_>, engine: Option<&Engine>) -> Verdict {
        let Some(engine) = engine else {
            return Verdict::failed(Failure::NoPolicy, "no policy has been delivered for the callee");
        };
        match call.request() {
            Ok(request) => Verdict::from(self.memory.decide(engine, &request)),
            Err(error) => Verdict::failed(Failure::BadPath, &error.to_string()),
        }
    }
}

/// One line a denial; allowed calls are in the access log, and here at the level `debug`.
fn log(call: &Call<'_>, verdict: &Verdict, id: &str, engine: Option<&Engine>) {
    macro_rules! decision {
        ($level:ident, $word:literal) => {
            tracing::$level!(
                target: "decision",
                decision = $word,
                decision_id = id,
                caller = call.caller.as_ref().map_or("-", SpiffeId::as_str),
                callee = engine.map_or("-", |engine| engine.service().as_str()),
                method = call.method,
                path = call.path_without_query(),
                host = &*call.host,
                request_id = &*call.request_id,
                policy = &*verdict.policy,
                policy_version = engine.map_or("-", Engine::version),
                reason = &*verdict.reason,
                errors = ?verdict.errors,
            )
        };
    }
    match verdict.failure {
        Some(_) => decision!(info, "deny"),
        None => decision!(debug, "allow"),
    }
}

#[tonic::async_trait]
impl<S: EngineSource> Authorization for ExtAuthz<S> {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        // On the agent's own socket nobody shows a certificate.
        let peer = request.extensions().get::<ConnectPeer>().and_then(|peer| peer.id.as_ref());
        self.answer(peer, request.get_ref()).map(Response::new)
    }
}
