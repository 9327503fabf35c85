//! `Mesh.policy`: what policies may read of a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZoneDatabase;

use super::fields::{Field, Shape, short};
use super::report::Report;
use super::suggest;
use crate::code;
use crate::intent::PolicyInputs;

const POLICY: Shape = Shape {
    what: "`policy`",
    fields: &["headers", "query", "claims", "redact", "timeZones"],
    later: &["log", "shadow", "breakGlass", "cookies"],
};

/// So many of each kind; a decision can depend on each of them.
const NAMES_MAX: usize = 64;

/// Fields that say nothing of the request itself or that hold what must not be told to logs, and why not.
const REFUSED: [(&str, &str); 13] = [
    ("host", "policies read it as context.host"),
    ("authorization", "it holds a secret; what a token says is context.user"),
    ("proxy-authorization", "it holds a secret"),
    ("cookie", "it holds secrets"),
    ("connection", "it concerns one connection and goes no further"),
    ("keep-alive", "it concerns one connection and goes no further"),
    ("proxy-connection", "it concerns one connection and goes no further"),
    ("te", "it concerns one connection and goes no further"),
    ("transfer-encoding", "it concerns one connection and goes no further"),
    ("upgrade", "it concerns one connection and goes no further"),
    ("content-length", "it belongs to the framing of the message"),
    ("x-forwarded-client-cert", "callers are principals: read principal"),
    ("expect", "it is answered before the request is whole"),
];

pub(super) fn read(field: Field<'_>, report: &mut Report) -> PolicyInputs {
    let Some(fields) = POLICY.read(field.node, report) else { return PolicyInputs::default() };
    let mut names = |key: &str, example: &str, problem: fn(&str) -> Option<String>| {
        fields.optional(key).map(|field| self::names(field, example, problem, report)).unwrap_or_default()
    };
    let headers = names("headers", "x-tenant", header_problem);
    let query = names("query", "tenant", parameter_problem);
    let claims = names("claims", "department", parameter_problem);
    let time_zones = fields.optional("timeZones").map(|field| time_zones(field, report)).unwrap_or_default();
    let redact = fields.optional("redact").map(|field| {
        let known = [&headers, &query, &claims].into_iter().flatten().cloned().collect();
        redact(field, known, report)
    });
    PolicyInputs { headers, query, claims, redact: redact.unwrap_or_default(), time_zones }
}

/// Distinct names, sorted.
fn names(field: Field<'_>, example: &str, problem: fn(&str) -> Option<String>, report: &mut Report) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let Some(text) = item.text(report) else { continue };
        if let Some(why) = problem(text) {
            let message = format!("policies cannot read `{}` of `{}`: {why}", short(text), field.key);
            report.error(code::BAD_INPUT, item.span(), message, format!("write names like {example}"));
        } else if names.iter().any(|known| **known == *text) {
            report.warning(code::REPEATED, item.span(), format!("`{text}` stands here a second time"), "keep one");
        } else {
            names.push(text.into());
        }
    }
    if names.len() > NAMES_MAX {
        let message = format!("`{}` has {} names; {NAMES_MAX} are the most", field.key, names.len());
        report.error(code::LIMIT, field.span(), message, "declare only what policies read");
    }
    names.sort_unstable();
    names
}

/// Those of the declared names whose values no log may have.
fn redact(field: Field<'_>, known: Vec<Arc<str>>, report: &mut Report) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let Some(text) = item.text(report) else { continue };
        match known.iter().find(|name| ***name == *text) {
            Some(name) => names.push(name.clone()),
            None => {
                let message =
                    format!("`{}` is none of the headers, parameters and claims that policies read", short(text));
                let hint = suggest::hint(text, known.iter().map(|name| &**name), || {
                    "declare it under `headers`, `query` or `claims`, or leave it out: what is not declared is in no log".to_owned()
                });
                report.error(code::BAD_INPUT, item.span(), message, hint);
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn header_problem(name: &str) -> Option<String> {
    // RFC 9110 s.5.6.2, in the case in which HTTP/2 carries them (RFC 9113 s.8.2).
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Some("it is no name of a header field".to_owned());
    }
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some(format!("write it in lower case, {}", name.to_ascii_lowercase()));
    }
    if name.starts_with("x-weft-") || name.starts_with("x-envoy-") {
        return Some("it belongs to the mesh and is taken off requests".to_owned());
    }
    REFUSED.iter().find(|(refused, _)| *refused == name).map(|(_, why)| (*why).to_owned())
}

fn parameter_problem(name: &str) -> Option<String> {
    let is_legal = !name.is_empty() && name.len() <= 128 && !name.chars().any(char::is_control);
    (!is_legal).then(|| "a name has 1 to 128 bytes and no control characters".to_owned())
}

fn time_zones(field: Field<'_>, report: &mut Report) -> BTreeMap<Arc<str>, Arc<str>> {
    let database = TimeZoneDatabase::bundled();
    let mut zones = BTreeMap::new();
    let entries = field.entries(report).unwrap_or_default();
    if entries.len() > NAMES_MAX {
        let message = format!("`timeZones` has {} names; {NAMES_MAX} are the most", entries.len());
        report.error(code::LIMIT, field.span(), message, "declare only what policies read");
    }
    for entry in entries {
        let name = entry.key;
        let is_word = name.len() <= 63
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_word || name == "utc" {
            let message = format!("`{}` cannot be the name of a time zone", short(name));
            let hint = "use letters, digits and underscores, a letter first, so that policies can write \
                        context.time.office.hour; `utc` is there by itself";
            report.error(code::BAD_NAME, entry.key_span, message, hint);
            continue;
        }
        let Some(zone) = entry.text(report) else { continue };
        // The database finds names in any case; a policy bundle has the one spelling.
        match database.get(zone).ok().and_then(|found| found.iana_name().map(str::to_owned)) {
            Some(known) if known == zone => {
                zones.insert(name.into(), zone.into());
            }
            Some(known) => {
                let message = format!("`{}` is not how the time zone is written", short(zone));
                report.error(code::BAD_VALUE, entry.span(), message, format!("write {known}"));
            }
            None => {
                let names: Vec<String> = database.available().map(|name| name.to_string()).collect();
                let hint = suggest::hint(zone, names.iter().map(String::as_str), || {
                    "write a name of the IANA time zone database, like Europe/Berlin".to_owned()
                });
                report.error(code::BAD_VALUE, entry.span(), format!("there is no time zone `{}`", short(zone)), hint);
            }
        }
    }
    zones
}
