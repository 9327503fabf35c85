use super::*;
use crate::node::Node;
use crate::trial::{self, Get, Trial};

/// Whom a policy with this condition concerns, and the keys of each of its parts.
fn narrowed(condition: &str) -> (Vec<usize>, Vec<Option<Vec<String>>>) {
    let Compiled { principals, ways, .. } = trial::when(condition).compiled;
    let say = |key: &Key| {
        let [method, host] = &key.words;
        let host = host.as_ref().map(|host| format!("{host}:")).unwrap_or_default();
        format!("{} {host}{}{}", method.as_deref().unwrap_or("*"), key.start, if key.whole { "" } else { "..." })
    };
    let keys = ways.iter().map(|way| way.keys.as_ref().map(|keys| keys.iter().map(say).collect())).collect();
    (principals.iter().collect(), keys)
}

fn principals(condition: &str) -> Vec<usize> {
    narrowed(condition).0
}

/// The keys of a condition, all parts together; `None` if a part has none.
fn keys(condition: &str) -> Option<Vec<String>> {
    narrowed(condition).1.into_iter().collect::<Option<Vec<_>>>().map(|keys| keys.concat())
}

#[test]
fn who_is_concerned_is_told_beforehand() {
    for (condition, expected) in [
        ("principal has team", vec![0]),
        ("principal has team && principal.team == \"x\"", vec![0]),
        ("principal has team && principal.team != \"x\"", vec![]),
        ("!(principal has team) || principal.team == \"y\"", vec![1]),
        ("principal.name == \"b\"", vec![1]),
        ("\"b\" == principal.name", vec![1]),
        ("principal.name like \"a*\"", vec![0]),
        ("[\"b\", \"c\"].contains(principal.name)", vec![1]),
        ("principal in G::\"g\"", vec![0]),
        ("principal in [G::\"g\", S::\"B\"]", vec![0, 1]),
        ("principal == S::\"B\"", vec![1]),
        ("principal == S::\"gone\" || principal is G", vec![]),
        ("principal.name == resource.name", vec![]),
        ("if principal has team then principal.team == \"x\" else true", vec![0, 1]),
        ("context.method == \"GET\" && principal.name == \"a\"", vec![0]),
        ("context has ip && context.ip.isIpv4() && principal.name == \"a\"", vec![0]),
    ] {
        assert_eq!(principals(condition), expected, "{condition}");
    }
}

/// Or a policy would be left out that is an error for this principal.
#[test]
fn nothing_is_told_behind_what_can_be_an_error() {
    for condition in [
        "principal.team == \"x\"",
        "principal.team == \"x\" && principal.name == \"a\"",
        "context.depth + 1 > 0 && principal.name == \"a\"",
        "context.gone && principal.name == \"a\"",
        "context.ip.isIpv4() && principal.name == \"a\"",
        "context.depth && principal.name == \"a\"",
        "1 && principal.name == \"a\"",
        "resource.gone == 1 && principal.name == \"a\"",
        "principal has name.x && principal.name == \"a\"",
        "decimal(\"1.0\").lessThan(decimal(\"2.0\")) && principal.name == \"a\"",
        "ip(context.method).isIpv4() && principal.name == \"a\"",
        "principal in context.user.scopes && principal.name == \"a\"",
    ] {
        assert_eq!(principals(condition), [0, 1], "{condition}");
        let method = condition.replace("principal.name == \"a\"", "context.method == \"PUT\"");
        assert_eq!(keys(&method), None, "{method}");
    }
    let trial = trial::policy(
        "forbid(principal, action, resource) when { context.depth + 1 > 0 } unless { principal.name == \"a\" };",
    );
    assert_eq!(trial.compiled.principals.iter().count(), 2);
}

#[test]
fn methods_and_paths_become_keys() {
    for (condition, expected) in [
        ("context.method == \"GET\"", &["GET ..."][..]),
        ("context.path == \"/a\" && context.method == \"GET\"", &["GET /a"]),
        ("context.host == \"h\"", &["* h:..."]),
        ("context.host like \"h\" && context.path == \"/a\" && context.method == \"GET\"", &["GET h:/a"]),
        ("context.host == \"h\" && context.host == \"i\"", &[]),
        ("[\"h\", \"i\"].contains(context.host) && context.host != \"i\"", &["* h:...", "* i:..."]),
        ("context.path like \"/a/*\"", &["* /a/..."]),
        ("context.path like \"/a\"", &["* /a"]),
        ("context has first1 && context.first1 == \"/a\"", &["* /a..."]),
        ("context has first1 && context.first1 like \"/a\"", &["* /a..."]),
        ("[\"GET\", \"PUT\"].contains(context.method) && context.path like \"/a*b\"", &["GET /a...", "PUT /a..."]),
        ("context.path == \"/a\" || context.path like \"/a/*\"", &["* /a", "* /a/..."]),
        ("(context.method == \"GET\" && context.path == \"/a\") || context.method == \"PUT\"", &["GET /a", "PUT ..."]),
        ("context.method == \"GET\" && context.depth + 1 > 2", &["GET ..."]),
        ("context.path like \"/a*\" && context.path like \"/a/b*\"", &["* /a/b..."]),
        ("context.path like \"/a*\" && context.path == \"/b\"", &[]),
        ("context.method == \"GET\" && context.method == \"PUT\"", &[]),
        ("resource.tier == \"one\" && context.method == \"GET\"", &["GET ..."]),
        ("resource.tier == \"two\" && context.method == \"GET\"", &[]),
        ("resource has gone && resource.gone == \"two\"", &[]),
    ] {
        assert_eq!(
            keys(condition).as_deref(),
            Some(&expected.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>()[..]),
            "{condition}"
        );
    }
    for condition in [
        "context.path like \"*\"",
        "context.path != \"/a\"",
        "context.first1 == \"/a\"",
        "context.path == context.method",
        "context.path == \"/a\" || context.depth == 1",
        "[1, \"GET\"].contains(context.depth)",
        "principal.name == \"a\"",
        "context.method like \"G*\"",
    ] {
        assert_eq!(keys(condition), None, "{condition}");
    }
    let everything = keys("[1, 2].contains(context.method)").expect("keys");
    assert!(everything.is_empty(), "what is never true is left out");
}

#[test]
fn a_rule_of_many_paths_is_a_part_for_each() {
    let paths: Vec<String> =
        (0..300).map(|n| format!("(context.method == \"GET\" && context.path like \"/p{n}/*\")")).collect();
    let (_, parts) = narrowed(&paths.join(" || "));
    assert_eq!(parts.len(), 300);
    assert_eq!(parts[299].as_deref(), Some(&["GET /p299/...".to_owned()][..]));
    let (_, whole) = narrowed(&format!("({}) && context.depth + 1 > 0", paths.join(" || ")));
    assert_eq!((whole.len(), whole[0].as_ref().map(Vec::len)), (1, Some(300)), "an error belongs to all of it");
    let many: Vec<String> = (0..keys::KEYS_MAX + 1).map(|n| format!("context.path == \"/p{n}\"")).collect();
    let (_, parts) = narrowed(&format!("({}) && context.depth + 1 > 0", many.join(" || ")));
    assert_eq!(parts, [None]);
}

#[test]
fn what_is_known_of_the_callee_is_folded() {
    let root = |condition: &str| {
        let Trial { program, compiled, .. } = trial::when(condition);
        program.node(compiled.whole.root)
    };
    let Node::Constant(yes) = root("true") else { panic!("a constant") };
    for condition in [
        "resource.tier == \"one\"",
        "resource has tier && resource.tier like \"o*\"",
        "action == Action::\"call\" && resource is S",
        "[resource.name, 1 + 1].contains(2)",
        "{a: resource}.a.name == \"r\"",
        "ip(\"10.0.0.1\").isInRange(ip(\"10.0.0.0/8\"))",
        "if resource has gone then context.gone else resource has tier",
        "resource in [S::\"R\", G::\"x\"]",
    ] {
        assert_eq!(root(condition), Node::Constant(yes), "{condition}");
    }
    // An error stays where it is.
    let Trial { program, principals, compiled } = trial::when("context.depth == 9 && resource.gone == 1");
    assert_eq!(program.evaluate(compiled.whole, principals[0], &Get), Ok(false));
    assert!(matches!(root("true && resource.tier"), Node::All(_)), "a condition has to be true or false");
}

#[test]
fn equal_conditions_are_kept_once_and_sets_in_them_cost_nothing() {
    let condition = "[\"a\", \"b\"].contains(context.method) && context.path like \"/x*\"";
    let once = trial::when(condition).program.nodes.len();
    let twice = trial::when(&format!("({condition}) || !({condition})"));
    assert!(twice.program.nodes.len() <= once + 3, "{} {once}", twice.program.nodes.len());
    assert_eq!(twice.compiled.whole.cells, 0);
    assert_eq!(trial::when("[context.method].contains(\"a\") && [[\"x\"]].contains([\"x\"])").compiled.whole.cells, 1);
}
