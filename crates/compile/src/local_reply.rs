//! What Envoy answers when it, and not the app, refuses or fails a request: `application/problem+json` (RFC 9457) with the layer
//! and the cause, as our own proxy answers.

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::comparison_filter::Op;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, ComparisonFilter, HeaderFilter, ResponseFlagFilter, StatusCodeFilter,
};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, RuntimeUInt32, data_source::Specifier,
};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::StatusCode;

use crate::hop::Hop;
use crate::pb::{text, uint32};
use crate::{headers, wire};

/// No answer is no denial: the caller may try again. The call is not let through either (`failure_mode_allow` stays false).
pub(crate) const NO_DECISION: StatusCode = StatusCode::ServiceUnavailable;

const PROBLEM: &str = "application/problem+json";

/// The last status of those that say success (RFC 9110 s.15.3).
const LAST_SUCCESS: u32 = 299;

/// Envoy's response flag, and what it means: cause, layer, title.
type Meaning = (&'static str, &'static str, &'static str, &'static str);

/// The same words as our proxy's. A flag does not tell an unknown host from an unknown path, nor a refused connection from a
/// refused certificate; `detail` does.
const EGRESS: [Meaning; 9] = [
    ("NR", "unknown_host", "routing", "No such service for this caller"),
    ("NC", "no_cluster", "config", "The route's cluster is not configured"),
    ("UH", "no_endpoint", "discovery", "The service has no endpoint"),
    ("UF", "connect_failed", "network", "The endpoint could not be reached"),
    ("UC", "upstream_closed", "network", "The connection to the endpoint broke"),
    ("UR", "upstream_reset", "network", "The endpoint reset the request"),
    ("UPE", "upstream_protocol", "network", "The endpoint broke the HTTP protocol"),
    ("UT", "request_timeout", "timeout", "The request took longer than the route allows"),
    ("UO", "overflow", "overload", "Too many requests are under way"),
];

/// The flag of an endpoint to which no connection came about.
const UNREACHABLE: &str = "UF";

/// Behind an ingress there is only the app.
const INGRESS: [Meaning; 5] = [
    ("UF", "app_unreachable", "app", "The app does not listen"),
    ("UC", "app_closed", "app", "The app closed the connection before it answered"),
    ("UR", "app_closed", "app", "The app closed the connection before it answered"),
    ("UPE", "app_protocol", "app", "The app broke the HTTP protocol"),
    ("UO", "overflow", "overload", "Too many requests are under way"),
];

/// The bodies of local replies. A denial keeps the body that the authorization service gave, and a gRPC call the plain text that
/// becomes its `grpc-message`.
pub(crate) fn config(hop: Hop) -> wire::LocalReplyConfig {
    let meanings: &[Meaning] = match hop {
        Hop::Egress => &EGRESS,
        Hop::Ingress => &INGRESS,
    };
    // Only the ingress asks.
    let undecided = (hop == Hop::Ingress).then(|| {
        let body = problem("no_decision", "policy", "Nobody could be asked whether the call is allowed");
        mapper(both(flag("UAEX"), status(Op::Eq, NO_DECISION as u32)), body)
    });
    // An app that answers a WebSocket with a success. Envoy says that success itself then, which the caller's Envoy takes for an open
    // one (RFC 8441 s.4). No other reply of its own is a success.
    let no_websocket = (hop == Hop::Ingress).then(|| wire::ResponseMapper {
        status_code: uint32(StatusCode::BadGateway as u32),
        ..mapper(status(Op::Le, LAST_SUCCESS), problem("app_protocol", "app", "The app broke the HTTP protocol"))
    });
    let denied = mapper(flag("UAEX"), as_given(PROBLEM));
    let grpc = mapper(grpc_call(), as_given(""));
    let grpc_untouched =
        (hop == Hop::Ingress).then(|| telling_untouched(mapper(both(grpc_call(), flag(UNREACHABLE)), as_given(""))));
    let by_flag = meanings.iter().map(|&(name, cause, layer, title)| {
        let mapper = mapper(flag(name), problem(cause, layer, title));
        if hop == Hop::Ingress && name == UNREACHABLE { telling_untouched(mapper) } else { mapper }
    });
    wire::LocalReplyConfig {
        mappers: no_websocket
            .into_iter()
            .chain(grpc_untouched)
            .chain([grpc])
            .chain(undecided)
            .chain([denied])
            .chain(by_flag)
            .collect(),
        body_format: Some(problem("bad_request", "client", "The request cannot be served")),
    }
}

fn mapper(filter: FilterSpecifier, body: wire::SubstitutionFormat) -> wire::ResponseMapper {
    let filter = AccessLogFilter { filter_specifier: Some(filter) };
    wire::ResponseMapper {
        filter: Some(filter),
        status_code: None,
        body_format_override: Some(body),
        headers_to_add: Vec::new(),
    }
}

/// Tells the caller's sidecar that no app began to work on the request.
fn telling_untouched(mapper: wire::ResponseMapper) -> wire::ResponseMapper {
    let header = HeaderValue { key: headers::UNTOUCHED.to_owned(), value: "true".to_owned(), ..Default::default() };
    let option = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    wire::ResponseMapper { headers_to_add: vec![option], ..mapper }
}

fn flag(name: &str) -> FilterSpecifier {
    FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter { flags: vec![name.to_owned()] })
}

fn both(one: FilterSpecifier, other: FilterSpecifier) -> FilterSpecifier {
    let filters = [one, other].map(|filter| AccessLogFilter { filter_specifier: Some(filter) }).into();
    FilterSpecifier::AndFilter(AndFilter { filters })
}

fn status(op: Op, code: u32) -> FilterSpecifier {
    // A value of Envoy's runtime, which nobody sets, would come before the default.
    let value = RuntimeUInt32 { default_value: code, runtime_key: "weft.local_reply".to_owned() };
    let comparison = Some(ComparisonFilter { op: op.into(), value: Some(value) });
    FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison })
}

fn grpc_call() -> FilterSpecifier {
    let prefix = MatchPattern::Prefix("application/grpc".to_owned());
    let matcher = StringMatcher { match_pattern: Some(prefix), ignore_case: false };
    FilterSpecifier::HeaderFilter(HeaderFilter {
        header: Some(HeaderMatcher {
            name: "content-type".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
            ..Default::default()
        }),
    })
}

fn as_given(content_type: &str) -> wire::SubstitutionFormat {
    wire::SubstitutionFormat {
        text_format_source: Some(DataSource {
            specifier: Some(Specifier::InlineString("%LOCAL_REPLY_BODY%".to_owned())),
            ..Default::default()
        }),
        content_type: content_type.to_owned(),
        ..Default::default()
    }
}

fn problem(cause: &str, layer: &str, title: &str) -> wire::SubstitutionFormat {
    let kind = format!("urn:weft:problem:{cause}");
    let members = [
        ("type", &*kind),
        ("title", title),
        ("status", "%RESPONSE_CODE%"),
        ("detail", "%RESPONSE_CODE_DETAILS%"),
        ("flag", "%RESPONSE_FLAGS%"),
        ("layer", layer),
        ("cause", cause),
        ("request_id", "%REQ(X-REQUEST-ID)%"),
    ];
    let fields = members.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect();
    wire::SubstitutionFormat {
        json_format: Some(wire::Struct { fields }),
        content_type: PROBLEM.to_owned(),
        ..Default::default()
    }
}
