//! Access logs: a JSON line to a file, each of whose operators is known.

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::config::core::v3::{SubstitutionFormatString, substitution_format_string::Format};
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::{StdoutAccessLog, stdout_access_log};
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use http::HeaderName;

use super::strict::{NOT_SUPPORTED, Path, Refused, named};
use crate::log_format::{LogField, LogFormat};

/// The one access log, or none.
pub(crate) fn only(given: Vec<AccessLog>, at: &Path<'_>) -> Result<Option<Arc<LogFormat>>, Refused> {
    let mut given = given.into_iter();
    let log = given.next().map(|log| access_log(log, &at.index(0))).transpose()?;
    if given.next().is_some() {
        return Err(at.index(1).refuse("only one access log is supported by this proxy"));
    }
    Ok(log.map(Arc::new))
}

fn access_log(mut given: AccessLog, at: &Path<'_>) -> Result<LogFormat, Refused> {
    given.name.clear(); // the type says what it is
    let at_config = at.field("typed_config");
    let Some(ConfigType::TypedConfig(config)) = given.config_type.take() else {
        return Err(at_config.refuse("required"));
    };
    at.rest(&given)?;
    if let Some(format) = at_config.any(&config, file)? {
        return Ok(format);
    }
    at_config.any(&config, stdout)?.ok_or_else(|| at_config.refuse_type(&config))
}

fn file(mut given: FileAccessLog, at: &Path<'_>) -> Result<LogFormat, Refused> {
    let path = named(&mut given.path, &at.field("path"))?;
    let format = given.access_log_format.take_if(|f| matches!(f, file_access_log::AccessLogFormat::LogFormat(_)));
    at.rest(&given)?;
    let format = match format {
        Some(file_access_log::AccessLogFormat::LogFormat(format)) => Some(format),
        _ => None,
    };
    keys(format, &at.field("log_format")).map(|keys| LogFormat { path, keys })
}

fn stdout(given: StdoutAccessLog, at: &Path<'_>) -> Result<LogFormat, Refused> {
    let format = given.access_log_format.map(|stdout_access_log::AccessLogFormat::LogFormat(format)| format);
    keys(format, &at.field("log_format")).map(|keys| LogFormat { path: "/dev/stdout".into(), keys })
}

type Keys = Vec<(Arc<str>, LogField)>;

fn keys(given: Option<SubstitutionFormatString>, at: &Path<'_>) -> Result<Keys, Refused> {
    let mut given = given.unwrap_or_default();
    let json = match given.format.take_if(|format| matches!(format, Format::JsonFormat(_))) {
        Some(Format::JsonFormat(json)) => json,
        _ => {
            at.rest(&given)?;
            return Err(at.field("json_format").refuse("required"));
        }
    };
    at.rest(&given)?;
    json_format(json, &at.field("json_format"))
}

/// Compiles a `json_format`.
fn json_format(mut given: Struct, at: &Path<'_>) -> Result<Keys, Refused> {
    let at_fields = at.field("fields");
    let mut fields: Vec<_> = take(&mut given.fields).into_iter().collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
        .into_iter()
        .map(|(key, value)| {
            let at = at_fields.key(&key);
            let field = match value.kind {
                Some(Kind::StringValue(text)) => field(&text).map_err(|problem| at.refuse(problem))?,
                Some(Kind::NumberValue(number)) if number.is_finite() => LogField::Literal(number.to_string().into()),
                Some(Kind::BoolValue(value)) => LogField::Literal(value.to_string().into()),
                Some(Kind::NullValue(_)) => LogField::Literal("null".into()),
                _ => return Err(at.refuse(NOT_SUPPORTED)),
            };
            Ok((format!("{}:", quoted(&key)).into(), field))
        })
        .collect()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// One operator alone, or a text without any.
fn field(text: &str) -> Result<LogField, String> {
    let plain = text.replace("%%", "");
    if !plain.contains('%') {
        return Ok(LogField::Literal(quoted(&text.replace("%%", "%")).into()));
    }
    let inner = text.strip_prefix('%').and_then(|rest| rest.strip_suffix('%'));
    let Some(operator) = inner.filter(|inner| !inner.is_empty() && !inner.contains('%')) else {
        return Err(format!(
            "`{}`: only one operator alone, or a text, is supported by this proxy",
            text.escape_debug()
        ));
    };
    self::operator(operator).ok_or_else(|| format!("`%{}%` is {NOT_SUPPORTED}", operator.escape_debug()))
}

fn operator(text: &str) -> Option<LogField> {
    if let Some((name, arguments)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        return match name {
            "REQ" => request(arguments),
            // Our proxy does not keep the headers of responses for the log.
            "RESP" if arguments.eq_ignore_ascii_case("x-envoy-upstream-service-time") => {
                Some(LogField::UpstreamServiceTime)
            }
            "DYNAMIC_METADATA" => metadata(arguments),
            _ => None,
        };
    }
    Some(match text {
        "START_TIME" => LogField::StartTime,
        "PROTOCOL" => LogField::Protocol,
        "RESPONSE_CODE" => LogField::ResponseCode,
        "RESPONSE_FLAGS" => LogField::ResponseFlags,
        "RESPONSE_CODE_DETAILS" => LogField::ResponseCodeDetails,
        "CONNECTION_TERMINATION_DETAILS" => LogField::ConnectionTerminationDetails,
        "BYTES_RECEIVED" => LogField::BytesReceived,
        "BYTES_SENT" => LogField::BytesSent,
        "DURATION" => LogField::Duration,
        "UPSTREAM_HOST" => LogField::UpstreamHost,
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => LogField::UpstreamCluster,
        "UPSTREAM_LOCAL_ADDRESS" => LogField::UpstreamLocalAddress,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => LogField::UpstreamTransportFailureReason,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => LogField::UpstreamRequestAttemptCount,
        "UPSTREAM_PEER_URI_SAN" => LogField::UpstreamPeerUriSan,
        "UPSTREAM_LOCAL_URI_SAN" => LogField::UpstreamLocalUriSan,
        "DOWNSTREAM_LOCAL_ADDRESS" => LogField::DownstreamLocalAddress,
        "DOWNSTREAM_REMOTE_ADDRESS" => LogField::DownstreamRemoteAddress,
        "DOWNSTREAM_PEER_URI_SAN" => LogField::DownstreamPeerUriSan,
        "DOWNSTREAM_LOCAL_URI_SAN" => LogField::DownstreamLocalUriSan,
        "REQUESTED_SERVER_NAME" => LogField::RequestedServerName,
        "ROUTE_NAME" => LogField::RouteName,
        "TRACE_ID" => LogField::TraceId,
        _ => return None,
    })
}

fn request(name: &str) -> Option<LogField> {
    Some(match &*name.to_ascii_lowercase() {
        ":method" => LogField::Method,
        ":path" | "x-envoy-original-path?:path" => LogField::Path,
        ":authority" => LogField::Authority,
        ":scheme" => LogField::Scheme,
        "x-envoy-auth-failure-mode-allowed" => LogField::FailedOpen,
        name => LogField::RequestHeader(HeaderName::from_bytes(name.as_bytes()).ok()?),
    })
}

fn metadata(path: &str) -> Option<LogField> {
    let (namespace, key) = path.split_once(':')?;
    Some(match (namespace, key) {
        ("envoy.filters.http.ext_authz" | "envoy.filters.network.ext_authz", "decision") => LogField::Decision,
        ("envoy.filters.http.ext_authz" | "envoy.filters.network.ext_authz", "decision_id") => LogField::DecisionId,
        ("envoy.filters.http.ext_authz" | "envoy.filters.network.ext_authz", "policy") => LogField::Policy,
        ("envoy.filters.http.ext_authz" | "envoy.filters.network.ext_authz", "shadow") => LogField::Shadow,
        ("weft", "layer") => LogField::Layer,
        ("weft", "cause") => LogField::Cause,
        ("weft", "config_version") => LogField::ConfigVersion,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{JsonFormatOptions, TypedExtensionConfig};
    use envoy_types::pb::google::protobuf::{self, Value};
    use proptest::prelude::*;

    use super::*;

    fn log(format: SubstitutionFormatString) -> Result<LogFormat, String> {
        let format = Some(file_access_log::AccessLogFormat::LogFormat(format));
        let at = Path::root::<FileAccessLog>();
        file(FileAccessLog { path: "/x".into(), access_log_format: format }, &at).map_err(|refused| refused.to_string())
    }

    fn json(fields: &[(&str, Kind)]) -> SubstitutionFormatString {
        let value = |(key, kind): &(&str, Kind)| (String::from(*key), Value { kind: Some(kind.clone()) });
        let fields = fields.iter().map(value).collect();
        SubstitutionFormatString { format: Some(Format::JsonFormat(Struct { fields })), ..Default::default() }
    }

    fn text(text: &str) -> Kind {
        Kind::StringValue(text.to_owned())
    }

    fn compiled(kind: Kind) -> Result<LogField, String> {
        let keys = log(json(&[("k", kind)]))?.keys;
        let [(key, field)] = &keys[..] else { panic!("{keys:?}") };
        assert_eq!(&**key, "\"k\":");
        Ok(field.clone())
    }

    #[test]
    fn keys_are_sorted_quoted_and_have_their_colon() {
        let keys = log(json(&[("b", text("x")), ("a\"\n", text("y")), ("c", Kind::BoolValue(true))])).unwrap().keys;
        let literal = |json: &str| LogField::Literal(json.into());
        let expected = [("\"a\\\"\\n\":", literal("\"y\"")), ("\"b\":", literal("\"x\"")), ("\"c\":", literal("true"))];
        assert_eq!(keys, expected.map(|(key, field)| (key.into(), field)));
    }

    #[test]
    fn literals() {
        for (kind, expected) in [
            (text(""), "\"\""),
            (text("100%%"), "\"100%\""),
            (text("a\"b"), "\"a\\\"b\""),
            (Kind::NumberValue(1.5), "1.5"),
            (Kind::NumberValue(-3.0), "-3"),
            (Kind::BoolValue(false), "false"),
            (Kind::NullValue(0), "null"),
        ] {
            assert_eq!(compiled(kind.clone()), Ok(LogField::Literal(expected.into())), "{kind:?}");
        }
    }

    #[test]
    fn names_of_headers_have_no_case() {
        assert_eq!(compiled(text("%REQ(:Method)%")), Ok(LogField::Method));
        assert_eq!(compiled(text("%REQ(X-Request-ID)%")), Ok(LogField::RequestHeader("x-request-id".parse().unwrap())));
        assert_eq!(compiled(text("%RESP(x-envoy-Upstream-service-time)%")), Ok(LogField::UpstreamServiceTime));
        let decision = "%DYNAMIC_METADATA(envoy.filters.network.ext_authz:decision)%";
        assert_eq!(compiled(text(decision)), Ok(LogField::Decision));
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_key() {
        let at = "envoy.extensions.access_loggers.file.v3.FileAccessLog.log_format.json_format.fields[\"k\"]: ";
        for unknown in [
            "%NOPE%",
            "%START_TIME(%s)%",
            "%REQ(A?B)%",
            "%REQ()%",
            "%REQ(X):5%",
            "%RESP(server)%",
            "%DYNAMIC_METADATA(weft:x)%",
            "%DYNAMIC_METADATA(other:decision)%",
            "%DYNAMIC_METADATA(weft)%",
            "%FILTER_STATE(x)%",
            "%TRAILER(x)%",
            "%protocol%",
        ] {
            let refused = compiled(text(unknown)).unwrap_err();
            assert!(refused.starts_with(at), "{unknown}: {refused}");
        }
        assert_eq!(compiled(text("%NOPE%")).unwrap_err(), format!("{at}`%NOPE%` is not supported by this proxy"));
        for mixed in ["%PROTOCOL% ", "a%PROTOCOL%", "%PROTOCOL%%DURATION%", "100%", "%", "%%%"] {
            let only = format!("{at}`{mixed}`: only one operator alone, or a text, is supported by this proxy");
            assert_eq!(compiled(text(mixed)).unwrap_err(), only);
        }
        let nested = Kind::StructValue(Struct::default());
        assert_eq!(compiled(nested).unwrap_err(), format!("{at}not supported by this proxy"));
        assert!(compiled(Kind::ListValue(protobuf::ListValue::default())).is_err());
        assert!(compiled(Kind::NumberValue(f64::NAN)).is_err());
    }

    #[test]
    #[allow(deprecated)]
    fn formats_of_other_kinds_are_refused() {
        let at = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
        let refused = |format| log(format).unwrap_err();
        let line =
            SubstitutionFormatString { format: Some(Format::TextFormat("%PROTOCOL%".into())), ..Default::default() };
        assert_eq!(refused(line), format!("{at}.log_format.text_format: not supported by this proxy"));
        let none = SubstitutionFormatString::default();
        assert_eq!(refused(none), format!("{at}.log_format.json_format: required"));
        let good = || json(&[("k", text("x"))]);
        let options = SubstitutionFormatString { json_format_options: Some(JsonFormatOptions::default()), ..good() };
        assert_eq!(refused(options), format!("{at}.log_format.json_format_options: not supported by this proxy"));
        let omit = SubstitutionFormatString { omit_empty_values: true, ..good() };
        assert_eq!(refused(omit), format!("{at}.log_format.omit_empty_values: not supported by this proxy"));
        let formatters = SubstitutionFormatString { formatters: vec![TypedExtensionConfig::default()], ..good() };
        assert_eq!(refused(formatters), format!("{at}.log_format.formatters: not supported by this proxy"));
        let old = Some(file_access_log::AccessLogFormat::Format("x".into()));
        let old = file(FileAccessLog { path: "/x".into(), access_log_format: old }, &Path::root::<FileAccessLog>());
        assert_eq!(old.unwrap_err().to_string(), format!("{at}.format: not supported by this proxy"));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(value in ".{0,20}", operator in "%[A-Z_]{0,12}(\\(.{0,8}\\))?%") {
            for value in [value, operator] {
                if let Ok(LogField::Literal(json)) = compiled(text(&value)) {
                    let back: String = serde_json::from_str(&json).unwrap();
                    prop_assert_eq!(back, value.replace("%%", "%"));
                }
            }
        }
    }
}
