//! A request that the mesh itself answers: why, and the response that says so.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use weft_proxy_http::headers::X_WEFT_UNTOUCHED;
use weft_proxy_http::{AttemptError, Sent, UpstreamBody};
use weft_telemetry::{Failure, Problem};

use crate::exchange::Exchange;
use crate::response::ResponseBody;

/// Why a request goes no further.
#[derive(Debug)]
pub(crate) struct Stop {
    pub(crate) failure: Failure,
    pub(crate) detail: String,
    decision_id: Option<[u8; 32]>,
    /// Whether it is proven that no app began to work on the request.
    untouched: bool,
    /// In place of the failure's own.
    status: Option<StatusCode>,
    /// In place of a problem document.
    reply: Option<Box<Reply>>,
}

/// An answer that somebody else has written.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Stop {
    pub(crate) fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self { failure, detail: detail.into(), decision_id: None, untouched: false, status: None, reply: None }
    }

    pub(crate) fn denied(failure: Failure, reason: &str, decision_id: [u8; 32]) -> Self {
        Self { decision_id: Some(decision_id), ..Self::new(failure, reason) }
    }

    /// With the answer to the caller as it was written elsewhere.
    pub(crate) fn with_reply(failure: Failure, reply: Reply) -> Self {
        Self { reply: Some(Box::new(reply)), ..Self::new(failure, "") }
    }

    /// With another status than the failure's own.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status: Some(status), ..self }
    }

    /// The answer to the caller: `application/problem+json` with `Proxy-Status`, or for gRPC a status without a body.
    pub(crate) fn into_response(self, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
        exchange.failure = Some(self.failure);
        if let Some(reply) = self.reply {
            return reply.into_response(exchange);
        }
        let status = self.status.unwrap_or(self.failure.facts().status);
        let decision_id = self.decision_id.as_ref().and_then(|id| std::str::from_utf8(id).ok());
        let problem = Problem {
            failure: self.failure,
            detail: &self.detail,
            request_id: exchange.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default(),
            decision_id,
        };
        let proxy_status = HeaderValue::from_str(&problem.proxy_status(&exchange.worker.shared.own_host));
        let body = if exchange.grpc || exchange.method == Some(http::Method::HEAD) {
            None
        } else {
            Some(Bytes::from(problem.to_json_with(status)))
        };

        let mut response = Response::new(());
        let headers = response.headers_mut();
        if let Some(id) = &exchange.request_id {
            headers.insert("x-request-id", id.clone());
        }
        if let Some(id) = decision_id.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert("x-weft-decision-id", id);
        }
        if let Ok(value) = proxy_status {
            headers.insert("proxy-status", value);
        }
        // Only a sidecar is told, which may ask another endpoint; the ingress takes the field off what apps answer.
        if self.untouched && exchange.connection.is_tls {
            exchange.worker.shared.app_refused.notify_one();
            headers.insert(X_WEFT_UNTOUCHED, HeaderValue::from_static("true"));
        }
        if exchange.grpc {
            let code = grpc_code(status);
            exchange.grpc_status = Some(code);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
            // As the authorization server words it: a caller of gRPC has no other place for the decision's id.
            let text = match decision_id {
                Some(id) => format!("{} (decision {id})", self.detail),
                None => self.detail.to_string(),
            };
            if let Ok(message) = HeaderValue::from_str(&grpc_message(&text)) {
                headers.insert("grpc-message", message);
            }
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(weft_telemetry::problem::CONTENT_TYPE));
            *response.status_mut() = status;
        }
        if let Some(body) = &body {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        exchange.status = Some(response.status());
        response.map(|()| ResponseBody::new(UpstreamBody::Whole(body), exchange))
    }
}

impl Reply {
    /// To the caller. One of gRPC reads no bodies: it gets the body as message, beside the status that the fields name, or that of HTTP.
    fn into_response(self, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
        let mut response = Response::new(());
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        if let Some(id) = &exchange.request_id {
            headers.insert("x-request-id", id.clone());
        }
        let mut body = None;
        if exchange.grpc {
            let said = headers.get("grpc-status").and_then(|code| code.to_str().ok()?.parse().ok());
            let code = said.unwrap_or_else(|| grpc_code(self.status));
            exchange.grpc_status = Some(code);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
            if let Ok(message) = HeaderValue::from_str(&grpc_message(&String::from_utf8_lossy(&self.body))) {
                headers.insert("grpc-message", message);
            }
        } else {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.body.len()));
            if !self.body.is_empty() {
                // As Envoy by itself says it of a body of which nothing is said; nobody is left to guess.
                headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain"));
            }
            body = (exchange.method != Some(http::Method::HEAD) && !self.body.is_empty()).then_some(self.body);
            *response.status_mut() = self.status;
        }
        exchange.status = Some(response.status());
        response.map(|()| ResponseBody::new(UpstreamBody::Whole(body), exchange))
    }
}

impl From<AttemptError> for Stop {
    fn from(error: AttemptError) -> Self {
        let untouched = error.sent != Sent::Perhaps;
        Self { untouched, ..Self::new(error.failure, error.reason) }
    }
}

/// The gRPC status of an HTTP one (gRPC's HTTP-to-status mapping).
fn grpc_code(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encodes what `grpc-message` may not hold as it is.
fn grpc_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (0x20..0x7f).contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
