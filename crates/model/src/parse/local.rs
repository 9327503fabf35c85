//! `kind: Local`: what `weft up` runs on this machine.

use super::declared::Declared;
use super::fields::{Field, Shape, short};
use super::report::Report;
use super::suggest;
use super::yaml::{Node, Value};
use crate::code;
use crate::id::ServiceName;
use crate::intent::LocalApp;

const LOCAL: Shape =
    Shape { what: "a Local document", fields: &["kind", "apps"], later: &["server", "ports", "gateways"] };
const APP: Shape = Shape {
    what: "a local app",
    fields: &["service", "labels", "command"],
    later: &["env", "dir", "replicas", "dataPlane", "ports", "after"],
};

/// Reads the document.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Vec<LocalApp> {
    let mut apps = Vec::new();
    let Some(fields) = LOCAL.read(root, report) else { return apps };
    let list = fields.required("apps", "[{service: prod/board, command: [weft, demo]}]", report);
    for item in list.and_then(|list| list.items(report)).into_iter().flatten() {
        let Some(fields) = APP.read(item.node, report) else { continue };
        let service =
            fields.required("service", "prod/board", report).and_then(|field| service(field, declared, report));
        let labels = fields.optional("labels").and_then(|field| field.labels(report)).unwrap_or_default();
        let command =
            fields.required("command", "[weft, demo, --name, board]", report).and_then(|field| command(field, report));
        if let (Some(service), Some(command)) = (service, command) {
            apps.push(LocalApp { service, labels, command, span: item.span().clone() });
        }
    }
    apps
}

/// The name of a declared service.
pub(super) fn service(field: Field<'_>, declared: &Declared, report: &mut Report) -> Option<ServiceName> {
    let text = field.text(report)?;
    if let Ok(name) = text.parse::<ServiceName>() {
        return declared.check_service(&name, field.span(), report).then_some(name);
    }
    let by_name = declared.services.keys().find(|name| name.name() == text || name.host() == text);
    let hint = match by_name {
        Some(name) => format!("write `{name}`: a service has its namespace before its name"),
        None => suggest::hint(text, declared.services.keys().map(ServiceName::as_str), || {
            "write namespace/name, like prod/board".to_owned()
        }),
    };
    report.error(code::BAD_NAME, field.span(), format!("`{}` is not the name of a service", short(text)), hint);
    None
}

fn command(field: Field<'_>, report: &mut Report) -> Option<Vec<String>> {
    if let Value::Scalar { text, .. } = &field.node.value {
        let words = text.split_whitespace().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let hint = format!("write [{}]: no shell takes it apart", short(&words));
        report.error(code::WRONG_TYPE, field.span(), "`command` must be a list, and here is text", hint);
        return None;
    }
    let mut command = Vec::new();
    for item in field.items(report)? {
        command.push(item.text(report)?.to_owned());
    }
    if command.first().is_none_or(|program| program.is_empty()) {
        let hint = "write the program and its arguments, like [weft, demo, --name, board]";
        report.error(code::BAD_VALUE, field.span(), "the command has no program", hint);
        return None;
    }
    if let Some(at) = command.iter().position(|word| word.contains('\0')) {
        let message = format!("word {} of the command has a NUL character", at + 1);
        report.error(code::BAD_VALUE, field.span(), message, "no program can be given one; remove it");
        return None;
    }
    Some(command)
}
