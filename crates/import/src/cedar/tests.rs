use cedar_policy::{Policy, PolicyId};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::expr::*;
use super::print::{self, Effect, Scope};
use super::split::split;

/// The condition in Cedar's JSON form, which is what its text must mean.
fn form(expr: &Expr) -> Value {
    match expr {
        Expr::True => json!({"Value": true}),
        Expr::False => json!({"Value": false}),
        Expr::Not(inner) => match &**inner {
            Expr::OneOf(attr, texts) if texts.len() == 1 => two("!=", attribute(attr), json!({"Value": texts[0]})),
            Expr::In(Kind::Service, names) if names.len() == 1 => two(
                "!=",
                json!({"Var": "principal"}),
                json!({"Value": {"__entity": {"type": "Service", "id": names[0]}}}),
            ),
            inner => json!({"!": {"arg": form(inner)}}),
        },
        Expr::And(items) => items.iter().map(form).reduce(|left, right| two("&&", left, right)).expect("some"),
        Expr::Or(items) => items.iter().map(form).reduce(|left, right| two("||", left, right)).expect("some"),
        Expr::OneOf(attr, texts) if texts.len() == 1 => two("==", attribute(attr), json!({"Value": texts[0]})),
        Expr::OneOf(attr, texts) => two(
            "contains",
            json!({"Set": texts.iter().map(|text| json!({"Value": text})).collect::<Vec<_>>()}),
            attribute(attr),
        ),
        Expr::Like(attr, pieces) => {
            let piece = |piece: &Piece| match piece {
                Piece::Any => json!("Wildcard"),
                Piece::Text(text) => json!({"Literal": text}),
            };
            json!({"like": {"left": attribute(attr), "pattern": pieces.iter().map(piece).collect::<Vec<_>>()}})
        }
        Expr::In(kind, names) => {
            let entity = |name: &String| json!({"Value": {"__entity": {"type": kind.name(), "id": name}}});
            let principal = json!({"Var": "principal"});
            match (kind, &names[..]) {
                (Kind::Service, [one]) => two("==", principal, entity(one)),
                (Kind::Namespace, [one]) => two("in", principal, entity(one)),
                _ => two("in", principal, json!({"Set": names.iter().map(entity).collect::<Vec<_>>()})),
            }
        }
        Expr::InRange(attr, range) => json!({"isInRange": [attribute(attr), {"ip": [{"Value": range}]}]}),
        Expr::Has(attr) => {
            let (last, before) = attr.path.split_last().expect("a name");
            json!({"has": {"left": attribute(&Attr { of: attr.of, path: before.to_vec() }), "attr": last}})
        }
        Expr::Number(attr, Compare::Equal, number) => two("==", attribute(attr), json!({"Value": number})),
        Expr::Number(attr, Compare::AtLeast, number) => two(">=", attribute(attr), json!({"Value": number})),
    }
}

fn two(operator: &str, left: Value, right: Value) -> Value {
    json!({operator: {"left": left, "right": right}})
}

fn attribute(attr: &Attr) -> Value {
    attr.path.iter().fold(json!({"Var": attr.of}), |left, name| json!({".": {"left": left, "attr": name}}))
}

/// As Cedar tells it: neighbouring literals joined, `has` with one name as that name.
fn plain(form: Value) -> Value {
    match form {
        Value::Object(members) => {
            let one = |(key, value): (String, Value)| match (&*key, &value) {
                ("attr", Value::Array(names)) if names.len() == 1 => (key, names[0].clone()),
                _ => (key, plain(value)),
            };
            members.into_iter().map(one).collect()
        }
        Value::Array(items) => {
            let mut out: Vec<Value> = Vec::new();
            for item in items {
                match (out.last_mut().and_then(|last| last.get_mut("Literal")), item.get("Literal")) {
                    (Some(Value::String(before)), Some(Value::String(text))) => before.push_str(text),
                    _ => out.push(plain(item)),
                }
            }
            Value::Array(out)
        }
        other => other,
    }
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-c*/\"\\\\'\u{202e}\n]{0,6}", 1 => "\\PC{0,8}", 1 => "(?s).{0,4}"]
}

fn any_attr() -> impl Strategy<Value = Attr> {
    let named = prop_oneof![Just(context("path")), Just(context("method")), Just(principal("name"))];
    let header = any_text().prop_map(|name| Attr { of: "context", path: vec!["headers".to_owned(), name] });
    prop_oneof![4 => named, 1 => header]
}

fn any_expr() -> impl Strategy<Value = Expr> {
    let pieces = proptest::collection::vec(prop_oneof![Just(Piece::Any), "[a*]{1,3}".prop_map(Piece::Text)], 1..4);
    let leaf = prop_oneof![
        (any_attr(), proptest::collection::vec(any_text(), 1..4)).prop_map(|(attr, texts)| Expr::OneOf(attr, texts)),
        (any_attr(), pieces).prop_map(|(attr, pieces)| Expr::Like(attr, pieces)),
        (any::<bool>(), proptest::collection::vec(any_text(), 1..3))
            .prop_map(|(service, names)| Expr::In(if service { Kind::Service } else { Kind::Namespace }, names)),
        Just(Expr::InRange(context("sourceIp"), "10.0.0.0/8".to_owned())),
        any_attr().prop_map(Expr::Has),
        any::<bool>().prop_map(|equal| Expr::Number(
            context("depth"),
            if equal { Compare::Equal } else { Compare::AtLeast },
            3
        )),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(not),
            proptest::collection::vec(inner.clone(), 2..5).prop_map(and),
            proptest::collection::vec(inner, 2..5).prop_map(or),
        ]
    })
}

fn permit(when: Expr) -> print::Policy {
    print::Policy { effect: Effect::Permit, principal: Scope::Any, resource: Scope::Any, when }
}

proptest! {
    /// Whatever the strings, the text is one policy that means what was put together, and no line of it is a surprise.
    #[test]
    fn the_text_means_what_was_built(when in any_expr(), name in any_text(), forbid in any::<bool>()) {
        prop_assume!(when != Expr::True);
        let effect = if forbid { Effect::Forbid } else { Effect::Permit };
        let policy = print::Policy { effect, principal: Scope::Service(name.clone()), resource: Scope::Namespace(name.clone()), when };
        let text = print::policy(&policy);
        let parsed = Policy::parse(Some(PolicyId::new("x")), &text).map_err(|error| TestCaseError::fail(format!("{error:?}\n{text}")))?;
        let parsed = parsed.to_json().expect("a JSON form");
        prop_assert_eq!(plain(parsed["conditions"][0]["body"].clone()), plain(form(&policy.when)), "{}", text);
        prop_assert_eq!(&parsed["effect"], if forbid { "forbid" } else { "permit" });
        prop_assert_eq!(&parsed["principal"]["entity"]["id"], &name);
        prop_assert_eq!(&parsed["resource"]["entity"]["id"], &name);
        prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}'), "{text:?}");
    }

    /// Putting conditions together changes nothing about what holds.
    #[test]
    fn nothing_and_everything_leave_no_trace(expr in any_expr()) {
        prop_assert_eq!(and([Expr::True, expr.clone()]), expr.clone());
        prop_assert_eq!(and([expr.clone(), Expr::False]), Expr::False);
        prop_assert_eq!(or([Expr::False, expr.clone()]), expr.clone());
        prop_assert_eq!(or([expr, Expr::True]), Expr::True);
    }
}

#[test]
fn a_policy_reads_like_this() {
    let paths = ["/a-long-path/to/somewhere", "/another-long-path/to/elsewhere", "/yet-another-path/to/nowhere"];
    let prefix = |text: &str| like(context("path"), vec![Piece::Text(text.to_owned()), Piece::Any]);
    let when = and([
        equal(context("method"), "GET"),
        or([prefix("/api/"), and([prefix("/x*y"), not(equal(context("host"), "a\"b"))])]),
        or(paths.map(|path| and([equal(context("method"), "PUT"), prefix(path)]))),
        not(or(paths.map(|path| equal(context("path"), path)))),
        not(Expr::OneOf(context("path"), paths.map(str::to_owned).to_vec())),
        not(Expr::InRange(context("sourceIp"), "10.0.0.0/8".to_owned())),
        Expr::Has(Attr { of: "context", path: vec!["headers".to_owned(), "x-team".to_owned()] }),
    ]);
    let policy = print::Policy {
        principal: Scope::Service("prod/a-service-with-a-rather-long-name".to_owned()),
        resource: Scope::Service("prod/another-service-with-a-long-name".to_owned()),
        ..permit(when)
    };
    insta::assert_snapshot!(print::policy(&policy));
}

/// WEFT0209 lets 2,000 words into a policy.
#[test]
fn what_is_too_much_for_one_policy_is_several() {
    let many =
        |count: usize| or((0..count).map(|n| like(context("path"), vec![Piece::Text(format!("/{n}/")), Piece::Any])));
    let method = || equal(context("method"), "GET");
    assert_eq!(split(many(180)).map(|parts| parts.len()), Ok(1));
    let parts = split(and([method(), many(500)])).expect("it can be taken apart");
    assert_eq!(parts.len(), 3);
    for part in &parts {
        assert!(matches!(part, Expr::And(items) if items[0] == method()), "{part:?}");
    }
    assert_eq!(
        or(parts.into_iter().map(|part| match part {
            Expr::And(items) => items[1].clone(),
            other => other,
        })),
        many(500)
    );
    assert!(split(not(many(500))).is_err(), "all of these must hold, so no policy can have a part of them");
    let texts = Expr::OneOf(context("path"), (0..5_000).map(|n| format!("/{n}")).collect());
    assert_eq!(split(texts).map(|parts| parts.len()), Ok(1), "a list costs nothing");
}
