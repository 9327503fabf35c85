//! A request that the mesh itself answers: why, and the response that says so.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
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
}

impl Stop {
    pub(crate) fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self { failure, detail: detail.into(), decision_id: None, untouched: false }
    }

    pub(crate) fn denied(failure: Failure, reason: &str, decision_id: [u8; 32]) -> Self {
        Self { failure, detail: reason.to_owned(), decision_id: Some(decision_id), untouched: false }
    }

    /// The answer to the caller: `application/problem+json` with `Proxy-Status`, or for gRPC a status without a body.
    pub(crate) fn into_response(self, mut exchange: Box<Exchange>) -> Response<ResponseBody> {
        exchange.failure = Some(self.failure);
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
            Some(Bytes::from(problem.to_json()))
        };

        let mut response = Response::new(());
        let headers = response.headers_mut();
        if let Some(id) = &exchange.request_id {
            headers.insert("x-request-id", id.clone());
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
            let code = grpc_code(self.failure.facts().status);
            exchange.grpc_status = Some(code);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
            if let Ok(message) = HeaderValue::from_str(&grpc_message(&self.detail)) {
                headers.insert("grpc-message", message);
            }
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(weft_telemetry::problem::CONTENT_TYPE));
            *response.status_mut() = self.failure.facts().status;
        }
        if let Some(body) = &body {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
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
