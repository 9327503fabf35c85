//! `access` entries of a service as Cedar policies: one for each caller of an entry, so that whom it concerns stands in the
//! policy's scope, where it can be read without evaluating anything.
//!
//! Policies are built in Cedar's JSON form, never by pasting text: a name or a path from a file cannot become syntax.

use std::borrow::Cow;
use std::sync::Arc;

use cedar_policy::{Policy, PolicyId};
use serde_json::{Value, json};
use weft_model::intent::{AccessRule, Allow, Caller, Case, Paths, Service};
use weft_model::{Finding, PLAIN_TEXT, Severity};

use crate::path;
use crate::pattern::{self, Pattern, Refused};
use crate::source::{SHADOW, Source};

/// The policies of all entries of `service`; entries that cannot become policies are reported and left out.
pub(crate) fn policies(service: &Service, findings: &mut Vec<Finding>) -> Vec<Source> {
    let mut sources = Vec::new();
    for rule in &service.access {
        let Some(condition) = condition(rule, service.paths, findings) else { continue };
        for caller in &rule.from {
            sources.push(policy(service, rule, caller, &condition));
        }
    }
    sources
}

/// What an entry demands of the request: `Some(None)` if nothing, `None` if it cannot be said because a pattern is wrong.
fn condition(rule: &AccessRule, paths: Paths, findings: &mut Vec<Finding>) -> Option<Option<Value>> {
    let mut any = Vec::new();
    let (mut everything, mut refused) = (rule.allow.is_empty(), false);
    for Allow { method, path } in &rule.allow {
        // Where the app does not tell upper from lower case, policies are asked about the path in lower case.
        let path = match paths.case {
            Case::Ignore => path::lower_case(path),
            Case::Sensitive => Cow::Borrowed(&**path),
        };
        let path = match Pattern::parse(&path, paths) {
            Ok(pattern) => pattern.condition(),
            Err(Refused(problem, hint)) => {
                findings.push(Finding {
                    code: "WEFT0207",
                    severity: Severity::Error,
                    message: problem,
                    hint: hint.to_owned(),
                    span: Some(rule.span.clone()),
                });
                refused = true;
                continue;
            }
        };
        let method = method.as_deref().map(|method| pattern::equal(pattern::context("method"), method));
        match (method, path) {
            (None, None) => everything = true,
            (Some(one), None) | (None, Some(one)) => any.push(one),
            (Some(method), Some(path)) => any.push(pattern::and(method, path)),
        }
    }
    (!refused).then(|| any_of(&mut any).filter(|_| !everything))
}

/// A balanced tree: Cedar descends into operands by recursion, so a list of a thousand must not become a thousand levels.
fn any_of(conditions: &mut [Value]) -> Option<Value> {
    match conditions {
        [] => None,
        [one] => Some(std::mem::take(one)),
        several => {
            let (first, second) = several.split_at_mut(several.len() / 2);
            Some(pattern::or(any_of(first)?, any_of(second)?))
        }
    }
}

fn policy(service: &Service, rule: &AccessRule, caller: &Caller, condition: &Option<Value>) -> Source {
    let entity = |kind: &str, id: &str| json!({"type": kind, "id": id});
    let (principal, who) = match caller {
        Caller::Service(name) => (json!({"op": "==", "entity": entity("Service", name.as_str())}), name.to_string()),
        Caller::Namespace(name) => (json!({"op": "in", "entity": entity("Namespace", name)}), format!("{name}/*")),
        Caller::Role(name) => (json!({"op": "in", "entity": entity("Role", name)}), format!("role:{name}")),
        Caller::Anyone => (json!({"op": "All"}), "*".to_owned()),
        Caller::Foreign(id) => (json!({"op": "==", "entity": entity("Service", id.as_str())}), id.to_string()),
        Caller::PlainText => (json!({"op": "==", "entity": entity("Service", PLAIN_TEXT)}), PLAIN_TEXT.to_owned()),
    };
    let mut form = json!({
        "effect": "permit",
        "principal": principal,
        "action": {"op": "==", "entity": entity("Action", "call")},
        "resource": {"op": "==", "entity": entity("Service", service.name.as_str())},
        "conditions": [],
    });
    if rule.shadow {
        form["annotations"] = json!({SHADOW: ""});
    }
    if let Some(body) = condition {
        form["conditions"] = json!([{"kind": "when"}]);
        form["conditions"][0]["body"] = body.clone();
    }
    let span = &rule.span;
    let id: Arc<str> = match rule.from.len() {
        1 => format!("{}:{}", span.file, span.line).into(),
        _ => format!("{}:{}#{who}", span.file, span.line).into(),
    };
    let policy =
        Policy::from_json(Some(PolicyId::new(&id)), form).expect("this is Cedar's JSON form, whatever the strings");
    let text = policy.to_cedar().expect("a static policy has a text").into();
    Source {
        id,
        file: span.file.clone(),
        line: span.line,
        text,
        policy,
        parsed_at: 0,
        form: Arc::default(),
        origin: None,
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::{PolicySet, ValidationMode, Validator};
    use proptest::prelude::*;
    use weft_model::Span;
    use weft_model::intent::Slashes;

    use super::*;
    use crate::request::CallRequest;
    use crate::testing;
    use crate::testing::matches_by_the_letter;

    fn any_caller() -> impl Strategy<Value = Caller> {
        prop_oneof![
            Just(Caller::Anyone),
            Just(Caller::PlainText),
            "[a-z]{1,8}".prop_map(|name| {
                Caller::Foreign(format!("spiffe://other.test/ns/prod/sa/{name}").parse().expect("legal"))
            }),
            "\\PC{0,12}".prop_map(|name| Caller::Role(name.into())),
            "\\PC{0,12}".prop_map(|name| Caller::Namespace(name.into())),
            Just(Caller::Service("prod/web".parse().expect("legal"))),
        ]
    }

    fn any_allow() -> impl Strategy<Value = Allow> {
        let segment = prop_oneof![3 => "[a-b]{1,2}", 2 => Just("*".to_owned()), 1 => Just(String::new())];
        let path = (proptest::collection::vec(segment, 1..4), any::<bool>())
            .prop_map(|(segments, open)| format!("/{}{}", segments.join("/"), if open { "/**" } else { "" }));
        (proptest::option::of("\\PC{0,6}"), path)
            .prop_map(|(method, path)| Allow { method: method.map(Into::into), path: path.into() })
    }

    fn any_path() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop_oneof![4 => "[a-b]{1,2}", 1 => Just(String::new())], 1..6)
            .prop_map(|segments| format!("/{}", segments.join("/")))
    }

    /// Text is parsed into a pattern letter by letter: joins neighbouring literals.
    fn joined(form: Value) -> Value {
        match form {
            Value::Object(members) => members.into_iter().map(|(key, value)| (key, joined(value))).collect(),
            Value::Array(items) => {
                let mut out: Vec<Value> = Vec::new();
                for item in items {
                    match (out.last_mut().and_then(|last| last.get_mut("Literal")), item.get("Literal")) {
                        (Some(Value::String(before)), Some(Value::String(text))) => before.push_str(text),
                        _ => out.push(joined(item)),
                    }
                }
                Value::Array(out)
            }
            other => other,
        }
    }

    /// On a test's thread with its 2 MiB of stack.
    #[test]
    fn a_rule_may_allow_hundreds_of_paths() {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        let path = |n: usize| format!("/extra{n}/**");
        let allow = (0..300).map(|n| Allow { method: Some("PUT".into()), path: path(n).into() }).collect();
        testing::allow(&mut intent, "prod/board", Caller::Anyone, allow);
        let engine = testing::engine(&intent, "prod/board");
        let web = testing::id("prod/web");
        let decide = |path: &str| engine.decide(&CallRequest { method: "PUT", path, ..testing::request(&web) }).allowed;
        assert!(decide("/extra0/x") && decide("/extra150/x") && decide("/extra299/x"));
        assert!(!decide("/extra300/x"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Hostile names and methods stay strings: the text parses to the same policy, which is valid and still concerns one callee.
        #[test]
        fn a_rule_is_always_one_valid_policy_a_caller(
            from in proptest::collection::vec(any_caller(), 1..4),
            allow in proptest::collection::vec(any_allow(), 0..4),
            shadow in any::<bool>(),
        ) {
            let mesh = testing::mesh(&[]);
            let mut service = testing::service("prod/board");
            service.paths.slashes = Slashes::Keep;
            let span = Span { file: "services/\"x\";.yaml".into(), line: 7, column: 3 };
            service.access = vec![AccessRule { from: from.clone(), allow, shadow, span }];
            let mut findings = Vec::new();
            let sources = policies(&service, &mut findings);
            prop_assert!(findings.is_empty(), "{findings:?}");
            prop_assert_eq!(sources.len(), from.len());
            for source in sources {
                let parsed = Policy::parse(Some(PolicyId::new(&source.id)), &source.text).expect("the text parses");
                prop_assert_eq!(parsed.annotation(SHADOW).is_some(), shadow);
                let form = |policy: &Policy| joined(policy.to_json().expect("a JSON form"));
                prop_assert_eq!(form(&parsed), form(&source.policy));
                let set = PolicySet::from_policies([parsed]).expect("one policy");
                let result = Validator::new(crate::schema::of(&mesh)).validate(&set, ValidationMode::Strict);
                prop_assert!(result.validation_passed(), "{}\n{result}", source.text);
            }
        }

        /// Cedar's answer is what the pattern means by the letter.
        #[test]
        fn a_pattern_means_what_it_says(allow in any_allow(), path in any_path(), same_method in any::<bool>()) {
            let mut intent = testing::intent(&["prod/web", "prod/board"]);
            let method = if same_method { allow.method.as_deref().unwrap_or("GET").to_owned() } else { "HEAD".to_owned() };
            let mut expected = allow.method.as_deref().is_none_or(|want| want == method);
            // In each way in which the app may read it: as it is, and with one slash for several.
            for read in [path.clone(), crate::path::normalize(&path, Paths::default()).expect("legal").into_owned()] {
                expected &= matches_by_the_letter(&allow.path, &read);
            }
            intent.services.get_mut(&testing::name("prod/board")).expect("it is there").paths.slashes = Slashes::Keep;
            testing::allow(&mut intent, "prod/board", Caller::Anyone, vec![allow]);
            let engine = testing::engine(&intent, "prod/board");
            let web = testing::id("prod/web");
            let request = CallRequest { method: &method, path: &path, ..testing::request(&web) };
            prop_assert_eq!(engine.decide(&request).allowed, expected);
        }
    }
}
