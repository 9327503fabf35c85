//! What a decision read of a request, for people and their logs: JSON, without what must be kept secret.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use weft_model::intent::PolicyInputs;

use super::clock::weekday;
use super::{Attribute, Reads, Surroundings, minute, parameters};
use crate::request::CallRequest;

/// Stands for a value that is not shown.
pub const REDACTED: &str = "[redacted]";

/// Words of a name, between its dashes and underscores, that by themselves say so.
const SECRET_PARTS: [&str; 17] = [
    "key", "pwd", "pw", "otp", "totp", "mfa", "pin", "csrf", "xsrf", "sid", "sig", "hmac", "mac", "ticket", "pat",
    "sas", "saml",
];
/// What is in the name of what mostly is a secret.
const SECRET_WORDS: [&str; 13] = [
    "token",
    "secret",
    "pass",
    "assertion",
    "credential",
    "signature",
    "session",
    "jwt",
    "bearer",
    "cookie",
    "auth",
    "apikey",
    "code",
];

/// The values of what `reads` names, by the name that stands behind `context.`. Without method, path, host, protocol and address, which a log
/// has anyhow, and without what is absent.
pub(crate) fn shown(
    request: &CallRequest<'_>,
    reads: &Reads,
    inputs: &PolicyInputs,
    around: &Surroundings<'_>,
) -> Map<String, Value> {
    let mut shown = Map::new();
    for attribute in reads.iter() {
        let value = match attribute {
            Attribute::Header(name) => request
                .headers
                .header(name)
                .map(|value| if is_secret(name, inputs) { json!(REDACTED) } else { json!(value) }),
            Attribute::Query(name) => {
                let values = parameters(request.query, std::slice::from_ref(name)).concat();
                let shown = || if is_secret(name, inputs) { json!([REDACTED]) } else { json!(values) };
                (!values.is_empty()).then(shown)
            }
            Attribute::Grpc => Some(json!(request.grpc)),
            Attribute::Tls => Some(json!(request.tls.is_some())),
            Attribute::ServerName => request.tls.and_then(|tls| tls.server_name).map(|name| json!(name)),
            Attribute::User => request.user.map(|user| {
                let claims = user.claims.iter().map(|(name, value)| {
                    let value = if is_secret(name, inputs) { REDACTED } else { value };
                    (name.to_string(), json!(value))
                });
                json!({
                    "subject": user.subject, "issuer": user.issuer, "scopes": user.scopes, "groups": user.groups,
                    "claims": claims.collect::<Map<String, Value>>(),
                })
            }),
            Attribute::Zone(zone) => around.clock.local(zone, minute(request.now)).map(|local| {
                json!({
                    "date": local.date().to_string(), "weekday": weekday(local.date().weekday()),
                    "minuteOfDay": i64::from(local.hour()) * 60 + i64::from(local.minute()),
                })
            }),
            Attribute::Port => Some(json!(around.port)),
            Attribute::BreakGlass => Some(json!(around.break_glass)),
            Attribute::Method
            | Attribute::Path
            | Attribute::Depth
            | Attribute::First(_)
            | Attribute::Segment(_)
            | Attribute::Host
            | Attribute::Protocol
            | Attribute::SourceIp
            | Attribute::Now => None,
        };
        shown.extend(value.map(|value| (attribute.to_string(), value)));
    }
    shown
}

/// By `Mesh.policy.redact`, or by its name.
fn is_secret(name: &Arc<str>, inputs: &PolicyInputs) -> bool {
    let plain = name.to_ascii_lowercase();
    inputs.redact.contains(name)
        || SECRET_WORDS.iter().any(|word| plain.contains(word))
        || plain.split(['-', '_', '.']).any(|part| SECRET_PARTS.contains(&part))
}
