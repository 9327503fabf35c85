//! The rules of a policy. Every field becomes a [`Match`], so that what decides knows no YAML.

use weft_model::parse::yaml::{Node, Value};
use weft_model::{Span, code};

use super::fields::Findings;
use super::policy::{Attribute, Match, Rule, Text};
use crate::report::short;

/// Fields of `source`; each has a `not` form.
const SOURCE: [(&str, &str, Attribute); 7] = [
    ("principals", "notPrincipals", Attribute::Principal),
    ("requestPrincipals", "notRequestPrincipals", Attribute::RequestPrincipal),
    ("namespaces", "notNamespaces", Attribute::Namespace),
    ("serviceAccounts", "notServiceAccounts", Attribute::ServiceAccount),
    ("ipBlocks", "notIpBlocks", Attribute::SourceIp),
    ("remoteIpBlocks", "notRemoteIpBlocks", Attribute::RemoteIp),
    ("trustDomains", "notTrustDomains", Attribute::TrustDomain),
];
/// Fields of `operation`.
const OPERATION: [(&str, &str, Attribute); 4] = [
    ("hosts", "notHosts", Attribute::Host),
    ("ports", "notPorts", Attribute::Port),
    ("methods", "notMethods", Attribute::Method),
    ("paths", "notPaths", Attribute::Path),
];

/// One rule; `None` if it cannot be read, and then an error says so.
pub(super) fn rule(findings: &mut Findings, node: &Node, path: String) -> Option<Rule> {
    let mut rule =
        Rule { from: Vec::new(), to: Vec::new(), when: Vec::new(), path: path.clone(), span: node.span.clone() };
    if !matches!(node.value, Value::Map(_)) {
        findings.error(
            code::WRONG_TYPE,
            &node.span,
            format!("`{path}` must be a mapping"),
            "write `{}` for a rule that always holds",
        );
        return None;
    }
    for (key, span, node) in findings.map(Some(node), &path) {
        let path = format!("{path}.{key}");
        match key {
            "from" => rule.from = alternatives(findings, node, &path, "source", &SOURCE),
            "to" => rule.to = alternatives(findings, node, &path, "operation", &OPERATION),
            "when" => {
                for (at, item) in findings.list(node, &path).into_iter().enumerate() {
                    condition(findings, item, format!("{path}[{at}]"), &mut rule.when);
                }
            }
            _ => rule.when.push(unknown(key, span, path)),
        }
    }
    Some(rule)
}

/// The items of `from` or `to`, each as what must hold together.
fn alternatives(
    findings: &mut Findings,
    node: &Node,
    path: &str,
    inner: &str,
    fields: &[(&str, &str, Attribute)],
) -> Vec<Vec<Match>> {
    let items = findings.list(node, path);
    if items.is_empty() {
        return vec![vec![refused("the list is empty, which Istio refuses", node.span.clone(), path.to_owned())]];
    }
    let mut all = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        let path = format!("{path}[{at}]");
        let mut matches = Vec::new();
        for (key, span, node) in findings.map(Some(item), &path) {
            let path = format!("{path}.{key}");
            if key != inner {
                matches.push(unknown(key, span, path));
                continue;
            }
            for (key, span, node) in findings.map(Some(node), &path) {
                let path = format!("{path}.{key}");
                let known = fields.iter().find(|(plain, not, _)| *plain == key || *not == key);
                match known {
                    Some((_, not, attribute)) => {
                        let values = texts(findings, node, &path);
                        push(&mut matches, attribute.clone(), *not == key, values, path);
                    }
                    None => matches.push(unknown(key, span, path)),
                }
            }
        }
        if matches.is_empty() {
            matches.push(refused("nothing stands here, which Istio refuses", item.span.clone(), path));
        }
        all.push(matches);
    }
    all
}

/// An item of `when`.
fn condition(findings: &mut Findings, node: &Node, path: String, when: &mut Vec<Match>) {
    let (mut attribute, mut lists) = (None, Vec::new());
    for (key, span, node) in findings.map(Some(node), &path) {
        let path = format!("{path}.{key}");
        match key {
            "key" => attribute = findings.text(node, &path).map(|key| (of_key(&key.text), key)),
            "values" | "notValues" => lists.push((key == "notValues", texts(findings, node, &path), path)),
            _ => when.push(unknown(key, span, path)),
        }
    }
    let Some((attribute, key)) = attribute else {
        findings.error(code::MISSING_FIELD, &node.span, format!("`{path}` has no key"), "write `key: source.ip`, say");
        return;
    };
    let before = when.len();
    for (negated, values, path) in lists {
        push(when, attribute.clone(), negated, values, format!("{path} of {}", short(&key.text)));
    }
    if when.len() == before {
        let problem = "a condition without values and notValues, which Istio refuses";
        when.push(refused(problem, node.span.clone(), path));
    }
}

/// The attribute that a `key` of `when` names.
fn of_key(key: &str) -> Attribute {
    match key {
        "source.ip" => Attribute::SourceIp,
        "remote.ip" => Attribute::RemoteIp,
        "source.namespace" => Attribute::Namespace,
        "source.principal" => Attribute::Principal,
        "source.serviceAccount" => Attribute::ServiceAccount,
        "source.trustDomain" => Attribute::TrustDomain,
        "request.auth.principal" => Attribute::RequestPrincipal,
        "request.auth.audiences" => Attribute::Audiences,
        "request.auth.presenter" => Attribute::Presenter,
        "destination.ip" => Attribute::DestinationIp,
        "destination.port" => Attribute::Port,
        "connection.sni" => Attribute::Sni,
        _ => {
            let header = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
            match header.filter(|name| !name.is_empty()) {
                Some(name) => Attribute::Header(name.to_owned()),
                None if key.starts_with("request.auth.claims[") => Attribute::Claim,
                None if key.starts_with("experimental.envoy.filters.") => Attribute::EnvoyFilter,
                None => Attribute::Unknown(key.to_owned()),
            }
        }
    }
}

/// An empty list is as good as none.
fn push(into: &mut Vec<Match>, attribute: Attribute, negated: bool, values: Vec<Text>, path: String) {
    if !values.is_empty() {
        into.push(Match { attribute, negated, values, path });
    }
}

fn refused(why: &'static str, span: Span, path: String) -> Match {
    let values = vec![Text { text: "".into(), span }];
    Match { attribute: Attribute::Refused(why), negated: false, values, path }
}

fn texts(findings: &mut Findings, node: &Node, path: &str) -> Vec<Text> {
    let items = findings.list(node, path);
    items.into_iter().filter_map(|item| findings.text(item, path)).collect()
}

/// A field that is not known here.
pub(super) fn unknown(key: &str, span: &Span, path: String) -> Match {
    let values = vec![Text { text: key.into(), span: span.clone() }];
    Match { attribute: Attribute::Unknown(key.to_owned()), negated: false, values, path }
}
