//! `kind: Test`: calls, and what is to be decided about them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::declared::Declared;
use super::fields::{Field, Shape, short};
use super::local::service;
use super::report::Report;
use super::values::method_problem;
use super::yaml::Node;
use crate::code;
use crate::id::SpiffeId;
use crate::intent::{ExpectedDecision, Test, TestCaller};

const TEST: Shape = Shape { what: "a Test", fields: &["kind", "name", "decisions"], later: &["routes"] };
const DECISION: Shape = Shape {
    what: "a decision",
    fields: &["from", "to", "call", "headers", "source", "at", "expect", "by"],
    later: &["user", "host", "sni", "protocol"],
};

/// Reads the document. `None` if it has no legal name.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Option<Test> {
    let fields = TEST.read(root, report)?;
    let name = fields.required("name", "board", report).and_then(|name| name.dns_label(report));
    let list =
        fields.required("decisions", "[{from: prod/web, to: prod/board, call: GET /api, expect: allow}]", report);
    let mut decisions = Vec::new();
    for item in list.and_then(|list| list.items(report)).into_iter().flatten() {
        decisions.extend(decision(item, declared, report));
    }
    Some(Test { name: name?.into(), decisions })
}

fn decision(item: Field<'_>, declared: &Declared, report: &mut Report) -> Option<ExpectedDecision> {
    let fields = DECISION.read(item.node, report)?;
    let from = fields.required("from", "prod/web", report).and_then(|field| caller(field, declared, report));
    let to = fields.required("to", "prod/board", report).and_then(|field| service(field, declared, report));
    // Connections of a TCP service have none.
    let call = fields.optional("call").map_or(Some(("".into(), "".into())), |field| call(field, report));
    let headers = fields.optional("headers").and_then(|field| headers(field, report)).unwrap_or_default();
    let source = fields.optional("source").and_then(|field| {
        let text = field.text(report)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            let message = format!("`{}` is not an address", short(text));
            report.error(code::BAD_TEST, field.span(), message, "write one like 10.0.0.7 or 2001:db8::7");
        }
        parsed
    });
    let at = fields.optional("at").and_then(|field| time(field, report));
    let words = [("allow", true), ("deny", false)];
    let expect = fields.required("expect", "allow", report).and_then(|field| field.choice(&words, &[], report));
    let by = fields.optional("by").and_then(|field| field.text(report)).map(Into::into);
    let ((method, target), span) = (call?, item.span().clone());
    Some(ExpectedDecision { from: from?, to: to?, method, target, headers, source, at, allowed: expect?, by, span })
}

fn caller(field: Field<'_>, declared: &Declared, report: &mut Report) -> Option<TestCaller> {
    let text = field.text(report)?;
    if !text.starts_with("spiffe://") {
        return service(field, declared, report).map(TestCaller::Service);
    }
    match text.parse::<SpiffeId>() {
        Ok(id) => Some(TestCaller::Id(id)),
        Err(error) => {
            let message = format!("`{}` is not a SPIFFE ID: {error}", short(text));
            report.error(code::BAD_NAME, field.span(), message, "write one like spiffe://other.example/ns/prod/sa/web");
            None
        }
    }
}

/// `GET /path?query`.
fn call(field: Field<'_>, report: &mut Report) -> Option<(Arc<str>, Arc<str>)> {
    let text = field.text(report)?;
    let problem = match text.split_once(' ') {
        Some((method, target)) if target.starts_with('/') => match method_problem(method) {
            None => return Some((method.into(), target.into())),
            Some(problem) => problem,
        },
        _ => (
            format!("`{}` is not a method and a path", short(text)),
            "write them like `GET /api/pins?tag=red`; a tcp service has no `call`".to_owned(),
        ),
    };
    report.error(code::BAD_TEST, field.span(), problem.0, problem.1);
    None
}

fn headers(field: Field<'_>, report: &mut Report) -> Option<BTreeMap<Arc<str>, Arc<str>>> {
    let mut headers = BTreeMap::new();
    for entry in field.entries(report)? {
        let Some(value) = entry.text(report) else { continue };
        headers.insert(entry.key.to_ascii_lowercase().into(), value.into());
    }
    Some(headers)
}

fn time(field: Field<'_>, report: &mut Report) -> Option<SystemTime> {
    let text = field.text(report)?;
    let parsed = text.parse::<Timestamp>().ok().and_then(|time| u64::try_from(time.as_second()).ok());
    match parsed {
        Some(seconds) => Some(UNIX_EPOCH + Duration::from_secs(seconds)),
        None => {
            let message = format!("`{}` is not a time", short(text));
            let hint = "write it with its offset, like 2026-03-29T09:00:00+02:00 or 2026-03-29T07:00:00Z";
            report.error(code::BAD_TEST, field.span(), message, hint);
            None
        }
    }
}
