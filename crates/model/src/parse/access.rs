//! `access`: who may call what, and how callers are written.

use std::sync::Arc;

use super::declared::Declared;
use super::fields::{Field, Shape, short};
use super::report::Report;
use super::suggest;
use super::values::{method_problem, path_problem};
use super::yaml::Value;
use crate::code;
use crate::id::{ServiceName, SpiffeId, is_dns_label};
use crate::intent::{AccessRule, Allow, Caller, Paths, Protocol};
use crate::mtls::PLAIN_TEXT;

const RULE: Shape = Shape {
    what: "an access rule",
    fields: &["from", "allow", "shadow"],
    later: &["when", "users", "deny", "to", "name"],
};

/// Reads the rules.
pub(super) fn read(
    field: Field<'_>,
    protocol: Option<Protocol>,
    paths: Paths,
    declared: &Declared,
    report: &mut Report,
) -> Vec<AccessRule> {
    let mut rules = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let Some(fields) = RULE.read(item.node, report) else { continue };
        let from = fields.required("from", "[prod/web]", report);
        let from_callers = from.map(|from| callers(from, declared, report)).unwrap_or_default();
        if let Some(from) = from.filter(|from| matches!(&from.node.value, Value::List(items) if items.is_empty())) {
            let hint = "name who may call, or remove the rule: without one nobody may";
            report.error(code::BAD_VALUE, from.span(), "this rule allows nobody anything", hint);
        }
        let allow = fields.optional("allow").map(|allow| allows(allow, protocol, paths, report)).unwrap_or_default();
        let words = [("true", true), ("false", false)];
        let shadow = fields.optional("shadow").and_then(|field| field.choice(&words, &[], report)).unwrap_or_default();
        rules.push(AccessRule { from: from_callers, allow, shadow, span: item.span().clone() });
    }
    rules
}

/// A list of callers; those that are not legal or not declared are reported and left out.
fn callers(field: Field<'_>, declared: &Declared, report: &mut Report) -> Vec<Caller> {
    distinct(field, report, |item, report| caller(item, declared, report))
}

/// What `read` makes of each item; an item that means the same as one before is reported and left out.
pub(super) fn distinct<T: PartialEq>(
    field: Field<'_>,
    report: &mut Report,
    mut read: impl FnMut(Field<'_>, &mut Report) -> Option<T>,
) -> Vec<T> {
    let mut known = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let Some(value) = read(item, report) else { continue };
        if known.contains(&value) {
            let message = format!("`{}` stands here a second time", item.node.as_text().unwrap_or_default());
            report.warning(code::REPEATED, item.span(), message, "keep one");
            continue;
        }
        known.push(value);
    }
    known
}

/// One caller; reported if it is not legal or not declared.
pub(super) fn caller(field: Field<'_>, declared: &Declared, report: &mut Report) -> Option<Caller> {
    const FORMS: &str = "prod/web, prod/*, role:reporting, plain-text, spiffe://other.example/ns/prod/sa/web or \"*\"";
    let text = field.text(report)?;
    let span = field.span();
    if text == "*" {
        return Some(Caller::Anyone);
    }
    if text == PLAIN_TEXT {
        return Some(Caller::PlainText);
    }
    if let Some(role) = text.strip_prefix("role:") {
        return declared.check_role(role, span, report).then(|| Caller::Role(role.into()));
    }
    if let Some(namespace) = text.strip_suffix("/*")
        && is_dns_label(namespace)
    {
        return declared.check_namespace(namespace, span, report).then(|| Caller::Namespace(namespace.into()));
    }
    if let Ok(name) = text.parse::<ServiceName>() {
        return declared.check_service(&name, span, report).then_some(Caller::Service(name));
    }
    if let Ok(id) = text.parse::<SpiffeId>()
        && declared.own_domain.as_ref() != Some(&id.trust_domain())
    {
        return declared.check_foreign(&id, span, report).then_some(Caller::Foreign(id));
    }
    let by_name = declared.services.keys().find(|name| name.name() == text || name.host() == text);
    let hint = if let Some(name) = by_name {
        format!("write `{name}`: a caller has its namespace before its name")
    } else if let Some(id) = text.strip_prefix("spiffe://") {
        let service = id.split_once("/ns/").and_then(|(_, rest)| rest.split_once("/sa/"));
        service.map_or_else(|| format!("write {FORMS}"), |(namespace, name)| format!("write `{namespace}/{name}`"))
    } else if declared.roles.contains_key(text) {
        format!("write `role:{text}`")
    } else if text.contains('*') {
        format!("write {FORMS}; patterns like prod/web-* stand in the members of a Role")
    } else {
        let names = declared.services.keys().map(ServiceName::as_str).chain([PLAIN_TEXT]);
        suggest::hint(text, names, || format!("write {FORMS}"))
    };
    report.error(code::BAD_CALLER, span, format!("`{}` is not a caller", short(text)), hint);
    None
}

fn allows(field: Field<'_>, protocol: Option<Protocol>, paths: Paths, report: &mut Report) -> Vec<Allow> {
    let mut allows: Vec<Allow> = Vec::new();
    if protocol == Some(Protocol::Tcp) {
        let hint = "leave `allow` out: `from` decides who may connect";
        report.error(code::NOT_HTTP, field.key_span, "a tcp service has no methods and paths to allow", hint);
        return allows;
    }
    for item in field.items(report).into_iter().flatten() {
        let Some(text) = item.text(report) else { continue };
        match allow(text, paths) {
            Ok(allow) if allows.contains(&allow) => {
                report.warning(code::REPEATED, item.span(), format!("`{text}` stands here a second time"), "keep one");
            }
            Ok(allow) => allows.push(allow),
            Err((problem, hint)) => report.error(code::BAD_ALLOW, item.span(), problem, hint),
        }
    }
    if matches!(&field.node.value, Value::List(items) if items.is_empty()) {
        let hint = "leave `allow` out to allow everything, or remove the rule to allow nothing";
        report.error(code::BAD_VALUE, field.span(), "an empty `allow` could mean everything or nothing", hint);
    }
    allows
}

/// `METHOD /path`; on error the problem and what to write.
fn allow(text: &str, paths: Paths) -> Result<Allow, (String, String)> {
    let Some((method, path)) = text.split_once(' ') else {
        let hint = if text.starts_with('/') {
            format!("write \"GET {0}\", or \"* {0}\" for every method", short(text))
        } else {
            "write a method and a path, like \"GET /api/**\", or leave `allow` out to allow everything".to_owned()
        };
        return Err((format!("`{}` is not a method and a path", short(text)), hint));
    };
    let method: Option<Arc<str>> = match method {
        "*" => None,
        method => match method_problem(method) {
            Some(problem) => return Err(problem),
            None => Some(method.into()),
        },
    };
    match pattern_problem(path, paths) {
        Some(problem) => Err(problem),
        None => Ok(Allow { method, path: path.into() }),
    }
}

fn pattern_problem(path: &str, paths: Paths) -> Option<(String, String)> {
    if path.starts_with(' ') || path.ends_with(' ') {
        return Some((
            format!("`{}` has spaces around it", short(path)),
            "write one space, before the path".to_owned(),
        ));
    }
    if let Some(problem) = path_problem(path, paths) {
        return Some(problem);
    }
    let segments = path.split('/').count();
    for (at, segment) in path.split('/').enumerate() {
        let says =
            |problem: &str, hint: &str| Some((format!("the pattern `{}` {problem}", short(path)), hint.to_owned()));
        match segment {
            "**" if at + 1 < segments => {
                return says("has `**` before its end", "`**` is any rest and stands last; `*` is one segment");
            }
            "*" | "**" => {}
            _ if segment.contains('*') => {
                let hint =
                    "`*` stands for one whole segment, as in /users/*/pins; for parts of one write a Cedar policy";
                return says(&format!("has `*` inside of the segment `{}`", short(segment)), hint);
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_whole_segments() {
        for good in ["GET /", "* /**", "GET /*", "POST /a/*/b/**", "PURGE /x", "GET /api/", "POST /pkg.Svc/Method"] {
            assert!(allow(good, Paths::default()).is_ok(), "{good}");
        }
        for bad in [
            "",
            "GET",
            "/api",
            "GET  /a",
            "GET /a ",
            "get /a",
            "GET a",
            "GET /**/a",
            "GET /a*",
            "GET /***",
            "GET /a**",
            "GET //",
            "GET /a/../b",
            "GET /a?b",
            "GÉT /a",
            "GET,POST /a",
            "** /a",
            "GET /a b",
        ] {
            assert!(allow(bad, Paths::default()).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_accepted_pattern_says_what_was_written(text in "(GET|\\*|[A-Z]{1,5}) /([a-c*]{0,3}/){0,3}[a-z*%0-9.]{0,4}") {
            if let Ok(allow) = allow(&text, Paths::default()) {
                proptest::prop_assert_eq!(format!("{} {}", allow.method.as_deref().unwrap_or("*"), allow.path), text);
            }
        }
    }
}
