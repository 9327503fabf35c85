//! A request as Cedar's context, with the attributes that are read and no others.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use cedar_policy::{Context, ContextCreationError, RestrictedExpression};
use jiff::Timestamp;
use jiff::civil::DateTime;

use super::clock::weekday;
use super::{Attribute, Clock, Reads, depth, first, minute, segment};
use crate::request::{CallRequest, User, grpc_method};

type Pair = (String, RestrictedExpression);

/// What of a context no request says: the callee's and the mesh's part.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) port: u16,
    pub(crate) clock: &'a Clock,
    pub(crate) break_glass: bool,
}

/// The context. Records that every request has are always there, whatever of them is read.
pub(crate) fn build(
    request: &CallRequest<'_>,
    reads: &Reads,
    around: &Surroundings<'_>,
) -> Result<Context, Box<ContextCreationError>> {
    let mut pairs: Vec<Pair> = Vec::with_capacity(4);
    let (mut headers, mut query, mut time) = (Vec::new(), Vec::new(), Vec::new());
    let mut has_tls = false;
    for attribute in reads.iter() {
        let mut put = |name: &str, value: Option<RestrictedExpression>| {
            pairs.extend(value.map(|value| (name.to_owned(), value)));
        };
        match attribute {
            Attribute::Method => put("method", Some(text(request.method))),
            Attribute::Path => put("path", Some(text(request.path))),
            Attribute::Depth => put("depth", Some(long(depth(request.path) as i64))),
            Attribute::First(n) => put(&format!("first{n}"), first(request.path, *n).map(text)),
            Attribute::Segment(n) => put(&format!("segment{n}"), segment(request.path, *n).map(text)),
            Attribute::Host => put("host", Some(text(request.host))),
            Attribute::Port => put("port", Some(long(around.port.into()))),
            Attribute::Protocol => put("protocol", Some(text(request.protocol))),
            Attribute::SourceIp => {
                put("sourceIp", request.source().map(|ip| RestrictedExpression::new_ip(ip.to_string())));
            }
            Attribute::Header(name) => {
                headers.extend(request.headers.header(name).map(|value| (name.to_string(), text(&value))));
            }
            Attribute::Query(name) => {
                let values = parameters(request.query, std::slice::from_ref(name)).concat();
                query.extend((!values.is_empty()).then(|| (name.to_string(), set(&values))));
            }
            Attribute::Grpc => put("grpc", grpc(request)),
            Attribute::Tls | Attribute::ServerName => has_tls = true,
            Attribute::User => put("user", request.user.map(user)),
            Attribute::Zone(zone) => {
                let local = around.clock.local(zone, minute(request.now));
                time.extend(local.map(|local| (zone.to_string(), wall(local))));
            }
            Attribute::Now => put("now", Some(now(minute(request.now)))),
            Attribute::BreakGlass => put("breakGlass", Some(RestrictedExpression::new_bool(around.break_glass))),
        }
    }
    let tls = request.tls.filter(|_| has_tls);
    pairs.extend(tls.map(|tls| ("tls".to_owned(), record(pair("sni", tls.server_name.map(text))))));
    let records = [("headers", headers), ("query", query), ("time", time)];
    pairs.extend(records.map(|(name, members)| (name.to_owned(), record(members))));
    Context::from_pairs(pairs).map_err(Box::new)
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

fn long(value: i64) -> RestrictedExpression {
    RestrictedExpression::new_long(value)
}

fn set<T: AsRef<str>>(values: &[T]) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().map(|value| text(value.as_ref())))
}

fn record(members: impl IntoIterator<Item = Pair>) -> RestrictedExpression {
    RestrictedExpression::new_record(members).expect("its names differ")
}

fn pair(name: &str, value: Option<RestrictedExpression>) -> Option<Pair> {
    value.map(|value| (name.to_owned(), value))
}

/// The values of each of these parameters of a query, decoded as forms are (`+` is a space); none of one that is not there.
pub(crate) fn parameters<'a>(query: Option<&'a str>, names: &[Arc<str>]) -> Vec<Vec<Cow<'a, str>>> {
    let mut values = vec![Vec::new(); names.len()];
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if let Some(at) = names.iter().position(|known| **known == *name) {
            values[at].push(value);
        }
    }
    values
}

fn grpc(request: &CallRequest<'_>) -> Option<RestrictedExpression> {
    let (service, method) = grpc_method(request.path).filter(|_| request.grpc)?;
    Some(record([("service".to_owned(), text(service)), ("method".to_owned(), text(method))]))
}

fn user(user: &User) -> RestrictedExpression {
    let claims = user.claims.iter().map(|(name, value)| (name.to_string(), text(value)));
    record([
        ("subject".to_owned(), text(&user.subject)),
        ("issuer".to_owned(), text(&user.issuer)),
        ("scopes".to_owned(), set(&user.scopes)),
        ("groups".to_owned(), set(&user.groups)),
        ("claims".to_owned(), record(claims)),
    ])
}

fn wall(local: DateTime) -> RestrictedExpression {
    let (hour, minute) = (i64::from(local.hour()), i64::from(local.minute()));
    record([
        ("date".to_owned(), text(&local.date().to_string())),
        ("weekday".to_owned(), text(weekday(local.date().weekday()))),
        ("hour".to_owned(), long(hour)),
        ("minute".to_owned(), long(minute)),
        ("minuteOfDay".to_owned(), long(hour * 60 + minute)),
    ])
}

/// The context of `Action::"breakGlass"`.
pub(crate) fn build_for_glass(
    clock: &Clock,
    minutes: u64,
    reason: &str,
    at: SystemTime,
) -> Result<Context, Box<ContextCreationError>> {
    let time = clock.all(minute(at)).map(|(zone, local)| (zone.to_owned(), wall(local)));
    let pairs = [
        ("minutes".to_owned(), long(i64::try_from(minutes).unwrap_or(i64::MAX))),
        ("reason".to_owned(), text(reason)),
        ("time".to_owned(), record(time)),
        ("now".to_owned(), now(minute(at))),
    ];
    Context::from_pairs(pairs).map_err(Box::new)
}

/// Cedar's `datetime`.
fn now(minute: u64) -> RestrictedExpression {
    let at = i64::try_from(minute * 60).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    RestrictedExpression::new_datetime(at.unwrap_or(Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
