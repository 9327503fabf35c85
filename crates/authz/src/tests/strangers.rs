//! Checks as other clients than our own Envoys send them.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::TlsSession;
use http::{HeaderName, HeaderValue as Value};
use proptest::prelude::*;

use super::*;

fn id(service: &str) -> SpiffeId {
    format!("spiffe://acme.internal/ns/prod/sa/{service}").parse().expect("legal")
}

fn open() -> ExtAuthz<impl EngineSource> {
    let engine = engine("permit(principal, action, resource);");
    ExtAuthz::new(move |callee: Option<&SpiffeId>| {
        callee.and_then(SpiffeId::service).filter(|service| service == engine.service()).map(|_| engine.clone())
    })
}

#[test]
fn a_check_that_names_no_callee_is_about_whoever_asks() {
    let mut check = check(WEB, get("/"));
    for destination in [None, Some(Peer::default())] {
        check.attributes.as_mut().expect("attributes").destination = destination;
        assert!(is_allowed(&open().answer(Some(&id("board")), &check).expect("an answer")));
        denial(&open().answer(None, &check).expect("an answer"));
        denial(&open().answer(Some(&id("web")), &check).expect("an answer"));
    }
    check.attributes.as_mut().expect("attributes").destination = peer("CN=board");
    assert_eq!(
        open().answer(Some(&id("board")), &check).expect_err("somebody else").code(),
        tonic::Code::PermissionDenied
    );
}

#[test]
fn a_body_and_metadata_are_taken_and_change_nothing() {
    let mut http = get("/").expect("http");
    (http.body, http.raw_body, http.size) = ("x".repeat(9000), vec![0xff; 9000], 9000);
    let mut check = check(WEB, Some(http));
    let attributes = check.attributes.as_mut().expect("attributes");
    attributes.metadata_context = Some(Metadata::default());
    attributes.route_metadata_context = Some(Metadata::default());
    attributes.context_extensions.insert("a".into(), "b".into());
    assert!(is_allowed(&open().answer(None, &check).expect("an answer")));
}

#[tokio::test]
async fn a_check_beyond_the_bound_fails_and_the_next_one_does_not() {
    let mut client = client(board("permit(principal, action, resource);")).await;
    let mut http = get("/").expect("http");
    http.raw_body = vec![0; CHECK_MAX];
    let failed = client.check(check(WEB, Some(http))).await.expect_err("too long");
    assert_eq!(failed.code(), tonic::Code::OutOfRange);
    assert!(is_allowed(&ask(&mut client, check(WEB, get("/"))).await));
}

#[test]
fn an_identity_that_a_caller_made_up_is_taken_off_however_it_is_spelled() {
    let mut http = get("/").expect("http");
    http.headers.insert("x_weft-principal".into(), "spiffe://acme.internal/ns/prod/sa/admin".into());
    http.headers.insert("x_other".into(), "kept".into());
    let raw = HeaderValue { key: "x-weft_source".into(), raw_value: b"here".to_vec(), ..Default::default() };
    http.header_map = Some(HeaderMap { headers: vec![raw] });
    let response = open().answer(None, &check(WEB, Some(http))).expect("an answer");
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else { panic!("not allowed: {response:?}") };
    let all = ["x-weft-decision-id", "x-weft-principal", "x-weft-source", "x_weft-principal", "x-weft_source"];
    assert_eq!(ok.headers_to_remove, all);
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,12}", Just(WEB.to_owned()), "/[a-c%./;\\\\0-9]{0,8}"]
}

prop_compose! {
    fn anything()(
        principals in prop::array::uniform2(proptest::option::of(text())),
        words in prop::array::uniform5(text()),
        headers in prop::collection::hash_map(text(), text(), 0..4),
        grpc in any::<bool>(),
        http in any::<bool>(),
        sni in proptest::option::of(text()),
        empty in 0..8,
    ) -> CheckRequest {
        let [source, destination] = principals.map(|id| id.map(|principal| Peer { principal, ..Default::default() }));
        let [method, path, host, protocol, request_id] = words;
        let mut headers = headers;
        headers.insert("x-request-id".into(), request_id);
        if grpc {
            headers.insert("content-type".into(), "application/grpc".into());
        }
        let http = http.then(|| HttpRequest { method, path, host, protocol, headers, ..Default::default() });
        let attributes = AttributeContext {
            source,
            destination,
            request: (empty != 1).then(|| Attributes { http, ..Default::default() }),
            tls_session: sni.map(|sni| TlsSession { sni }),
            ..Default::default()
        };
        CheckRequest { attributes: (empty != 2).then_some(attributes) }
    }
}

proptest! {
    /// Whatever is asked: a status, a response of that kind, and headers that HTTP can carry.
    #[test]
    fn every_check_gets_a_well_formed_answer(check in anything()) {
        let response = open().answer(Some(&id("board")), &check).or_else(|status| {
            assert_eq!(status.code(), tonic::Code::PermissionDenied);
            open().answer(None, &check)
        });
        let response = response.expect("on the agent's socket everything is answered");
        let options = match (&response.http_response, is_allowed(&response)) {
            (Some(HttpResponse::OkResponse(ok)), true) => &ok.headers,
            (Some(HttpResponse::DeniedResponse(denied)), false) => {
                let status = denied.status.as_ref().expect("a status").code;
                prop_assert!([400, 403].contains(&status), "{status}");
                if header(denied, "content-type").is_some() {
                    serde_json::from_str::<serde_json::Value>(&denied.body).expect("a problem");
                }
                &denied.headers
            }
            other => panic!("{other:?}"),
        };
        for header in options.iter().filter_map(|option| option.header.as_ref()) {
            prop_assert!(header.key == ":path" || HeaderName::from_bytes(header.key.as_bytes()).is_ok(), "{header:?}");
            prop_assert!(Value::from_str(&header.value).is_ok(), "{header:?}");
        }
        for name in ["decision", "decision_id", "policy", "reason"] {
            metadata(&response, name);
        }
    }
}
