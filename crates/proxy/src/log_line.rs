//! An access-log line, written straight into the worker's buffer.

use std::borrow::Cow;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderValue, Method};
use weft_telemetry::Failure;
use weft_telemetry::json::{push_json_bytes, push_json_string, push_number};

use crate::record::{Record, protocol};
use weft_proxy_config::{LogField, LogFormat};

/// Appends the line of a finished exchange, with its newline.
pub(crate) fn write(out: &mut Vec<u8>, format: &LogFormat, record: &Record, duration_ms: u64) {
    out.push(b'{');
    for (index, (key, field)) in format.keys.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(key.as_bytes());
        write_field(out, field, record, duration_ms);
    }
    out.extend_from_slice(b"}\n");
}

fn write_field(out: &mut Vec<u8>, field: &LogField, record: &Record, duration_ms: u64) {
    let facts = record.failure.map(Failure::facts);
    let connection = &record.connection;
    match field {
        LogField::Literal(json) => out.extend_from_slice(json.as_bytes()),
        LogField::StartTime => push_time(out, record.started_at),
        LogField::Method => push_optional(out, record.method.as_ref().map(Method::as_str)),
        LogField::Path => push_optional(out, record.path.as_ref().map(|path| path.as_str())),
        LogField::Authority => push_optional_bytes(out, record.authority.as_ref().map(|value| value.as_bytes())),
        LogField::Scheme => push_optional(out, record.protocol.map(|_| "http")),
        LogField::RequestHeader(name) if name == "x-request-id" => {
            push_optional_bytes(out, record.request_id.as_ref().map(HeaderValue::as_bytes));
        }
        LogField::RequestHeader(name) => {
            let value = record.logged_headers.iter().find(|(known, _)| known == name);
            push_optional_bytes(out, value.map(|(_, value)| value.as_bytes()));
        }
        LogField::UpstreamServiceTime => match record.upstream_ms {
            Some(ms) => {
                out.push(b'"');
                push_number(out, ms);
                out.push(b'"');
            }
            None => push_optional(out, None),
        },
        LogField::Protocol => push_optional(out, record.protocol.map(protocol)),
        LogField::ResponseCode => push_number(out, record.status.map_or(0, |status| status.as_u16()).into()),
        LogField::ResponseFlags => push_json_string(out, facts.map_or("-", |facts| facts.flag)),
        LogField::ResponseCodeDetails => push_optional(out, details(record).as_deref()),
        LogField::ConnectionTerminationDetails => push_optional(out, None),
        LogField::BytesReceived => push_number(out, record.received.get()),
        LogField::BytesSent => push_number(out, record.sent),
        LogField::Duration => push_number(out, duration_ms),
        LogField::UpstreamHost => push_address(out, record.upstream),
        LogField::UpstreamCluster => push_optional(out, record.cluster.as_ref().map(|cluster| &*cluster.name)),
        LogField::UpstreamLocalAddress => push_address(out, record.upstream_local),
        LogField::UpstreamTransportFailureReason => push_optional(out, record.transport_reason.as_deref()),
        LogField::UpstreamRequestAttemptCount => push_number(out, record.attempts.into()),
        LogField::UpstreamPeerUriSan => push_optional(out, record.upstream_id.as_deref()),
        LogField::UpstreamLocalUriSan | LogField::DownstreamLocalUriSan => push_json_string(out, &connection.own_id),
        LogField::DownstreamLocalAddress => push_address(out, connection.local_address),
        LogField::DownstreamRemoteAddress => push_address(out, connection.remote_address),
        LogField::DownstreamPeerUriSan => push_optional(out, connection.peer_id.as_deref()),
        LogField::RequestedServerName => push_optional(out, connection.server_name.as_deref()),
        LogField::RouteName => push_optional(out, record.route.as_deref()),
        LogField::TraceId => {
            let trace = record.protocol.map(|_| record.trace.trace_id_hex());
            push_optional_bytes(out, trace.as_ref().map(|id| &id[..]));
        }
        LogField::Decision => match &record.told {
            Some(told) => push_optional(out, told.decision.as_deref()),
            None => push_optional(
                out,
                record.verdict.as_ref().map(|verdict| if verdict.allowed { "allow" } else { "deny" }),
            ),
        },
        LogField::DecisionId => match &record.told {
            Some(told) => push_optional(out, told.decision_id.as_deref()),
            None => push_optional_bytes(out, record.verdict.as_ref().map(|verdict| &verdict.id[..])),
        },
        LogField::Policy => match &record.told {
            Some(told) => push_optional(out, told.policy.as_deref()),
            None => push_optional(out, record.verdict.as_ref().map(|verdict| &*verdict.policy)),
        },
        LogField::Shadow => match &record.told {
            Some(told) => push_optional(out, told.shadow.as_deref()),
            None => {
                let shadow = record.verdict.as_ref().and_then(|verdict| verdict.shadow.as_ref());
                push_optional(out, shadow.map(ToString::to_string).as_deref());
            }
        },
        LogField::FailedOpen => push_optional(out, record.failed_open.then_some("true")),
        LogField::Layer => push_optional(out, facts.map(|facts| facts.layer.as_str())),
        LogField::Cause => push_optional(out, facts.map(|facts| facts.cause)),
        LogField::ConfigVersion => push_json_string(out, &record.config.revision),
    }
}

/// Envoy's `RESPONSE_CODE_DETAILS`. A TCP connection that was open has none.
fn details(record: &Record) -> Option<Cow<'static, str>> {
    let Some(facts) = record.failure.map(Failure::facts) else { return record.status.map(|_| "via_upstream".into()) };
    let has_begun = record.is_open || record.upstream_ms.is_some();
    match facts.details.strip_prefix("upstream_reset_before_response_started") {
        _ if record.is_open && record.protocol.is_none() => None,
        Some(reason) if has_begun => Some(format!("upstream_reset_after_response_started{reason}").into()),
        _ => Some(facts.details.into()),
    }
}

fn push_optional(out: &mut Vec<u8>, value: Option<&str>) {
    push_optional_bytes(out, value.map(str::as_bytes));
}

fn push_optional_bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        Some(value) => push_json_bytes(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn push_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address {
        // Several a line, and the formatter takes longer than all else that a line needs.
        Some(SocketAddr::V4(address)) => {
            for (mark, octet) in b"\"...".iter().zip(address.ip().octets()) {
                out.push(*mark);
                push_number(out, octet.into());
            }
            out.push(b':');
            push_number(out, address.port().into());
            out.push(b'"');
        }
        Some(address) => {
            let _ = write!(out, "\"{address}\"");
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// RFC 3339 in UTC with milliseconds, as Envoy's `%START_TIME%`.
fn push_time(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400);
    let (year, month, day) = civil_date(days);
    let digits = |out: &mut Vec<u8>, width: usize, number: u64| {
        let mut text = [b'0'; 4];
        let mut rest = number;
        for digit in text[..width].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.extend_from_slice(&text[..width]);
    };
    out.push(b'"');
    digits(out, 4, year as u64);
    for (mark, width, number) in [
        (b'-', 2, month),
        (b'-', 2, day),
        (b'T', 2, second / 3600),
        (b':', 2, second / 60 % 60),
        (b':', 2, second % 60),
        (b'.', 3, since.subsec_millis().into()),
    ] {
        out.push(mark);
        digits(out, width, number);
    }
    out.extend_from_slice(b"Z\"");
}

/// The date of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil_date(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u64, day as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    proptest::proptest! {
        #[test]
        fn addresses_are_as_the_library_writes_them(address in proptest::prelude::any::<SocketAddr>()) {
            let mut out = Vec::new();
            push_address(&mut out, Some(address));
            proptest::prop_assert_eq!(String::from_utf8(out).unwrap(), format!("\"{address}\""));
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, millis, text) in [
            (0, 0, "\"1970-01-01T00:00:00.000Z\""),
            (951_782_399, 7, "\"2000-02-28T23:59:59.007Z\""),
            (951_782_400, 0, "\"2000-02-29T00:00:00.000Z\""),
            (1_795_537_086, 250, "\"2026-11-24T16:18:06.250Z\""),
            (4_107_542_400, 999, "\"2100-03-01T00:00:00.999Z\""),
        ] {
            let mut out = Vec::new();
            push_time(&mut out, UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }
}
