//! `kind: Mesh`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::declared::Declared;
use super::fields::{Field, Shape, short};
use super::inputs;
use super::nodes;
use super::report::Report;
use super::svid;
use super::yaml::{Node, Value};
use crate::code;
use crate::id::TrustDomain;
use crate::intent::{Defaults, Identity, Mesh};

const MESH: Shape = Shape {
    what: "a Mesh",
    fields: &["kind", "name", "trustDomain", "attributes", "policy", "defaults", "identity"],
    later: &["rollout", "federation", "telemetry", "tracing", "tokens", "secrets", "locality"],
};

const DEFAULTS: Shape = Shape {
    what: "`defaults`",
    fields: &["timeout", "mtls", "svidTtl"],
    later: &["retry", "resilience", "health", "rollout", "idleTimeout"],
};

const IDENTITY: Shape = Shape {
    what: "`identity`",
    fields: &["machineLife", "nodes"],
    later: &["keyType", "rootLife", "issuingLife", "upstream"],
};

const MACHINE_LIFE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3_600)..=Duration::from_secs(366 * 24 * 3_600);

/// What every service has by itself in a policy, and Cedar's own words.
const TAKEN: [&str; 14] = [
    "name",
    "namespace",
    "serviceAccount",
    "trustDomain",
    "spiffeId",
    "true",
    "false",
    "if",
    "then",
    "else",
    "in",
    "is",
    "like",
    "has",
];

/// Reads the document. `None` only if it is no mapping.
pub(super) fn read(root: &Node, declared: &Declared, report: &mut Report) -> Option<Mesh> {
    let fields = MESH.read(root, report)?;
    let name = fields.required("name", "acme", report).and_then(|name| name.dns_label(report));
    let trust_domain =
        fields.required("trustDomain", "acme.internal", report).and_then(|field| trust_domain(field, report));
    let attributes = fields.optional("attributes").map(|field| attributes(field, report)).unwrap_or_default();
    let policy = fields.optional("policy").map(|field| inputs::read(field, report)).unwrap_or_default();
    let defaults = defaults(fields.optional("defaults"), report);
    let identity = fields.optional("identity").map(|field| identity(field, declared, report)).unwrap_or_default();
    Some(Mesh {
        name: name.unwrap_or("unnamed").into(),
        // The stand-in is legal, so it parses; the missing name is an error already and the draft is never applied.
        trust_domain: trust_domain.or_else(|| "unnamed.invalid".parse().ok())?,
        attributes,
        policy,
        defaults,
        identity,
        span: root.span.clone(),
    })
}

fn trust_domain(field: Field<'_>, report: &mut Report) -> Option<TrustDomain> {
    let text = field.text(report)?;
    match text.parse() {
        Ok(domain) => Some(domain),
        Err(_) => {
            let lower = text.trim_start_matches("spiffe://").trim_end_matches('/').to_lowercase();
            let hint = match lower.parse::<TrustDomain>() {
                Ok(_) => format!("write `{lower}`"),
                Err(_) => "use 1 to 255 lower-case letters, digits, dots, dashes and underscores".to_owned(),
            };
            report.error(code::BAD_NAME, field.span(), format!("`{}` is not a trust domain", short(text)), hint);
            None
        }
    }
}

fn attributes(field: Field<'_>, report: &mut Report) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
    let mut declared = BTreeMap::new();
    for attribute in field.entries(report).unwrap_or_default() {
        let legal = is_attribute_name(attribute, report);
        let mut values: Vec<Arc<str>> = Vec::new();
        for item in attribute.items(report).into_iter().flatten() {
            let Some(value) = item.label_value(report) else { continue };
            if values.iter().any(|known| **known == *value) {
                let message = format!("the value `{value}` of `{}` stands here a second time", attribute.key);
                report.error(code::REPEATED, item.span(), message, "keep one");
                continue;
            }
            values.push(value.into());
        }
        if matches!(&attribute.node.value, Value::List(items) if items.is_empty()) {
            let message = format!("the attribute `{}` has no values, so nothing could carry it", short(attribute.key));
            report.error(code::BAD_VALUE, attribute.span(), message, "list its values, like [low, medium, high]");
        }
        if legal {
            declared.insert(attribute.key.into(), values);
        }
    }
    declared
}

fn is_attribute_name(attribute: Field<'_>, report: &mut Report) -> bool {
    let name = attribute.key;
    let word = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !word {
        let hint = "use letters, digits and underscores, a letter first, so that policies can write principal.name";
        let message = format!("`{}` is not a name for an attribute", short(name));
        report.error(code::BAD_NAME, attribute.key_span, message, hint);
    } else if TAKEN.contains(&name) {
        let message = format!("the attribute `{name}` would hide what policies mean by that word");
        report.error(code::RESERVED, attribute.key_span, message, "choose another name");
    }
    word && !TAKEN.contains(&name)
}

fn identity(field: Field<'_>, declared: &Declared, report: &mut Report) -> Identity {
    let mut identity = Identity::default();
    let Some(fields) = IDENTITY.read(field.node, report) else { return identity };
    if let Some(field) = fields.optional("machineLife")
        && let Some(life) = field.duration(report)
    {
        if MACHINE_LIFE.contains(&life) {
            identity.machine_life = life;
        } else {
            let message = "`machineLife` must be from 1h to 8784h";
            let hint =
                "it is how long a machine may be away and still come back without a join token; 720h are 30 days";
            report.error(code::DURATION, field.span(), message, hint);
        }
    }
    if let Some(field) = fields.optional("nodes") {
        identity.nodes = nodes::read(field, declared, report).into();
    }
    identity
}

fn defaults(field: Option<Field<'_>>, report: &mut Report) -> Defaults {
    let mut defaults = Defaults { timeout: Duration::from_secs(15), svid_ttl: Duration::from_secs(3_600) };
    let Some(fields) = field.and_then(|field| DEFAULTS.read(field.node, report)) else { return defaults };
    if let Some(timeout) = fields.optional("timeout").and_then(|field| field.duration(report)) {
        defaults.timeout = timeout;
    }
    if let Some(mtls) = fields.optional("mtls") {
        mtls.choice(&[("strict", ())], &["permissive", "disabled"], report);
    }
    if let Some(ttl) = fields.optional("svidTtl").and_then(|field| svid::ttl(field, report)) {
        defaults.svid_ttl = ttl;
    }
    defaults
}
