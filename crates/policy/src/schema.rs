//! The Cedar schema that every policy is validated against, made from the vocabulary of the mesh.

use std::sync::Arc;

use cedar_policy::Schema;
use serde_json::{Map, Value, json};
use weft_model::intent::{Mesh, PolicyInputs};

use crate::context::{MAX_SEGMENTS, UTC};

/// Attributes that every service has; a mesh cannot give them another meaning.
pub(crate) const BUILT_IN: [&str; 5] = ["name", "namespace", "serviceAccount", "trustDomain", "spiffeId"];

/// The schema in Cedar's JSON form.
///
/// `Service` is a member of its `Namespace` and its `Role`s; its attributes are those of every service and, as optional
/// strings, those of `Mesh.attributes`. `Action::"call"` has a service on both ends and the request as context.
pub(crate) fn form(mesh: &Mesh) -> Value {
    let mut service: Map<String, Value> =
        mesh.attributes.keys().map(|name| (name.to_string(), string(false))).collect();
    service.extend(BUILT_IN.map(|name| (name.to_owned(), string(true))));
    json!({"": {
        "entityTypes": {
            "Service": {
                "memberOfTypes": ["Role", "Namespace"],
                "shape": {"type": "Record", "attributes": service},
            },
            "Role": {},
            "Namespace": {},
        },
        "actions": {
            "call": {
                "appliesTo": {
                    "principalTypes": ["Service"],
                    "resourceTypes": ["Service"],
                    "context": {"type": "Record", "attributes": context(&mesh.policy)},
                },
            },
        },
    }})
}

/// The schema of policies about `Action::"breakGlass"`. It is one of its own: else every policy that is open to all actions had to make
/// sense of operators.
fn form_of_glass(mesh: &Mesh) -> Value {
    let call = context(&mesh.policy);
    let mut context = members([("minutes", long()), ("reason", string(true))]);
    context.extend(["time", "now"].map(|name| (name.to_owned(), call[name].clone())));
    json!({"": {
        "entityTypes": {
            "Operator": {"shape": {"type": "Record", "attributes": members([("name", string(true))])}},
            "Mesh": {},
        },
        "actions": {
            "breakGlass": {
                "appliesTo": {
                    "principalTypes": ["Operator"],
                    "resourceTypes": ["Mesh"],
                    "context": {"type": "Record", "attributes": context},
                },
            },
        },
    }})
}

/// The attributes of a context. What not every request has is optional, and validation demands a `has` before it.
fn context(inputs: &PolicyInputs) -> Map<String, Value> {
    let zones = inputs.time_zones.keys().map(|name| &**name).chain([UTC]);
    let wall = [
        ("date", string(true)),
        ("weekday", string(true)),
        ("hour", long()),
        ("minute", long()),
        ("minuteOfDay", long()),
    ];
    let user = [
        ("subject", string(true)),
        ("issuer", string(true)),
        ("scopes", strings(true)),
        ("groups", strings(true)),
        ("claims", record(true, all(&inputs.claims, string(false)))),
    ];
    let fixed = [
        ("method", string(true)),
        ("path", string(true)),
        ("depth", long()),
        ("host", string(true)),
        ("port", long()),
        ("protocol", string(true)),
        ("sourceIp", json!({"type": "Extension", "name": "ipaddr", "required": false})),
        ("headers", record(true, all(&inputs.headers, string(false)))),
        ("query", record(true, all(&inputs.query, strings(false)))),
        ("grpc", record(false, members([("service", string(true)), ("method", string(true))]))),
        ("tls", record(false, members([("sni", string(false))]))),
        ("user", record(false, members(user))),
        ("time", record(true, zones.map(|zone| (zone.to_owned(), record(true, members(wall.clone())))).collect())),
        ("now", json!({"type": "Extension", "name": "datetime", "required": true})),
        ("breakGlass", json!({"type": "Boolean", "required": true})),
    ];
    let mut context = members(fixed);
    for n in 1..=MAX_SEGMENTS {
        context.insert(format!("first{n}"), string(false));
        context.insert(format!("segment{n}"), string(false));
    }
    context
}

fn string(required: bool) -> Value {
    json!({"type": "String", "required": required})
}

fn strings(required: bool) -> Value {
    json!({"type": "Set", "element": {"type": "String"}, "required": required})
}

fn long() -> Value {
    json!({"type": "Long", "required": true})
}

fn record(required: bool, attributes: Map<String, Value>) -> Value {
    json!({"type": "Record", "attributes": attributes, "required": required})
}

fn members<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect()
}

/// Each of these names with the same type.
fn all(names: &[Arc<str>], kind: Value) -> Map<String, Value> {
    names.iter().map(|name| (name.to_string(), kind.clone())).collect()
}

/// The schema, ready for validation.
pub(crate) fn of(mesh: &Mesh) -> Schema {
    Schema::from_json_value(form(mesh)).expect("this is Cedar's JSON form, whatever the attribute names")
}

/// The same for policies about break-glass.
pub(crate) fn of_glass(mesh: &Mesh) -> Schema {
    Schema::from_json_value(form_of_glass(mesh)).expect("this is Cedar's JSON form, whatever the attribute names")
}

/// The schema in Cedar's own syntax, for editors and for people.
pub fn text(mesh: &Mesh) -> String {
    let fragment = cedar_policy::SchemaFragment::from_json_value(form(mesh));
    fragment.ok().and_then(|fragment| fragment.to_cedarschema().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    #[test]
    fn the_schema_reads_like_this() {
        let mesh = testing::mesh(&[("sensitivity", &["low", "high"]), ("has dash-and \"quote", &["x"])]);
        insta::assert_snapshot!(text(&mesh));
    }

    proptest! {
        #[test]
        fn any_attribute_name_makes_a_schema(names in proptest::collection::vec(any::<String>(), 0..4)) {
            let names: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
            of(&testing::mesh(&names));
        }
    }
}
