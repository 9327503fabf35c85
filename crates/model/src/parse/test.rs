//! `kind: Test`: calls, what is to be decided about them, and where they are to go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::declared::Declared;
use super::fields::{Field, Shape, short};
use super::local::service;
use super::report::Report;
use super::values::method_problem;
use super::yaml::{Node, Value};
use crate::code;
use crate::id::{ServiceName, SpiffeId};
use crate::intent::{ExpectedBackend, ExpectedDecision, ExpectedRoute, Test, TestCaller};
use crate::mtls::PLAIN_TEXT;

const TEST: Shape = Shape { what: "a Test", fields: &["kind", "name", "decisions", "routes"], later: &[] };
const DECISION: Shape = Shape {
    what: "a decision",
    fields: &["from", "to", "call", "headers", "source", "at", "breakGlass", "expect", "by"],
    later: &["user", "host", "sni", "protocol"],
};
const ROUTE: Shape =
    Shape { what: "a route of a Test", fields: &["from", "to", "host", "call", "headers", "expect"], later: &["port"] };
const BACKEND: Shape = Shape { what: "where a call goes", fields: &["service", "subset", "weight"], later: &[] };

/// Reads the document. `None` if it has no legal name.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Option<Test> {
    let fields = TEST.read(root, report)?;
    let name = fields.required("name", "board", report).and_then(|name| name.dns_label(report));
    let routed = fields.optional("routes");
    let decided = match routed {
        Some(_) => fields.optional("decisions"),
        None => {
            fields.required("decisions", "[{from: prod/web, to: prod/board, call: GET /api, expect: allow}]", report)
        }
    };
    for list in decided.iter().chain(&routed) {
        list.warn_if_empty("this test expects nothing", report);
    }
    let (mut decisions, mut routes) = (Vec::new(), Vec::new());
    for item in decided.and_then(|list| list.items(report)).into_iter().flatten() {
        decisions.extend(decision(item, declared, report));
    }
    for item in routed.and_then(|list| list.items(report)).into_iter().flatten() {
        routes.extend(route(item, declared, report));
    }
    Some(Test { name: name?.into(), decisions, routes })
}

fn route(item: Field<'_>, declared: &Declared, report: &mut Report) -> Option<ExpectedRoute> {
    let fields = ROUTE.read(item.node, report)?;
    let from = fields.required("from", "prod/web", report).and_then(|field| service(field, declared, report));
    let to = fields.required("to", "prod/board", report).and_then(|field| service(field, declared, report));
    let host = fields.optional("host").and_then(|field| field.text(report)).map(Into::into);
    let call = fields.required("call", "GET /api/pins", report).and_then(|field| call(field, report));
    let headers = fields.optional("headers").and_then(|field| headers(field, report)).unwrap_or_default();
    let expect = fields.required("expect", "{subset: v2}", report);
    let (to, expect) = (to?, expect?);
    let backends = match &expect.node.value {
        Value::Scalar { text, .. } if text == "none" => Vec::new(),
        Value::Map(_) => vec![backend(expect, &to, declared, report)?],
        Value::List(items) if !items.is_empty() => {
            let items = expect.items(report)?;
            items.map(|item| backend(item, &to, declared, report)).collect::<Option<_>>()?
        }
        _ => {
            let hint = "write where the call goes, like {subset: v2}, a list of all such places, or `none`";
            report.error(code::BAD_TEST, expect.span(), "`expect` names no place where a call could go", hint);
            return None;
        }
    };
    let ((method, target), span) = (call?, item.span().clone());
    Some(ExpectedRoute { from: from?, to, host, method, target, headers, backends, span })
}

fn backend(item: Field<'_>, to: &ServiceName, declared: &Declared, report: &mut Report) -> Option<ExpectedBackend> {
    let fields = BACKEND.read(item.node, report)?;
    let service = match fields.optional("service") {
        Some(field) => service(field, declared, report)?,
        None => to.clone(),
    };
    let subset = fields.optional("subset").and_then(|field| field.text(report)).map(Into::into);
    let weight = fields.optional("weight").and_then(|field| field.number(1, 1_000_000, report));
    Some(ExpectedBackend { service, subset, weight: weight.map(|weight| weight as u32) })
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
    let states = [("true", true), ("false", false)];
    let broken = fields.optional("breakGlass").and_then(|field| field.choice(&states, &[], report)).unwrap_or(false);
    let words = [("allow", true), ("deny", false)];
    let expect = fields.required("expect", "allow", report).and_then(|field| field.choice(&words, &[], report));
    let by = fields.optional("by").and_then(|field| field.text(report)).map(Into::into);
    let ((method, target), span) = (call?, item.span().clone());
    Some(ExpectedDecision {
        from: from?,
        to: to?,
        method,
        target,
        headers,
        source,
        at,
        break_glass: broken,
        allowed: expect?,
        by,
        span,
    })
}

fn caller(field: Field<'_>, declared: &Declared, report: &mut Report) -> Option<TestCaller> {
    let text = field.text(report)?;
    if text == PLAIN_TEXT {
        return Some(TestCaller::PlainText);
    }
    if !text.starts_with("spiffe://") {
        return service(field, declared, report).map(TestCaller::Service);
    }
    match text.parse::<SpiffeId>() {
        Ok(id) => Some(TestCaller::Id(id)),
        Err(error) => {
            report.error(
                code::BAD_NAME,
                field.span(),
                error.to_string(),
                "write one like spiffe://other.example/ns/prod/sa/web",
            );
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
    match crate::time::parse(text) {
        Some(time) => Some(time),
        None => {
            let message = format!("`{}` is not a time", short(text));
            let hint = "write it with its offset, like 2026-03-29T09:00:00+02:00 or 2026-03-29T07:00:00Z";
            report.error(code::BAD_TEST, field.span(), message, hint);
            None
        }
    }
}
