//! What an ext_authz server has answered, read (`envoy.service.auth.v3.CheckResponse`).

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::mutation::{self, Mutation, Of};
use crate::record::Told;
use crate::stop::Reply;

/// What was answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// The call may go on, changed so.
    Allowed(Box<Changes>),
    /// It may not; this is the answer to the caller.
    Denied(Reply),
    /// The server could not decide; this is what it says instead, if anything.
    Failed(Option<Reply>),
}

/// What is changed of a request, and of its answer.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) path: Option<PathAndQuery>,
    pub(super) authority: Option<Authority>,
    pub(super) method: Option<Method>,
    pub(super) headers: Vec<Mutation>,
    pub(super) removed: Vec<HeaderName>,
    pub(super) query_set: Vec<(String, String)>,
    pub(super) query_removed: Vec<String>,
    pub(super) of_answer: Vec<Mutation>,
}

/// Reads an answer. As with Envoy one without a status is `OK`.
///
/// # Errors
/// It lets the call pass with a change that cannot be made.
pub(super) fn read(response: &CheckResponse) -> Result<Answer, String> {
    let code = response.status.as_ref().map_or(0, |status| status.code);
    match (code, &response.http_response) {
        (0, Some(HttpResponse::OkResponse(ok))) => Ok(Answer::Allowed(Box::new(changes(ok)?))),
        (0, _) => Ok(Answer::Allowed(Box::default())),
        (_, Some(HttpResponse::ErrorResponse(error))) => {
            let says = error.status.is_some() || !error.body.is_empty();
            Ok(Answer::Failed(says.then(|| reply(error))))
        }
        (_, Some(HttpResponse::DeniedResponse(denied))) => Ok(Answer::Denied(reply(denied))),
        _ => Ok(Answer::Denied(reply(&DeniedHttpResponse::default()))),
    }
}

/// What the access log shows of the answer's dynamic metadata.
pub(super) fn told(response: &CheckResponse) -> Told {
    let older = match &response.http_response {
        #[allow(deprecated)]
        Some(HttpResponse::OkResponse(ok)) => ok.dynamic_metadata.as_ref(),
        _ => None,
    };
    let metadata = older.or(response.dynamic_metadata.as_ref());
    let text = |key: &str| text(metadata?, key);
    Told {
        decision: text("decision"),
        decision_id: text("decision_id"),
        policy: text("policy"),
        shadow: text("shadow"),
    }
}

fn text(metadata: &Struct, key: &str) -> Option<Box<str>> {
    match metadata.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.as_str().into()),
        _ => None,
    }
}

fn changes(ok: &OkHttpResponse) -> Result<Changes, String> {
    let mut changes = Changes::default();
    for given in &ok.headers {
        match mutation::read(given, Of::Request)? {
            Ok(change) => changes.headers.push(change),
            Err(pseudo) => {
                let illegal = |_| format!("{} cannot be {:?}", pseudo.name, pseudo.value);
                match pseudo.name {
                    ":path" => changes.path = Some(path(pseudo.value)?),
                    ":authority" | "host" | "Host" => {
                        changes.authority = Some(Authority::try_from(pseudo.value).map_err(|_| illegal(()))?);
                    }
                    ":method" => {
                        changes.method = Some(Method::try_from(pseudo.value).map_err(|_| illegal(()))?);
                    }
                    _ => return Err(illegal(())),
                }
            }
        }
    }
    // Envoy, too, leaves what a request cannot be without.
    let named = ok.headers_to_remove.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    changes.removed = named.filter(|name| *name != http::header::HOST).collect();
    changes.query_set = ok.query_parameters_to_set.iter().map(|p| (p.key.clone(), p.value.clone())).collect();
    changes.query_removed.clone_from(&ok.query_parameters_to_remove);
    changes.of_answer = mutations(&ok.response_headers_to_add)?;
    Ok(changes)
}

fn mutations(given: &[HeaderValueOption]) -> Result<Vec<Mutation>, String> {
    let of_field = |given| {
        mutation::read(given, Of::Answer)?.map_err(|pseudo| format!("{} is no field of an answer", pseudo.name))
    };
    given.iter().map(of_field).collect()
}

/// A path of a request: it begins with a slash.
pub(super) fn path(text: &str) -> Result<PathAndQuery, String> {
    let path = PathAndQuery::try_from(text).ok().filter(|path| path.as_str().starts_with('/'));
    path.ok_or_else(|| format!(":path cannot be {text:?}"))
}

/// A denial stays one, whatever is wrong with its head.
fn reply(denied: &DeniedHttpResponse) -> Reply {
    let status = denied.status.as_ref().and_then(|status| u16::try_from(status.code).ok());
    let status = status.and_then(|code| StatusCode::from_u16(code).ok()).filter(|status| status.as_u16() >= 200);
    let mut headers = HeaderMap::new();
    for change in denied.headers.iter().filter_map(|given| mutation::read(given, Of::Answer).ok()?.ok()) {
        change.apply(&mut headers);
    }
    Reply { status: status.unwrap_or(StatusCode::FORBIDDEN), headers, body: denied.body.clone().into_bytes().into() }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{HeaderValue as Sent, QueryParameter};
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    use envoy_types::pb::google::protobuf::Value;
    use envoy_types::pb::google::rpc;

    use super::*;

    fn option(key: &str, value: &str) -> HeaderValueOption {
        let header = Some(Sent { key: key.into(), value: value.into(), ..Default::default() });
        HeaderValueOption { header, append_action: 2, ..Default::default() }
    }

    fn response(code: i32, http_response: Option<HttpResponse>) -> CheckResponse {
        let status = Some(rpc::Status { code, ..Default::default() });
        CheckResponse { status, http_response, ..Default::default() }
    }

    #[test]
    fn an_answer_without_particulars_counts_by_its_status() {
        assert!(matches!(read(&CheckResponse::default()), Ok(Answer::Allowed(_))));
        assert!(matches!(read(&response(0, None)), Ok(Answer::Allowed(_))));
        for code in [1, 7, 16] {
            let Ok(Answer::Denied(reply)) = read(&response(code, None)) else { panic!("not denied") };
            assert_eq!((reply.status.as_u16(), reply.body.len()), (403, 0));
            // What an allowed call would get is no reason to let this one pass.
            let ok = HttpResponse::OkResponse(OkHttpResponse::default());
            assert!(matches!(read(&response(code, Some(ok))), Ok(Answer::Denied(_))));
        }
    }

    #[test]
    fn a_denial_has_the_servers_status_fields_and_body() {
        let denied =
            |code, headers| DeniedHttpResponse { status: Some(HttpStatus { code }), headers, body: "no".into() };
        let read = |denied| match read(&response(7, Some(HttpResponse::DeniedResponse(denied)))) {
            Ok(Answer::Denied(reply)) => reply,
            other => panic!("{other:?}"),
        };
        let reply = read(denied(451, vec![option("x-why", "law"), option("content-length", "99")]));
        assert_eq!((reply.status.as_u16(), &*reply.body), (451, &b"no"[..]));
        assert_eq!((reply.headers["x-why"].as_bytes(), reply.headers.len()), (&b"law"[..], 1));
        for code in [0, 100, 99_999] {
            assert_eq!(read(denied(code, Vec::new())).status.as_u16(), 403);
        }
    }

    #[test]
    fn a_server_that_fails_says_so() {
        let error = |denied| read(&response(13, Some(HttpResponse::ErrorResponse(denied))));
        assert!(matches!(error(DeniedHttpResponse::default()), Ok(Answer::Failed(None))));
        let custom = DeniedHttpResponse { status: Some(HttpStatus { code: 502 }), ..Default::default() };
        assert!(matches!(error(custom), Ok(Answer::Failed(Some(reply))) if reply.status.as_u16() == 502));
    }

    #[test]
    fn an_allowed_call_is_changed_as_it_is_said_or_not_let_through() {
        let ok = OkHttpResponse {
            headers: vec![
                option(":path", "/x?a=1"),
                option("x-a", "1"),
                option("host", "b.prod"),
                option(":method", "PUT"),
            ],
            headers_to_remove: vec!["x-b".into(), ":path".into(), "Host".into()],
            query_parameters_to_set: vec![QueryParameter { key: "q".into(), value: "2".into() }],
            ..Default::default()
        };
        let Ok(Answer::Allowed(changes)) = read(&response(0, Some(HttpResponse::OkResponse(ok)))) else { panic!() };
        assert_eq!(changes.path.as_ref().map(PathAndQuery::as_str), Some("/x?a=1"));
        assert_eq!(changes.authority.as_ref().map(Authority::as_str), Some("b.prod"));
        assert_eq!(changes.method, Some(Method::PUT));
        assert_eq!((changes.headers.len(), &*changes.removed), (1, &[HeaderName::from_static("x-b")][..]));
        assert_eq!(changes.query_set, [("q".to_owned(), "2".to_owned())]);
        for wrong in [option(":path", "x"), option(":path", "/a b"), option(":status", "200"), option("x a", "1")] {
            let ok = OkHttpResponse { headers: vec![wrong], ..Default::default() };
            assert!(read(&response(0, Some(HttpResponse::OkResponse(ok)))).is_err());
        }
        let ok = OkHttpResponse { response_headers_to_add: vec![option(":status", "200")], ..Default::default() };
        assert!(read(&response(0, Some(HttpResponse::OkResponse(ok)))).is_err());
    }

    #[test]
    fn the_log_shows_texts_of_the_metadata() {
        let value = |kind| Value { kind: Some(kind) };
        let fields = [
            ("decision".to_owned(), value(Kind::StringValue("deny".into()))),
            ("policy".to_owned(), value(Kind::NumberValue(1.0))),
        ];
        let metadata = Some(Struct { fields: fields.into() });
        let seen = told(&CheckResponse { dynamic_metadata: metadata, ..response(7, None) });
        assert_eq!((seen.decision.as_deref(), seen.decision_id, seen.policy), (Some("deny"), None, None));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_server_sends_is_read_or_refused(
            code in -1..20i32,
            kind in 0..4,
            status in proptest::num::i32::ANY,
            texts in proptest::collection::vec(("(:path|:method|host|x-a|content-length|.{0,6})", ".{0,12}", -1..5i32), 0..4),
        ) {
            let options: Vec<_> =
                texts.iter().map(|(key, value, action)| HeaderValueOption { append_action: *action, ..option(key, value) }).collect();
            let names = texts.iter().map(|(key, ..)| key.clone()).collect();
            let denied = DeniedHttpResponse {
                status: Some(HttpStatus { code: status }),
                headers: options.clone(),
                body: "x".into(),
            };
            let ok = OkHttpResponse {
                headers: options.clone(),
                headers_to_remove: names,
                response_headers_to_add: options,
                ..Default::default()
            };
            let http = match kind {
                0 => None,
                1 => Some(HttpResponse::OkResponse(ok)),
                2 => Some(HttpResponse::DeniedResponse(denied)),
                _ => Some(HttpResponse::ErrorResponse(denied)),
            };
            match read(&response(code, http)) {
                Ok(Answer::Allowed(_)) | Err(_) => proptest::prop_assert_eq!(code, 0),
                Ok(Answer::Denied(reply) | Answer::Failed(Some(reply))) => {
                    proptest::prop_assert!(code != 0 && reply.status.as_u16() >= 200);
                }
                Ok(Answer::Failed(None)) => proptest::prop_assert_ne!(code, 0),
            }
        }
    }
}
