//! `kind: Role`: a named group of services.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access;
use super::declared::Declared;
use super::fields::{Field, Shape, short};
use super::report::Report;
use super::yaml::Node;
use crate::code;
use crate::id::SpiffeId;
use crate::intent::{Caller, Member, Role, ServicePattern};
use crate::mtls::PLAIN_TEXT;

const ROLE: Shape = Shape {
    what: "a Role",
    fields: &["kind", "name", "members"],
    later: &["patterns", "users", "claims", "spiffeIds", "bindings"],
};

/// Reads the document. `None` if it has no legal name.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Option<Role> {
    let fields = ROLE.read(root, report)?;
    let name = fields.required("name", "reporting", report).and_then(|name| name.dns_label(report));
    let members = fields.required("members", "[prod/web]", report);
    if let Some(members) = &members {
        members.warn_if_empty("no service has this role", report);
    }
    let members = members.map(|members| self::members(members, declared, report)).unwrap_or_default();
    Some(Role { name: name?.into(), members, span: root.span.clone() })
}

fn members(field: Field<'_>, declared: &Declared, report: &mut Report) -> Vec<Member> {
    access::distinct(field, report, |item, report| {
        let text = item.text(report)?;
        match pattern(text) {
            Some(pattern) => {
                if !declared.services.keys().any(|service| pattern.matches(service)) {
                    let message = format!("`{}` matches no service", short(text));
                    let hint = "declare a Service that it matches, or remove it";
                    report.warning(code::UNKNOWN_SERVICE, item.span(), message, hint);
                }
                Some(Member::Pattern(pattern))
            }
            None if text == PLAIN_TEXT => {
                let message = format!("`{PLAIN_TEXT}` can be in no role: nothing is known of such a caller");
                let hint =
                    format!("name it where it may call: `from: [{PLAIN_TEXT}]` in `access` of a permissive service");
                report.error(code::BAD_CALLER, item.span(), message, hint);
                None
            }
            None if text.parse::<SpiffeId>().is_ok_and(|id| declared.own_domain != Some(id.trust_domain())) => {
                let message = format!("`{}` can be in no role: another trust domain says who that is", short(text));
                let hint = "name it where it may call: `from: [spiffe://…]` in `access` of a service";
                report.error(code::BAD_CALLER, item.span(), message, hint);
                None
            }
            None => access::caller(item, declared, report).map(Member::Caller),
        }
    })
}

/// `prod/web-*` or `*/batch`; not `prod/*` and `*`, which are callers of their own.
fn pattern(text: &str) -> Option<ServicePattern> {
    let (namespace, name) = text.split_once('/')?;
    let is_glob = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*'))
    };
    let pattern = text.contains('*') && is_glob(namespace) && is_glob(name);
    let is_namespace = name == "*" && !namespace.contains('*');
    (pattern && !is_namespace).then(|| ServicePattern { namespace: namespace.into(), name: name.into() })
}

/// Reports roles that are members of themselves, and takes the member out that closes the circle.
pub(super) fn untie(roles: &mut BTreeMap<Arc<str>, Role>, report: &mut Report) {
    let names: Vec<Arc<str>> = roles.keys().cloned().collect();
    for name in names {
        while let Some(way) = way_back(&name, roles) {
            let closing = way.last().unwrap_or(&name).clone();
            let written =
                way.iter().chain([&name]).map(|role| format!("role:{role}")).collect::<Vec<_>>().join(" has ");
            if let Some(role) = roles.get_mut(&closing) {
                let hint = "take one of them out of the members: whoever is in one would be in all of them";
                report.error(code::ROLE_CIRCLE, &role.span, format!("a role is a member of itself: {written}"), hint);
                role.members.retain(|member| *member != Member::Caller(Caller::Role(name.clone())));
            }
        }
    }
}

/// The roles from `start` on, each a member of the one before, the last of which has `start` as member.
fn way_back(start: &Arc<str>, roles: &BTreeMap<Arc<str>, Role>) -> Option<Vec<Arc<str>>> {
    let mut came_from = BTreeMap::<&Arc<str>, &Arc<str>>::new();
    let mut open = vec![start];
    while let Some(name) = open.pop() {
        for member in roles.get(name).into_iter().flat_map(|role| &role.members) {
            let Member::Caller(Caller::Role(inner)) = member else { continue };
            if inner == start {
                let mut way = vec![name.clone()];
                let mut at = name;
                while let Some(before) = came_from.get(at).filter(|_| at != start) {
                    way.push((*before).clone());
                    at = before;
                }
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(inner) {
                came_from.insert(inner, name);
                open.push(inner);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_parts_of_names() {
        let matches = |text: &str, service: &str| pattern(text).unwrap().matches(&service.parse().unwrap());
        for (text, service) in [
            ("prod/web-*", "prod/web-1"),
            ("prod/web-*", "prod/web-"),
            ("*/batch", "staging/batch"),
            ("*-eu/*", "prod-eu/x"),
            ("*/*", "a/b"),
            ("prod/*a*b*", "prod/xaab"),
            ("prod/a*a", "prod/aa"),
        ] {
            if let Ok(service) = service.parse() {
                assert!(pattern(text).unwrap().matches(&service), "{text} {service}");
            }
        }
        for (text, service) in [
            ("prod/web-*", "prod/web"),
            ("prod/web-*", "staging/web-1"),
            ("*/batch", "prod/batches"),
            ("prod/a*a", "prod/a"),
            ("prod/*a*b", "prod/ba"),
        ] {
            assert!(!matches(text, service), "{text} {service}");
        }
        for none in ["*", "prod/*", "prod/web", "prod", "role:*", "/*", "Prod/w*", "a/b*/c", "spiffe://x/ns/*/sa/y"] {
            assert_eq!(pattern(none), None, "{none}");
        }
    }
}
