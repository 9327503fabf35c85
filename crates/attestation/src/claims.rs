//! Whether the claims of a token are what an `oidc` entry says. Pure.

use serde_json::{Map, Value};
use weft_model::intent::{Oidc, Star, Wildcard};

/// Judges the claims of a token that was validated.
///
/// # Errors
/// In words: which claim is another one, and what it is.
pub(crate) fn judge(entry: &Oidc, star: &Star, claims: &Map<String, Value>) -> Result<(), String> {
    for (name, wanted) in &entry.claims {
        let Some(value) = claim(claims, name) else {
            return Err(format!("the token has no claim `{name}`, or two that are called so"));
        };
        let given = texts(value);
        if !given.iter().any(|given| wanted.iter().any(|wanted: &Wildcard| wanted.holds(given, star))) {
            let given: String = given.join(", ").chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(format!("the claim `{name}` of the token is `{given}`, which is not what the entry says"));
        }
    }
    Ok(())
}

/// A claim by its whole name, or by the way to it with slashes between its parts. Where a token has both nobody can tell which is meant.
pub(crate) fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let whole = claims.get(name);
    let along = name
        .split_once('/')
        .and_then(|(first, rest)| rest.split('/').try_fold(claims.get(first)?, |value, part| value.get(part)));
    match (whole, along) {
        (Some(value), None) | (None, Some(value)) => Some(value),
        _ => None,
    }
}

/// A value as text; of a list each of them. What is deeper is no text.
fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Bool(is) => vec![is.to_string()],
        Value::Array(values) => values.iter().filter(|value| !value.is_array()).flat_map(texts).collect(),
        Value::Object(_) | Value::Null => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_model::Span;
    use weft_model::intent::OidcKeys;

    use super::*;

    fn entry(claims: &[(&str, &[&str])]) -> Oidc {
        let span = Span { file: "mesh.yaml".into(), line: 1, column: 1 };
        let values = |values: &[&str]| values.iter().map(|value| Wildcard((*value).into())).collect();
        Oidc {
            issuer: "https://issuer.example".into(),
            audience: "weft".into(),
            keys: OidcKeys::Discovered { ca: None, span },
            claims: claims.iter().map(|(name, wanted)| ((*name).into(), values(wanted))).collect(),
        }
    }

    fn kubernetes() -> Map<String, Value> {
        let claims = json!({
            "sub": "system:serviceaccount:prod:board", "groups": ["a", ["b"], 7], "is": true,
            "kubernetes.io": {"namespace": "prod", "node": {"name": "n1"}, "serviceaccount": {"name": "board"}},
            "https://acme.example/role": "deployer",
        });
        claims.as_object().expect("a map").clone()
    }

    #[test]
    fn a_claim_is_found_by_its_name_or_by_the_way_to_it() {
        let judge = |name: &str, wanted: &[&str]| judge(&entry(&[(name, wanted)]), &Star::Any, &kubernetes());
        assert_eq!(judge("kubernetes.io/serviceaccount/name", &["web", "board"]), Ok(()));
        assert_eq!(judge("https://acme.example/role", &["deploy*"]), Ok(()));
        assert_eq!(judge("groups", &["7"]), Ok(()));
        assert_eq!(judge("is", &["true"]), Ok(()));
        assert!(judge("groups", &["b"]).expect_err("too deep").contains("a, 7"));
        assert!(judge("kubernetes.io/serviceaccount/name", &["web"]).expect_err("another").contains("`board`"));
        assert!(judge("kubernetes.io/serviceaccount", &["*"]).is_err(), "a map is no text");
        for missing in ["email", "kubernetes.io/pod/name", "sub/x", "/sub", "kubernetes.io/"] {
            assert!(judge(missing, &["*"]).expect_err(missing).contains("no claim"), "{missing}");
        }
        let mut both = kubernetes();
        both.insert("kubernetes.io/namespace".into(), json!("prod"));
        assert_eq!(claim(&both, "kubernetes.io/namespace"), None, "nobody can tell which is meant");
    }

    #[test]
    fn all_claims_must_hold_and_the_star_is_that_of_the_name() {
        let node = entry(&[("kubernetes.io/node/name", &["*"]), ("sub", &["system:serviceaccount:prod:board"])]);
        assert_eq!(judge(&node, &Star::Is("n1".into()), &kubernetes()), Ok(()));
        assert!(judge(&node, &Star::Is("n2".into()), &kubernetes()).expect_err("another node").contains("`n1`"));
        let other = entry(&[("kubernetes.io/namespace", &["prod"]), ("sub", &["nobody"])]);
        assert!(judge(&other, &Star::Any, &kubernetes()).expect_err("one does not").contains("`sub`"));
    }
}
