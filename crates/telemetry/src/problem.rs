//! The body and the header of a mesh-made error: `application/problem+json` (RFC 9457) and `Proxy-Status` (RFC 9209).

use http::StatusCode;

use crate::failure::Failure;
use crate::json::push_json_string;

/// Media type of the body.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// One mesh-made error, as told to the caller.
pub struct Problem<'a> {
    /// What went wrong.
    pub failure: Failure,
    /// One sentence with the particulars.
    pub detail: &'a str,
    /// `x-request-id` of the request.
    pub request_id: &'a str,
    /// For a denial: the id under which the decision is logged.
    pub decision_id: Option<&'a str>,
}

impl Problem<'_> {
    /// The body.
    pub fn to_json(&self) -> Vec<u8> {
        self.to_json_with(self.failure.facts().status)
    }

    /// The body of an answer that has another status than the failure's own.
    pub fn to_json_with(&self, status: StatusCode) -> Vec<u8> {
        let facts = self.failure.facts();
        let mut out = Vec::with_capacity(256 + self.detail.len());
        out.extend_from_slice(b"{\"type\":\"urn:weft:problem:");
        out.extend_from_slice(facts.cause.as_bytes());
        out.extend_from_slice(b"\",\"title\":");
        push_json_string(&mut out, facts.title);
        out.extend_from_slice(b",\"status\":");
        out.extend_from_slice(status.as_str().as_bytes());
        for (key, value) in [
            ("detail", self.detail),
            ("flag", facts.flag),
            ("layer", facts.layer.as_str()),
            ("cause", facts.cause),
            ("request_id", self.request_id),
        ] {
            push_member(&mut out, key, value);
        }
        if let Some(id) = self.decision_id {
            push_member(&mut out, "decision_id", id);
        }
        out.extend_from_slice(b"}\n");
        out
    }

    /// The `Proxy-Status` field value, with `proxy` as the name of this intermediary (an sf-token or sf-string content).
    pub fn proxy_status(&self, proxy: &str) -> String {
        let facts = self.failure.facts();
        format!("\"{proxy}\"; error={}; details=\"{}\"", facts.proxy_status, facts.cause)
    }
}

fn push_member(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
    push_json_string(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_layer_cause_and_decision() {
        let problem = Problem {
            failure: Failure::Denied,
            detail: "forbid policies/x.cedar:3 \"quoted\"",
            request_id: "r1",
            decision_id: Some("d1"),
        };
        let json: serde_json::Value = serde_json::from_slice(&problem.to_json()).expect("valid JSON");
        assert_eq!(json["status"], 403);
        assert_eq!(json["layer"], "policy");
        assert_eq!(json["flag"], "UAEX");
        assert_eq!(json["detail"], "forbid policies/x.cedar:3 \"quoted\"");
        assert_eq!(json["decision_id"], "d1");
        assert_eq!(problem.proxy_status("weft"), "\"weft\"; error=http_request_denied; details=\"denied\"");
    }
}
