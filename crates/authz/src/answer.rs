//! The answer to a check: let it pass, or what the caller is told instead, the same as our own sidecar says it.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc;
use tonic::Code;
use weft_policy::{Decision, Shadow};
use weft_telemetry::{Failure, Problem, problem};

use crate::call::Call;

/// Names the decision in the response to a denied call; never accepted from a caller.
const DECISION_ID: &str = "x-weft-decision-id";

/// What only the mesh says of a caller. An Envoy that the mesh has configured takes them off by itself; others are told to.
const IDENTITY: [&str; 3] = [DECISION_ID, "x-weft-principal", "x-weft-source"];

/// What was decided.
pub(crate) struct Verdict {
    /// `None` lets the call pass.
    pub(crate) failure: Option<Failure>,
    /// Determining policies, `file:line, file:line`, or where a rule is missing.
    pub(crate) policy: Arc<str>,
    pub(crate) reason: Arc<str>,
    /// What the shadow policies would have changed.
    pub(crate) shadow: Option<Shadow>,
}

impl Verdict {
    /// A denial that no policy made.
    pub(crate) fn failed(failure: Failure, reason: &str) -> Self {
        let reason: Arc<str> = reason.into();
        Self { failure: Some(failure), policy: reason.clone(), reason, shadow: None }
    }
}

impl From<Decision> for Verdict {
    fn from(decision: Decision) -> Self {
        Self {
            failure: (!decision.allowed).then_some(Failure::Denied),
            policy: decision.policy().clone(),
            reason: decision.reason,
            shadow: decision.shadow,
        }
    }
}

/// The response, with what the access log shows as dynamic metadata of `envoy.filters.http.ext_authz`.
pub(crate) fn respond(call: &Call<'_>, verdict: &Verdict, id: &str) -> CheckResponse {
    let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
    let fields = [
        ("decision", if verdict.failure.is_none() { "allow" } else { "deny" }),
        ("decision_id", id),
        ("policy", &verdict.policy),
        ("reason", &verdict.reason),
    ];
    let shadow = verdict.shadow.as_ref().map(|shadow| ("shadow", shadow.to_string()));
    let fields = fields.into_iter().chain(shadow.iter().map(|(name, told)| (*name, &**told)));
    let (code, http) = match verdict.failure {
        None => (Code::Ok, HttpResponse::OkResponse(allowed(call))),
        Some(failure) => {
            (Code::PermissionDenied, HttpResponse::DeniedResponse(denied(call, failure, &verdict.reason, id)))
        }
    };
    CheckResponse {
        status: Some(rpc::Status { code: code.into(), ..Default::default() }),
        dynamic_metadata: Some(Struct { fields: fields.map(|(name, value)| (name.to_owned(), text(value))).collect() }),
        http_response: Some(http),
    }
}

/// An identity or a decision id that the caller made up does not reach the app, and the path reaches it as it was decided on: Envoy
/// leaves some spellings that are one path to the policies, like `%c3` for `%C3`.
fn allowed(call: &Call<'_>) -> OkHttpResponse {
    let headers = call.respelled().map(|target| header(":path", target)).into_iter().collect();
    let headers_to_remove = IDENTITY.into_iter().chain(call.look_alikes(&IDENTITY)).map(str::to_owned).collect();
    OkHttpResponse { headers, headers_to_remove, ..Default::default() }
}

/// A problem document. A gRPC caller cannot read one: Envoy answers it with trailers only and the body as `grpc-message`, so
/// the body is the sentence itself.
fn denied(call: &Call<'_>, failure: Failure, reason: &str, id: &str) -> DeniedHttpResponse {
    let problem = Problem { failure, detail: reason, request_id: &call.request_id, decision_id: Some(id) };
    let proxy_status = problem.proxy_status("weft");
    let mut headers = vec![header(DECISION_ID, id), header("proxy-status", &proxy_status)];
    let status = failure.facts().status.as_u16();
    let body = if call.is_grpc {
        // Without this Envoy maps the HTTP status: 403 well, 400 to INTERNAL.
        let code = if status == 400 { Code::InvalidArgument } else { Code::PermissionDenied };
        headers.push(header("grpc-status", &i32::from(code).to_string()));
        format!("{reason} (decision {id})")
    } else {
        headers.push(header("content-type", problem::CONTENT_TYPE));
        String::from_utf8_lossy(&problem.to_json()).into_owned()
    };
    DeniedHttpResponse { status: Some(HttpStatus { code: i32::from(status) }), headers, body }
}

/// Replaces what is there.
fn header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}
