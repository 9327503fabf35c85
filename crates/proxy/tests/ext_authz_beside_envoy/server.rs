//! The server that both ask.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{BoolValue, Struct, Value as PbValue, value::Kind};
use envoy_types::pb::google::rpc;
use serde_json::{Value, json};
use tonic::{Request, Response, Status};

/// Answers by the path that it is asked about.
#[derive(Clone, Default)]
pub(crate) struct Server(Arc<Mutex<Vec<CheckRequest>>>);

impl Server {
    /// Listens at a free port.
    pub(crate) async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder().add_service(AuthorizationServer::new(self.clone()));
        tokio::spawn(serving.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
        address
    }

    /// What it was asked since this was called last.
    pub(crate) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.lock().unwrap()).iter().map(question).collect()
    }

    /// Whether it was asked since then.
    pub(crate) fn is_asked(&self) -> bool {
        !self.0.lock().unwrap().is_empty()
    }
}

fn option(key: &str, value: &str, append_action: i32) -> HeaderValueOption {
    let header = Some(HeaderValue { key: key.into(), value: value.into(), ..Default::default() });
    HeaderValueOption { header, append_action, ..Default::default() }
}

fn answered(code: i32, http_response: Option<HttpResponse>) -> CheckResponse {
    let text = |value: &str| PbValue { kind: Some(Kind::StringValue(value.into())) };
    let fields = [("decision", "so"), ("decision_id", "d1"), ("policy", "opa/x.rego:7")];
    let metadata = Struct { fields: fields.map(|(key, value)| (key.to_owned(), text(value))).into() };
    CheckResponse {
        status: Some(rpc::Status { code, ..Default::default() }),
        dynamic_metadata: Some(metadata),
        http_response,
    }
}

fn denied(code: i32) -> DeniedHttpResponse {
    DeniedHttpResponse {
        status: Some(HttpStatus { code }),
        headers: vec![option("x-why", "because", 2), option("content-type", "text/x-reason", 2)],
        body: "not today".into(),
    }
}

#[tonic::async_trait]
impl Authorization for Server {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let check = request.into_inner();
        let path = http(check.attributes.as_ref().unwrap()).path.clone();
        self.0.lock().unwrap().push(check);
        let ok = |ok| answered(0, Some(HttpResponse::OkResponse(ok)));
        let no = |denied| answered(7, Some(HttpResponse::DeniedResponse(denied)));
        Ok(Response::new(match path.split('?').next().unwrap() {
            "/ok" | "/count" => answered(0, None),
            "/nothing" => CheckResponse::default(),
            // Envoy 1.40 overwrites whatever the action is; the two that it does not know are tried in `mutation.rs`.
            "/headers" => ok(OkHttpResponse {
                headers: vec![
                    option("x-there", "replaced", 0),
                    option("x-absent", "added", 0),
                    option("x-there-3", "replaced", 2),
                    option("x-absent-3", "added", 2),
                ],
                headers_to_remove: vec!["x-gone".into(), ":method".into(), "host".into()],
                ..Default::default()
            }),
            #[allow(deprecated)]
            "/append" => ok(OkHttpResponse {
                headers: [("x-there", true), ("x-there-2", false), ("x-absent", true), ("x-absent-2", false)]
                    .map(|(key, append)| HeaderValueOption {
                        append: Some(BoolValue { value: append }),
                        ..option(key, "new", 0)
                    })
                    .into(),
                ..Default::default()
            }),
            "/path" => ok(OkHttpResponse { headers: vec![option(":path", "/elsewhere?x=1", 2)], ..Default::default() }),
            "/query" => ok(OkHttpResponse {
                query_parameters_to_set: vec![QueryParameter { key: "b".into(), value: "9".into() }],
                query_parameters_to_remove: vec!["a".into()],
                ..Default::default()
            }),
            "/response" => {
                ok(OkHttpResponse { response_headers_to_add: vec![option("x-of-authz", "1", 2)], ..Default::default() })
            }
            // The app has the fields `x-0` to `x-199`.
            "/api/fields" => ok(OkHttpResponse {
                response_headers_to_add: (0..4)
                    .flat_map(|action| ["x", "y"].map(|name| option(&format!("{name}-{action}"), "2", action)))
                    .collect(),
                ..Default::default()
            }),
            "/remove" => {
                ok(OkHttpResponse { headers_to_remove: vec!["X-Gone".into(), "x-absent".into()], ..Default::default() })
            }
            "/empty" => ok(OkHttpResponse {
                headers: vec![option("x-there", "", 2), option("x-absent", "", 2)],
                query_parameters_to_set: vec![QueryParameter { key: "a".into(), value: String::new() }],
                query_parameters_to_remove: vec!["a".into(), "none".into()],
                ..Default::default()
            }),
            "/deny" => no(denied(451)),
            "/deny-no-status" => no(DeniedHttpResponse { status: None, ..denied(0) }),
            "/deny-cookies" => no(DeniedHttpResponse {
                headers: [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "text/x-reason")]
                    .map(|(key, value)| option(key, value, 0))
                    .into(),
                ..denied(401)
            }),
            "/error" => answered(13, Some(HttpResponse::ErrorResponse(denied(502)))),
            "/error-plain" => answered(13, Some(HttpResponse::ErrorResponse(DeniedHttpResponse::default()))),
            "/deny-grpc" => no(DeniedHttpResponse { headers: vec![option("grpc-status", "16", 2)], ..denied(403) }),
            "/deny-by-default" => answered(7, None),
            "/deny-in-ok" => answered(5, Some(HttpResponse::OkResponse(OkHttpResponse::default()))),
            "/fails" => return Err(Status::internal("no")),
            "/silent" => std::future::pending().await,
            other => panic!("{other}"),
        }))
    }
}

fn http(attributes: &AttributeContext) -> &HttpRequest {
    attributes.request.as_ref().unwrap().http.as_ref().unwrap()
}

/// What both ask alike. Envoy says how much of a body has come by then, ours how long it is said to be; and Envoy tells of a TLS session also
/// where there is none.
fn question(check: &CheckRequest) -> Value {
    let attributes = check.attributes.as_ref().unwrap();
    let http = http(attributes);
    let shared = |name: &&String| !["x-request-id", "traceparent", "tracestate"].contains(&name.as_str());
    let headers: BTreeMap<_, _> = http.headers.iter().filter(|(name, _)| shared(name)).collect();
    let (source, destination) = (attributes.source.as_ref().unwrap(), attributes.destination.as_ref().unwrap());
    json!({
        "method": http.method, "path": http.path, "host": http.host, "scheme": http.scheme, "protocol": http.protocol,
        "query": http.query, "headers": headers, "body": http.body, "raw_body": http.raw_body,
        "has_id": !http.id.is_empty(), "has_time": attributes.request.as_ref().unwrap().time.is_some(),
        "has_request_id": http.headers.contains_key("x-request-id"),
        "source": source.principal, "destination": destination.principal,
        "has_addresses": source.address.is_some() && destination.address.is_some(),
        "more": attributes.context_extensions.len(),
    })
}
