use std::thread;

use proptest::prelude::*;
use weft_model::intent::{Allow, Caller};

use super::*;
use crate::bundle::PolicyText;
use crate::{Bundle, Engine, PolicyError, testing};

fn when(condition: &str) -> String {
    format!("permit(principal, action, resource) when {{ {condition} }};")
}

fn wrapped(before: &str, within: &str, after: &str, times: usize) -> String {
    when(&format!("{}{within}{}", before.repeat(times), after.repeat(times)))
}

fn what(policy: &str) -> Option<Depth> {
    check(policy).err().map(|too_deep| too_deep.what)
}

/// The deepest of each kind that the bounds let through.
fn deepest() -> Vec<String> {
    let row = MAX_ROW - 20;
    vec![
        when(&format!("{}true", "true || ".repeat(row))),
        when(&format!("{}true", "context.method == \"GET\" || ".repeat(row / 3))),
        when(&format!("{}true", "true && ".repeat(row))),
        when(&format!("{}1 > 0", "1 + ".repeat(row - 1))),
        when(&format!("{}1 > 0", "context.depth + ".repeat(row / 2))),
        when(&format!("0{} < 1", " - ---1".repeat(row - 1))),
        when(&format!("{}1 == 1", "1 * ".repeat(row - 1))),
        when(&format!("context{}", ".a".repeat(row))),
        when(&format!("context{}", "[\"a\"]".repeat(row))),
        when(&format!("[1]{}", ".contains(1)".repeat(row / 2 - 1))),
        when(&format!("context has a{}", ".a".repeat(row - 2))),
        when(&format!("principal{}", " in principal".repeat(row / 2 - 1))),
        format!("permit(principal, action, resource) {};", "when { true }".repeat(row / 2)),
        wrapped("(", "true", ")", 63),
        wrapped("!!!!(", "true", ")", 63),
        wrapped("[", "true", "]", 63),
        wrapped("if true then true else ", "true", "", 63),
        wrapped("if ", "true", " then true else true", 63),
        wrapped(&format!("{}(", "true && ".repeat(row / 64)), "true", ")", 63),
        when(&format!("{}{}1 == 1{}", "!!!!(".repeat(63), "1 + ".repeat(row - 140), ")".repeat(63))),
    ]
}

/// A bundle as a control plane without these bounds would make it.
fn bundle_with(text: &str) -> Bundle {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    testing::policies(&mut intent, &when("true"));
    let bundle = testing::bundle(&intent, "prod/board");
    let policies = vec![PolicyText { text: text.into(), ..bundle.policies[0].clone() }];
    Bundle { policies, ..bundle }.sealed()
}

/// Checks a policy as a commit is checked, then parses, asks and drops it as a sidecar does, on a thread with little stack.
fn survives(text: String) -> (Vec<&'static str>, Option<PolicyError>) {
    let work = move || {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        testing::policies(&mut intent, &text);
        let codes = crate::check(&intent).iter().map(|finding| finding.code).collect();
        let web = testing::id("prod/web");
        let engine = Engine::new(&bundle_with(&text));
        if let Ok(engine) = &engine {
            let decision = engine.decide(&testing::request(&web));
            assert!(!decision.errors.iter().any(|error| error.contains("recursion")), "{:?}", decision.errors);
        }
        (codes, engine.err())
    };
    let thread = thread::Builder::new().stack_size(1 << 20).spawn(work).expect("a thread");
    thread.join().expect("no panic")
}

#[test]
fn what_is_within_the_bounds_ends_no_stack() {
    for text in deepest() {
        assert_eq!(check(&text), Ok(()), "{}", &text[..80]);
        survives(text);
    }
}

/// Up to [`USUAL_LEVELS`] a worker evaluates on its own stack: half of what it has is enough, even unoptimised.
#[test]
fn what_is_not_deep_needs_little_stack() {
    let levels = USUAL_LEVELS - 10;
    let sum = format!("{} < 1000", vec!["context.depth"; levels].join(" + "));
    let inner = (0..30).map(|_| "(if context.depth < 1 then false else ").collect::<String>();
    let nested = format!("{inner}true{}", ")".repeat(30));
    for condition in [sum, nested, format!("({}context.depth{}) < 9", "-(".repeat(60), ")".repeat(60))] {
        let engine = Engine::new(&bundle_with(&when(&condition))).expect("an engine");
        let work = move || engine.decide(&testing::request(&testing::id("prod/web"))).allowed;
        let thread = thread::Builder::new().stack_size(1 << 20).spawn(work).expect("a thread");
        assert!(thread.join().expect("no panic"), "{condition}");
    }
}

#[test]
fn what_is_beyond_them_is_refused_by_the_check_and_by_a_sidecar() {
    let beyond = [300, 600, 1_500, 6_000, 100_000].map(|times| wrapped("(", "true", ")", times));
    let chains = ["true || ", "true && ", "1 + ", "if true then true else ", "!(", "["];
    let chains = chains.map(|link| when(&format!("{}true", link.repeat(20_000))));
    let access = [".a", "[\"a\"]", ".contains(1)"].map(|link| when(&format!("context{}", link.repeat(20_000))));
    for text in beyond.into_iter().chain(chains).chain(access) {
        let (codes, error) = survives(text.clone());
        assert_eq!(codes, ["WEFT0209"], "{}", &text[..80]);
        assert!(matches!(error, Some(PolicyError::Policy { .. })), "{error:?}");
    }
}

#[test]
fn only_what_is_open_counts() {
    assert_eq!(what(&when(&"(true) && ".repeat(900))), None);
    assert_eq!(what(&when(&format!("[{}1].contains(2)", "\"x\", ".repeat(50_000)))), None, "a list is not deep");
    assert_eq!(what(&when(&format!("\"{}\" == \"\\\"{}\"", "(".repeat(99), "[".repeat(99)))), None, "strings");
    assert_eq!(what(&format!("// {}\n{}", "(".repeat(99), when("true // [[["))), None, "comments");
    assert_eq!(what(&wrapped("(", "true", ")", 63)), None);
    assert_eq!(what(&wrapped("(", "true", ")", 64)), Some(Depth::Nesting));
    assert_eq!(what(&wrapped("(]", "true", "", 64)), Some(Depth::Nesting), "what does not fit closes nothing");
    assert_eq!(what(&when(&"if true then true else ".repeat(64))), Some(Depth::Nesting));
    assert_eq!(what(&when(&"true || ".repeat(MAX_ROW))), Some(Depth::Row));
}

#[test]
fn the_finding_has_its_place_and_hides_no_other() {
    let mut intent = testing::intent(&["prod/web"]);
    testing::policies(&mut intent, &format!("{}\n{}", wrapped("(", "true", ")", 64), when("1 +")));
    let findings = crate::check(&intent);
    let shown: Vec<String> = findings.iter().map(|finding| format!("{finding}")).collect();
    assert_eq!(shown[0], "policies/x.cedar:1:107: the policy is nested more than 64 levels deep [WEFT0209]");
    assert!(shown.len() == 2 && shown[1].starts_with("policies/x.cedar:2:"), "{shown:?}");
    assert!(!findings[0].hint.is_empty());
}

/// Policies that are made from `access` are as flat as they can be.
#[test]
fn an_access_entry_is_within_the_bounds() {
    let mut intent = testing::intent(&["prod/web", "prod/board"]);
    let path = |n: usize| format!("/p{n}{}", "/*".repeat(16));
    let allow = (0..300).map(|n| Allow { method: Some("PUT".into()), path: path(n).into() }).collect();
    testing::allow(&mut intent, "prod/board", Caller::Anyone, allow);
    let bundle = testing::bundle(&intent, "prod/board");
    assert_eq!(check(&bundle.policies[0].text), Ok(()));
    assert!(Engine::new(&bundle).is_ok());
}

proptest! {
    /// A stranger's text is refused or given to Cedar, which says what is wrong with it; nothing panics.
    #[test]
    fn any_text_is_judged(text in "(if |true|\\(|\\)|\\[|\\]|,|\\.a|!|-|\\|\\||\"|//|\n|;|é){0,60}") {
        let mut intent = testing::intent(&["prod/web"]);
        testing::policies(&mut intent, &text);
        let _ = (check(&text), crate::check(&intent));
    }
}
