//! The Cedar schema that every policy is validated against, made from the vocabulary of the mesh.

use cedar_policy::Schema;
use serde_json::{Map, Value, json};
use weft_model::intent::Mesh;

use crate::context::NAMES;

/// Attributes that every service has; a mesh cannot give them another meaning.
pub(crate) const BUILT_IN: [&str; 4] = ["name", "namespace", "trustDomain", "spiffeId"];

/// The schema in Cedar's JSON form.
///
/// `Service` is a member of its `Namespace` and its `Role`s; its attributes are those of every service and, as optional
/// strings, those of `Mesh.attributes`. `Action::"call"` has a service on both ends and the request as context.
pub(crate) fn form(mesh: &Mesh) -> Value {
    let string = |required: bool| json!({"type": "String", "required": required});
    let mut service: Map<String, Value> =
        mesh.attributes.keys().map(|name| (name.to_string(), string(false))).collect();
    service.extend(BUILT_IN.map(|name| (name.to_owned(), string(true))));
    let context: Map<String, Value> = NAMES.iter().map(|name| ((*name).to_owned(), context_type(name))).collect();
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
                    "context": {"type": "Record", "attributes": context},
                },
            },
        },
    }})
}

/// The type of a context attribute; what not every request has is optional, and validation demands a `has` before it.
fn context_type(name: &str) -> Value {
    match name {
        "depth" => json!({"type": "Long", "required": true}),
        "sourceIp" => json!({"type": "Extension", "name": "ipaddr", "required": false}),
        _ => json!({"type": "String", "required": !name.starts_with("first")}),
    }
}

/// The schema, ready for validation.
pub(crate) fn of(mesh: &Mesh) -> Schema {
    Schema::from_json_value(form(mesh)).expect("this is Cedar's JSON form, whatever the attribute names")
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
