//! Envoy's external authorization (ext_authz v3) answered by the mesh's policies, so that a stock Envoy as sidecar decides as
//! our own does.
//!
//! A check is read (`call`), decided by the callee's [`Engine`] or from the memory of what that decided, logged, and answered (`answer`). Without an engine, or when a check cannot be read, the answer is a denial.

mod answer;
mod call;
mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use tonic::{Request, Response, Status};
use weft_decision_log::{DecisionLog, Made, PlainText};
use weft_model::SpiffeId;
use weft_policy::{Decided, Decision, Engine, Principal};
use weft_telemetry::Failure;
use weft_xds::ConnectPeer;

use crate::answer::Verdict;
use crate::call::Call;
use crate::memory::Memory;

const NO_POLICY: &str = "no policy has been delivered for the callee";

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
    log: Option<Log>,
    plain_text: Option<PlainText>,
    banned: Option<BanSource>,
}

/// Why nobody takes who has this identity.
type BanSource = Box<dyn Fn(&SpiffeId) -> Option<String> + Send + Sync>;

/// Where decisions are logged, and the commit that is in force.
struct Log {
    log: DecisionLog,
    commit: Box<dyn Fn() -> Arc<str> + Send + Sync>,
}

impl<S: EngineSource> ExtAuthz<S> {
    /// Decides with the engines of `engines`.
    pub fn new(engines: S) -> Self {
        Self { engines, memory: Memory::default(), log: None, plain_text: None, banned: None }
    }

    /// Logs decisions; `commit` gives the one that is in force.
    pub fn logging(self, log: DecisionLog, commit: impl Fn() -> Arc<str> + Send + Sync + 'static) -> Self {
        Self { log: Some(Log { log, commit: Box::new(commit) }), ..self }
    }

    /// Tells of calls in plain text.
    pub fn telling(self, plain_text: PlainText) -> Self {
        Self { plain_text: Some(plain_text), ..self }
    }

    /// Denies whatever is asked by those for whom `banned` has a reason: an Envoy takes their certificates.
    pub fn refusing(self, banned: impl Fn(&SpiffeId) -> Option<String> + Send + Sync + 'static) -> Self {
        Self { banned: Some(Box::new(banned)), ..self }
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
        let verdict = self.decide(&call, id, engine.as_deref());
        Ok(answer::respond(&call, &verdict, id))
    }

    fn decide(&self, call: &Call<'_>, id: &str, engine: Option<&Engine>) -> Verdict {
        let request = match call.request(SystemTime::now()) {
            Ok(request) => request,
            // No policy was asked.
            Err(error) => return Verdict::failed(Failure::BadPath, &error.to_string()),
        };
        let banned = match (&self.banned, request.principal) {
            (Some(banned), Principal::Id(id)) => banned(id).map(|reason| format!("{id} is banned: {reason}")),
            _ => None,
        };
        let Decided { decision, evaluated } = match engine {
            _ if banned.is_some() => {
                Decided { decision: Decision::refused(banned.unwrap_or_default().into()), evaluated: None }
            }
            Some(engine) => self.memory.decide(engine, &request),
            None => Decided { decision: Decision::refused(NO_POLICY.into()), evaluated: None },
        };
        if let (Some(plain_text), Some(engine)) = (&self.plain_text, engine) {
            plain_text.note(engine.service(), &request, decision.allowed);
        }
        if let Some(Log { log, commit }) = &self.log {
            let mut recorder = log.recorder();
            if let Some(line) = recorder.takes(&decision, evaluated) {
                let (commit, trace_id) = (commit(), call.trace_id());
                let (request_id, trace_id) = (Some(&*call.request_id), trace_id.as_deref());
                let (request, decision) = (&request, &decision);
                let commit = &*commit;
                let made = Made { engine, request, decision, evaluated, id, commit, request_id, trace_id };
                recorder.record(line, &made);
            }
        }
        match engine {
            Some(_) => decision.into(),
            None => Verdict::failed(Failure::NoPolicy, NO_POLICY),
        }
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
