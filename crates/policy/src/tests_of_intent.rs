//! The mesh's own tests (`kind: Test`), run against the policies of the same commit.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use weft_model::intent::{ExpectedDecision, Intent, Protocol, TestCaller};
use weft_model::{Finding, ServiceName, Severity, SpiffeId};

use crate::break_glass::BreakGlass;
use crate::decision::Decision;
use crate::engine::Engine;
use crate::model::PolicyModel;
use crate::probe::{Probe, Who};

/// What each expectation of the intent's tests came to.
pub struct Outcome<'a> {
    /// The name of the test.
    pub test: &'a str,
    /// What was expected.
    pub expected: &'a ExpectedDecision,
    /// What was decided, if anything could be.
    pub decision: Option<Decision>,
    /// Why it is not as expected; `None` if it is.
    pub failure: Option<Finding>,
}

/// Runs all tests of `intent`, whose policies `model` has.
pub fn run_tests<'a>(intent: &'a Intent, model: &PolicyModel) -> Vec<Outcome<'a>> {
    let mut engines = HashMap::<(&ServiceName, bool), Result<Engine, String>>::new();
    let broken = BreakGlass::always();
    let mut outcomes = Vec::new();
    for test in &intent.tests {
        for expected in &test.decisions {
            let engine = engines.entry((&expected.to, expected.break_glass)).or_insert_with(|| {
                let glass = expected.break_glass.then_some(&broken);
                Engine::new(&model.bundle_with(&expected.to, glass)).map_err(|error| error.to_string())
            });
            let judged = match engine {
                Ok(engine) => judge(intent, expected, engine),
                Err(error) => {
                    (None, Some(unlike(expected, error.clone(), "this is a fault of weft; please report it")))
                }
            };
            outcomes.push(Outcome { test: &test.name, expected, decision: judged.0, failure: judged.1 });
        }
    }
    outcomes
}

fn judge(intent: &Intent, expected: &ExpectedDecision, engine: &Engine) -> (Option<Decision>, Option<Finding>) {
    let caller = match &expected.from {
        TestCaller::Service(name) => Who::Id(SpiffeId::for_service(&intent.mesh.trust_domain, name)),
        TestCaller::Id(id) => Who::Id(id.clone()),
        TestCaller::PlainText => Who::PlainText,
    };
    if let Some(problem) = no_call(intent, expected) {
        return (
            None,
            Some(unlike(expected, problem, "write `call: GET /api/pins`, or leave it out for a tcp service")),
        );
    }
    if expected.at.is_none() && engine.reads_time(caller.principal()) {
        let message = "a policy that may decide about this call reads the time, and the test does not say when it is";
        let hint = "add `at`, like 2026-03-29T09:00:00+02:00";
        return (None, Some(finding("WEFT0212", expected, message.to_owned(), hint)));
    }
    let is_untold = expected.at.is_none() && engine.shadow_reads_time(caller.principal());
    let probe = Probe {
        caller,
        method: expected.method.clone(),
        target: expected.target.clone(),
        host: expected.to.host(),
        headers: expected.headers.clone(),
        source: expected.source,
        user: None,
        at: expected.at.unwrap_or(UNIX_EPOCH),
        protocol: None,
        server_name: None,
    };
    let decision = match probe.decide(engine) {
        // What shadow policies say is only shown: they demand nothing of a test.
        Ok(decision) => Decision { shadow: decision.shadow.filter(|_| !is_untold), ..decision },
        Err(error) => {
            let refused = format!("the call is refused before any policy is asked: {error}");
            return (None, Some(unlike(expected, refused, "write the path as a client sends it")));
        }
    };
    let failure = if decision.allowed != expected.allowed {
        let (is, wanted) = (word(decision.allowed), word(expected.allowed));
        let hint = "change the policy or the expectation, whichever is wrong";
        Some(unlike(expected, format!("expected {wanted}, and the decision is {is}: {}", decision.reason), hint))
    } else {
        let wrong = expected.by.as_ref().filter(|by| !decision.policies.iter().any(|policy| names(by, policy)));
        wrong.map(|by| {
            let message = format!("the decision is {}, but not by {by}: {}", word(decision.allowed), decision.reason);
            unlike(expected, message, "name one of the policies that determine it")
        })
    };
    (Some(decision), failure)
}

/// What is called has calls of another kind.
fn no_call(intent: &Intent, expected: &ExpectedDecision) -> Option<String> {
    let is_tcp = intent.services.get(&expected.to)?.protocol == Protocol::Tcp;
    match (is_tcp, expected.method.is_empty()) {
        (true, false) => Some(format!("{} is a tcp service, and the test has a method and a path", expected.to)),
        (false, true) => Some(format!("a call of {} has a method and a path, and the test has none", expected.to)),
        _ => None,
    }
}

/// A file, or a file and a line.
fn names(by: &str, policy: &crate::PolicyRef) -> bool {
    *by == *policy.file || by == policy.to_string()
}

fn word(allowed: bool) -> &'static str {
    if allowed { "allow" } else { "deny" }
}

fn unlike(expected: &ExpectedDecision, message: String, hint: &str) -> Finding {
    finding("WEFT0211", expected, message, hint)
}

fn finding(code: &'static str, expected: &ExpectedDecision, message: String, hint: &str) -> Finding {
    Finding { code, severity: Severity::Error, message, hint: hint.to_owned(), span: Some(expected.span.clone()) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_model::intent::Test;

    use super::*;
    use crate::testing;

    fn expect(from: &str, call: &str, allowed: bool) -> ExpectedDecision {
        let (method, target) = call.split_once(' ').expect("two words");
        ExpectedDecision {
            from: match from.parse() {
                Ok(id) => TestCaller::Id(id),
                Err(_) => TestCaller::Service(testing::name(from)),
            },
            to: testing::name("prod/board"),
            method: method.into(),
            target: target.into(),
            headers: [].into(),
            source: None,
            at: None,
            break_glass: false,
            allowed,
            by: None,
            span: testing::span("tests.yaml", 7),
        }
    }

    fn failures(decisions: Vec<ExpectedDecision>, policies: &str) -> Vec<String> {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        testing::policies(&mut intent, policies);
        intent.tests.push(Test { name: "board".into(), decisions, routes: Vec::new() });
        let model = crate::compile(&intent, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"));
        let outcomes = run_tests(&intent, &model);
        outcomes.into_iter().filter_map(|outcome| Some(outcome.failure?.to_string())).collect()
    }

    const GET: &str =
        "permit(principal == Service::\"prod/web\", action, resource) when { context.method == \"GET\" };";

    #[test]
    fn what_holds_is_silent_and_what_does_not_says_what_is() {
        let web = "prod/web";
        let by = |by: &str| ExpectedDecision { by: Some(by.into()), ..expect(web, "GET /", true) };
        let good = vec![
            expect(web, "GET /x?y", true),
            expect(web, "PUT /", false),
            expect("spiffe://evil.test/ns/prod/sa/web", "GET /", false),
            by("policies/x.cedar"),
            by("policies/x.cedar:1"),
        ];
        assert_eq!(failures(good, GET), [""; 0]);
        let bad = vec![
            expect(web, "GET /", false),
            expect(web, "PUT /", true),
            by("policies/x.cedar:2"),
            expect(web, "GET /a%2Fb", true),
            ExpectedDecision { method: "".into(), target: "".into(), ..expect(web, "GET /", true) },
        ];
        insta::assert_snapshot!(failures(bad, GET).join("\n"));
    }

    #[test]
    fn a_test_of_a_policy_that_reads_the_time_says_when() {
        let office = "permit(principal, action, resource) when { context.time.utc.hour == 9 };";
        let at = |hour: u64| ExpectedDecision {
            at: Some(UNIX_EPOCH + Duration::from_secs(hour * 3600)),
            ..expect("prod/web", "GET /", hour == 9)
        };
        assert_eq!(failures(vec![at(9), at(10)], office), [""; 0]);
        let told = failures(vec![expect("prod/web", "GET /", true)], office);
        assert!(told.len() == 1 && told[0].contains("WEFT0212"), "{told:?}");
    }

    #[test]
    fn a_test_can_ask_with_the_glass_broken() {
        let glass = "permit(principal, action, resource) when { context.breakGlass };";
        let broken = |allowed| ExpectedDecision { break_glass: true, ..expect("prod/web", "GET /", allowed) };
        assert_eq!(failures(vec![broken(true), expect("prod/web", "GET /", false)], glass), [""; 0]);
        assert_eq!(failures(vec![broken(false)], glass).len(), 1);
    }
}
