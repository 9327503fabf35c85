//! `routes`: Gateway API `HTTPRouteRule`s.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::fields::{Field, Shape, short};
use super::report::Report;
use super::shadow;
use super::suggest;
use super::values::{is_token, method_problem, path_problem};
use super::yaml::Value;
use crate::code;
use crate::finding::Span;
use crate::intent::{BackendRef, HeaderMatch, PathMatch, Paths, Protocol, Route, RouteMatch};

const RULE: Shape = Shape {
    what: "a route rule",
    fields: &["matches", "backendRefs", "timeouts"],
    later: &["name", "filters", "retry", "sessionPersistence", "fault", "mirror"],
};
const MATCH: Shape = Shape { what: "a route match", fields: &["path", "headers", "method"], later: &["queryParams"] };
const PATH: Shape = Shape { what: "`path`", fields: &["type", "value"], later: &[] };
const HEADER: Shape = Shape { what: "a header match", fields: &["type", "name", "value"], later: &[] };
const BACKEND: Shape = Shape {
    what: "a backendRef",
    fields: &["subset", "weight"],
    later: &["name", "namespace", "port", "kind", "group", "filters"],
};
const TIMEOUTS: Shape = Shape { what: "`timeouts`", fields: &["request"], later: &["backendRequest", "idle"] };

/// The Gateway API's bound.
const MAX_WEIGHT: u64 = 1_000_000;

type Subsets = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<str>>>;

/// A match and where it is written.
struct PlacedMatch {
    value: RouteMatch,
    span: Span,
}

/// Reads the rules and reports those that can never be chosen.
pub(super) fn read(
    field: Field<'_>,
    protocol: Option<Protocol>,
    paths: Paths,
    subsets: &Subsets,
    report: &mut Report,
) -> Vec<Route> {
    if protocol == Some(Protocol::Tcp) {
        let hint = "remove `routes`: connections go to all endpoints of the service";
        report.error(code::NOT_HTTP, field.key_span, "a tcp service has no routes", hint);
        return Vec::new();
    }
    let mut routes = Vec::new();
    let mut placed = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let Some(fields) = RULE.read(item.node, report) else { continue };
        let before = report.len();
        let matches = fields.optional("matches").map(|field| matches(field, paths, report)).unwrap_or_default();
        if matches.is_empty() && report.len() == before {
            // No match at all means everything, like one for the prefix `/`.
            placed.push(PlacedMatch { value: everything(), span: item.span().clone() });
        }
        let backends = match fields.optional("backendRefs") {
            Some(field) => backends(field, subsets, report),
            None => vec![BackendRef { subset: None, weight: 1, span: item.span().clone() }],
        };
        let timeouts = fields.optional("timeouts").and_then(|field| TIMEOUTS.read(field.node, report));
        let request_timeout =
            timeouts.and_then(|fields| fields.optional("request")).and_then(|field| field.duration(report));
        routes.push(Route {
            matches: matches.iter().map(|m| m.value.clone()).collect(),
            backends,
            request_timeout,
            span: item.span().clone(),
        });
        placed.extend(matches);
    }
    let in_order: Vec<&RouteMatch> = placed.iter().map(|placed| &placed.value).collect();
    for dead in shadow::never_chosen(&in_order) {
        let (first, later) = (&placed[dead.by].span, &placed[dead.what].span);
        let hint = format!("the same match stands at {first} and comes first; change or remove one");
        report.error(code::SHADOWED, later, "this can never be chosen", hint);
    }
    routes
}

fn everything() -> RouteMatch {
    RouteMatch { path: PathMatch::Prefix("/".into()), headers: Vec::new(), method: None }
}

fn matches(field: Field<'_>, paths: Paths, report: &mut Report) -> Vec<PlacedMatch> {
    let mut matches = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let before = report.len();
        let Some(fields) = MATCH.read(item.node, report) else { continue };
        let path = fields.optional("path").and_then(|field| path(field, paths, report));
        let headers = fields.optional("headers").map(|field| headers(field, report)).unwrap_or_default();
        let method = fields.optional("method").and_then(|field| method(field, report));
        // Half a match would match more than was meant.
        if report.len() == before {
            let path = path.unwrap_or_else(|| PathMatch::Prefix("/".into()));
            matches.push(PlacedMatch { value: RouteMatch { path, headers, method }, span: item.span().clone() });
        }
    }
    matches
}

fn path(field: Field<'_>, paths: Paths, report: &mut Report) -> Option<PathMatch> {
    if let Value::Scalar { text, .. } = &field.node.value {
        let message = "`path` must be a mapping, and here is text";
        let hint = format!("write `path: {{type: PathPrefix, value: {}}}`", short(text));
        report.error(code::WRONG_TYPE, field.span(), message, hint);
        return None;
    }
    let fields = PATH.read(field.node, report)?;
    let exact = match fields.optional("type") {
        None => false,
        Some(field) => field.choice(&[("Exact", true), ("PathPrefix", false)], &["RegularExpression"], report)?,
    };
    let Some(value) = fields.optional("value") else { return (!exact).then(|| PathMatch::Prefix("/".into())) };
    let text = value.text(report)?;
    if let Some((problem, hint)) = path_problem(text, paths) {
        report.error(code::BAD_MATCH, value.span(), problem, hint);
        return None;
    }
    if text.contains('*') {
        let hint = "PathPrefix already matches everything below, by whole segments; write it without `*`";
        report.error(
            code::BAD_MATCH,
            value.span(),
            format!("the path `{}` has a `*`, and route paths have no wildcards", short(text)),
            hint,
        );
        return None;
    }
    Some(match exact {
        true => PathMatch::Exact(text.into()),
        // `/api/` and `/api` are the same prefix (Gateway API), so they are one value from here on.
        false if text.len() > 1 => PathMatch::Prefix(text.strip_suffix('/').unwrap_or(text).into()),
        false => PathMatch::Prefix(text.into()),
    })
}

fn headers(field: Field<'_>, report: &mut Report) -> Vec<HeaderMatch> {
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let Some(fields) = HEADER.read(item.node, report) else { continue };
        let exact = fields
            .optional("type")
            .is_none_or(|field| field.choice(&[("Exact", ())], &["RegularExpression"], report).is_some());
        let name = fields.required("name", "x-version", report).and_then(|field| header_name(field, report));
        let value = fields.required("value", "v2", report).and_then(|field| header_value(field, report));
        let (Some(name), Some(value), true) = (name, value, exact) else { continue };
        if headers.iter().any(|known| known.name == name) {
            let message = format!("the header `{name}` is matched a second time in this match");
            let hint = "keep one: all headers of a match must hold; for either of two values write two matches";
            report.error(code::BAD_MATCH, item.span(), message, hint);
            continue;
        }
        headers.push(HeaderMatch { name, value });
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    headers
}

fn header_name(field: Field<'_>, report: &mut Report) -> Option<Arc<str>> {
    let text = field.text(report)?;
    if !is_token(text) || text.len() > 256 {
        let hint = if text.starts_with(':') {
            "pseudo-headers have fields of their own: `path` and `method`"
        } else {
            "use letters, digits and dashes (RFC 9110 s.5.1)"
        };
        report.error(code::BAD_MATCH, field.span(), format!("`{}` is not a header name", short(text)), hint);
        return None;
    }
    Some(text.to_ascii_lowercase().into())
}

fn header_value(field: Field<'_>, report: &mut Report) -> Option<Arc<str>> {
    let text = field.text(report)?;
    let legal = !text.is_empty()
        && text.len() <= 4096
        && text.trim() == text
        && text.bytes().all(|b| (b' '..=b'~').contains(&b));
    if !legal {
        let hint = "use 1 to 4096 visible ASCII characters, no space at the ends";
        report.error(
            code::BAD_MATCH,
            field.span(),
            format!("`{}` is no value that a header could have", short(text)),
            hint,
        );
        return None;
    }
    Some(text.into())
}

fn method(field: Field<'_>, report: &mut Report) -> Option<Arc<str>> {
    let text = field.text(report)?;
    if let Some((problem, hint)) = method_problem(text) {
        let hint = if text == "*" { "leave `method` out to match every method".to_owned() } else { hint };
        report.error(code::BAD_MATCH, field.span(), problem, hint);
        return None;
    }
    Some(text.into())
}

fn backends(field: Field<'_>, subsets: &Subsets, report: &mut Report) -> Vec<BackendRef> {
    let mut backends: Vec<BackendRef> = Vec::new();
    let Some(items) = field.items(report) else { return backends };
    let mut sound = true;
    for item in items {
        let Some(fields) = BACKEND.read(item.node, report) else {
            sound = false;
            continue;
        };
        let weight = match fields.optional("weight") {
            None => Some(1),
            Some(field) => field.number(0, MAX_WEIGHT, report),
        };
        let subset = match fields.optional("subset") {
            None => None,
            Some(field) => match subset(field, subsets, report) {
                Some(subset) => Some(subset),
                None => {
                    sound = false;
                    continue;
                }
            },
        };
        let Some(weight) = weight.and_then(|weight| u32::try_from(weight).ok()) else {
            sound = false;
            continue;
        };
        if let Some(first) = backends.iter().find(|known| known.subset == subset) {
            let what =
                subset.as_deref().map_or("the whole service".to_owned(), |subset| format!("the subset `{subset}`"));
            let hint = format!("the first is at {}; add up their weights", first.span);
            report.error(code::REPEATED, item.span(), format!("{what} stands here a second time"), hint);
            continue;
        }
        backends.push(BackendRef { subset, weight, span: item.span().clone() });
    }
    if backends.is_empty() && sound {
        let hint = "name where the traffic goes, or leave `backendRefs` out for all endpoints of the service";
        report.error(code::BAD_VALUE, field.span(), "the rule sends its traffic nowhere", hint);
    } else if sound && backends.iter().all(|backend| backend.weight == 0) {
        let hint = "give at least one backend a weight above 0";
        report.error(
            code::ZERO_WEIGHTS,
            field.key_span,
            "all weights are 0, so the rule sends its traffic nowhere",
            hint,
        );
    }
    backends
}

fn subset(field: Field<'_>, subsets: &Subsets, report: &mut Report) -> Option<Arc<str>> {
    let text = field.text(report)?;
    if let Some((name, _)) = subsets.get_key_value(text) {
        return Some(name.clone());
    }
    let names = || subsets.keys().map(AsRef::as_ref);
    let hint = suggest::hint(text, names(), || match subsets.is_empty() {
        true => format!("declare it: `subsets: {{{}: {{version: {}}}}}`", short(text), short(text)),
        false => format!("its subsets are {}", suggest::listed(names(), "none")),
    });
    report.error(code::UNKNOWN_SUBSET, field.span(), format!("the service has no subset `{}`", short(text)), hint);
    None
}
