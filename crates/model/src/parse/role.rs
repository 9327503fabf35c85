//! `kind: Role`: a named group of services.

use super::access;
use super::declared::Declared;
use super::fields::Shape;
use super::report::Report;
use super::yaml::Node;
use crate::intent::Role;

const ROLE: Shape = Shape {
    what: "a Role",
    fields: &["kind", "name", "members"],
    later: &["patterns", "users", "claims", "spiffeIds", "bindings"],
};

/// Reads the document. `None` if it has no legal name.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Option<Role> {
    let fields = ROLE.read(root, report)?;
    let name = fields.required("name", "reporting", report).and_then(|name| name.dns_label(report));
    let members = fields
        .required("members", "[prod/web]", report)
        .map(|members| access::callers(members, false, declared, report))
        .unwrap_or_default();
    Some(Role { name: name?.into(), members, span: root.span.clone() })
}
