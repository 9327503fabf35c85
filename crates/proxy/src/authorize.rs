//! The phase that asks the policy: deny unless a policy of the delivered bundle permits.
//!
//! Each worker remembers decisions ([`weft_policy::Decisions`]), so that a repeated call costs a look-up.

use std::sync::Arc;

use weft_policy::{CallRequest, host};
use weft_telemetry::{Failure, trace};

use crate::exchange::Exchange;
use crate::record::Verdict;
use crate::stop::Stop;

/// Decides about a request whose path is normalised and whose identity headers are gone.
///
/// The host is spelled for the policies as it is with Envoy; routes are more particular about ports and final dots.
pub(crate) fn authorize(exchange: &mut Exchange, path: &str, authority: &str, protocol: &str) -> Result<(), Stop> {
    let worker = exchange.worker.clone();
    let id = worker.with_rng(trace::decision_id);
    let Some(engine) = exchange.config.policy.clone() else {
        let reason: Arc<str> = "no policy bundle has been delivered to this sidecar yet".into();
        exchange.verdict = Some(Verdict { allowed: false, id, policy: reason.clone() });
        return Err(Stop::denied(Failure::NoPolicy, &reason, id));
    };
    let connection = exchange.connection.clone();
    let request = CallRequest {
        principal: connection.peer.as_ref(),
        method: exchange.method(),
        path,
        host: &host::normalize(authority),
        protocol,
        source_ip: connection.remote_address.map(|address| address.ip()),
    };
    let decided = worker.decisions.borrow_mut().decide(&engine, &request);
    // A default deny has no determining policy; its reason says where a rule is missing.
    let policy = if decided.policies.is_empty() { decided.reason.clone() } else { decided.places };
    exchange.verdict = Some(Verdict { allowed: decided.allowed, id, policy });
    if decided.allowed { Ok(()) } else { Err(Stop::denied(Failure::Denied, &decided.reason, id)) }
}
