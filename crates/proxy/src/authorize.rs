//! The phase that asks the policy: deny unless a policy of the delivered bundle permits.
//!
//! Each worker remembers decisions ([`weft_policy::Decisions`]), so that a repeated call costs a look-up.

use std::borrow::Cow;

use http::{HeaderMap, header};
use weft_decision_log::Made;
use weft_policy::{CallRequest, Decided, Decision, Headers, NoHeaders, TlsFacts, host, path};
use weft_proxy_http::headers::has_option;
use weft_telemetry::{Failure, trace};

use crate::exchange::Exchange;
use crate::record::Verdict;
use crate::stop::Stop;

const NO_BUNDLE: &str = "no policy bundle has been delivered to this sidecar yet";

/// What a decision needs of a request. What is not HTTP has only its protocol.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// Normalised, with its query.
    pub(crate) target: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) headers: &'a dyn Headers,
}

/// A TCP connection.
pub(crate) const TCP: Asked<'static> = Asked { target: "", authority: "", protocol: "TCP", headers: &NoHeaders };

/// The fields of a head, as policies read them.
#[derive(Debug)]
pub(crate) struct Sent<'a>(pub(crate) &'a HeaderMap);

impl Headers for Sent<'_> {
    /// Without those that `connection` names: the app does not get them (RFC 9110 s.7.6.1).
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut lines = self.0.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let first = lines.next()?;
        if has_option(self.0, &header::CONNECTION, name) {
            return None;
        }
        Some(lines.fold(first, |joined, line| joined + "," + line))
    }
}

/// Decides about a request whose path is normalised and whose identity headers are gone.
///
/// The host is spelled for the policies as it is with Envoy; routes are more particular about ports and final dots.
pub(crate) fn authorize(exchange: &mut Exchange, asked: Asked<'_>) -> Result<(), Stop> {
    let worker = exchange.worker.clone();
    let id = worker.with_rng(trace::decision_id);
    let engine = exchange.config.policy.clone();
    let connection = exchange.connection.clone();
    let (path, query) = path::split(asked.target);
    let request = CallRequest {
        principal: connection.principal(),
        method: exchange.method(),
        path,
        query,
        host: &host::normalize(asked.authority),
        protocol: asked.protocol,
        source_ip: connection.remote_address.map(|address| address.ip()),
        headers: asked.headers,
        grpc: exchange.grpc,
        tls: connection.is_tls.then(|| TlsFacts { server_name: connection.server_name.as_deref() }),
        user: None,
        now: exchange.started_at,
    };
    let Decided { decision, evaluated } = match &engine {
        Some(engine) => worker.decisions.borrow_mut().decide(engine, &request),
        None => Decided { decision: Decision::refused(NO_BUNDLE.into()), evaluated: None },
    };
    if let Some(engine) = &engine {
        worker.shared.plain_text.note(engine.service(), &request, decision.allowed);
    }
    worker.record(|recorder| {
        let Some(line) = recorder.takes(&decision, evaluated) else { return };
        recorder.record(
            line,
            &Made {
                engine: engine.as_deref(),
                request: &request,
                decision: &decision,
                evaluated,
                id: std::str::from_utf8(&id).unwrap_or_default(),
                commit: &exchange.config.revision,
                request_id: exchange.request_id.as_ref().and_then(|id| id.to_str().ok()),
                trace_id: std::str::from_utf8(&exchange.trace.trace_id_hex()).ok(),
            },
        );
    });
    let (policy, shadow) = (decision.policy().clone(), decision.shadow.clone());
    exchange.verdict = Some(Verdict { allowed: decision.allowed, id, policy, shadow });
    match engine {
        _ if decision.allowed => Ok(()),
        Some(_) => Err(Stop::denied(Failure::Denied, &decision.reason, id)),
        None => Err(Stop::denied(Failure::NoPolicy, &decision.reason, id)),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn policies_read_what_the_app_gets() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-tenant", "a"), ("x-tenant", "b"), ("x-plan", "gold"), ("connection", "close, X-Plan")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.insert("x-odd", HeaderValue::from_bytes(b"\xff").unwrap());
        let read = |name| Sent(&headers).header(name).map(Cow::into_owned);
        assert_eq!(read("x-tenant").as_deref(), Some("a,b"));
        assert_eq!(read("x-odd").as_deref(), Some("\u{fffd}"));
        assert_eq!((read("x-plan"), read("x-none")), (None, None));
    }
}
