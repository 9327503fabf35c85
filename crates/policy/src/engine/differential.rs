//! Random bundles and calls: the engine decides, and says why, as plain Cedar does over all policies, but for our rule on errors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cedar_policy::{Authorizer, Effect, Entities, Policy, PolicyId, PolicySet, Request, ValidationMode, Validator};
use proptest::prelude::*;
use weft_model::intent::PolicyInputs;

use crate::bundle::Bundle;
use crate::context::{self, Clock, Reads, Surroundings};
use crate::decision::Decision;
use crate::decisions::Decisions;
use crate::engine::Engine;
use crate::request::{CallRequest, Principal, TlsFacts, User};
use crate::testing::{self, Choices};
use crate::{entities, schema};

/// Cedar as it comes, over every policy of a bundle.
struct Plain {
    set: PolicySet,
    entities: Entities,
    inputs: PolicyInputs,
}

/// What a decision comes to: whether it allows, by which policies, and what is said of those that cannot be evaluated.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    allowed: bool,
    policies: BTreeSet<String>,
    errors: BTreeSet<String>,
}

impl Plain {
    fn new(bundle: &Bundle) -> Self {
        let policies = bundle.policies.iter().map(|policy| {
            let id = Some(PolicyId::new(&policy.id));
            Policy::parse(id, &policy.text).unwrap_or_else(|error| panic!("{}\n{error:?}", policy.text))
        });
        let services = bundle.callers.iter().chain([&bundle.service]);
        let services = services.map(|facts| facts.entity(&bundle.trust_domain).expect("an entity"));
        let plain_text = bundle.plain_text.then(|| entities::plain_text_entity().expect("an entity"));
        let entities = Entities::from_entities(services.chain(plain_text), None).expect("entities");
        let set = PolicySet::from_policies(policies).expect("unique ids");
        Self { set, entities, inputs: bundle.inputs.clone() }
    }

    fn outcome(&self, request: &CallRequest<'_>) -> Outcome {
        let caller = match request.principal {
            Principal::Id(id) => entities::service(&id.service().expect("a service")),
            Principal::PlainText => entities::plain_text(),
            Principal::Unknown => panic!("nobody that Cedar could be asked about"),
        };
        let board = entities::service(&testing::name("prod/board"));
        let clock = Clock::new(&self.inputs).expect("zones that are known");
        let around = Surroundings { port: 8080, clock: &clock, break_glass: false };
        let context = context::build(request, &Reads::all(&self.inputs), &around).expect("a context");
        let request = Request::new(caller, entities::call(), board, context, None).expect("a request");
        let response = Authorizer::new().is_authorized(&request, &self.set, &self.entities);
        let effect = |id: &PolicyId| self.set.policy(id).expect("one of them").effect();
        let determining: Vec<&PolicyId> = response.diagnostics().reason().collect();
        let (mut broken, mut errors) = (BTreeSet::new(), BTreeSet::new());
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            let (id, effect) = (error.policy_id(), effect(error.policy_id()));
            errors.insert(format!("{effect} {id} could not be evaluated: {}", error.inner()));
            broken.extend((effect == Effect::Forbid).then(|| id.to_string()));
        }
        // A forbid that cannot be evaluated denies what no other forbid does.
        let is_forbidden = determining.iter().any(|id| effect(id) == Effect::Forbid);
        let denied_by_error = !broken.is_empty() && !is_forbidden;
        let allowed = response.decision() == cedar_policy::Decision::Allow && !denied_by_error;
        let policies = if denied_by_error { broken } else { determining.iter().map(|id| id.to_string()).collect() };
        Outcome { allowed, policies, errors }
    }
}

fn outcome(decision: &Decision) -> Outcome {
    let policies = decision.policies.iter().map(|policy| policy.id.to_string()).collect();
    Outcome { allowed: decision.allowed, policies, errors: decision.errors.iter().cloned().collect() }
}

/// Calls about each bundle. With the usual number of cases there are more than 100,000 decisions in all.
const CALLS: usize = 125;

/// As many choices as so many calls take, out of a few.
fn many(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut state = (0..8).fold(1_u64, |seed, _| (seed << 8) | choices.below(256) as u64);
    // SplitMix64.
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_ne_bytes()
    };
    (0..CALLS * 4).flat_map(|_| next()).collect()
}

/// An engine with a memory, and plain Cedar: both must say the same of every call, the memory too.
struct Both<'a> {
    bundle: &'a Bundle,
    engine: Engine,
    remembered: Decisions,
    plain: Plain,
}

impl<'a> Both<'a> {
    fn new(bundle: &'a Bundle, plain: Plain) -> Self {
        Self { bundle, engine: Engine::new(bundle).expect("an engine"), remembered: Decisions::default(), plain }
    }

    fn agree(&mut self, request: &CallRequest<'_>) -> Result<(), TestCaseError> {
        let policies: Vec<&str> = self.bundle.policies.iter().map(|policy| &*policy.text).collect();
        let decided = outcome(&self.engine.decide(request));
        let remembered = outcome(&self.remembered.decide(&self.engine, request).decision);
        prop_assert_eq!(&decided, &self.plain.outcome(request), "{:?}\n{}", request, policies.join("\n"));
        prop_assert_eq!(&remembered, &decided, "remembered: {:?}\n{}", request, policies.join("\n"));
        Ok(())
    }
}

fn compare(bundle: &Bundle, choices: &mut Choices<'_>) -> Result<(), TestCaseError> {
    let mut both = Both::new(bundle, Plain::new(bundle));
    let bytes = many(choices);
    let mut choices = Choices::new(&bytes);
    for _ in 0..CALLS {
        let (caller, [method, path, host, protocol], source_ip) = testing::random_call(&mut choices);
        both.agree(&CallRequest { method, path, host, protocol, source_ip, ..testing::request(&caller) })?;
    }
    Ok(())
}

/// The same of calls that bring whatever they can.
fn compare_all(bundle: &Bundle, choices: &mut Choices<'_>) -> Result<(), TestCaseError> {
    let mut both = Both::new(bundle, Plain::new(bundle));
    let bytes = many(choices);
    let choices = &mut Choices::new(&bytes);
    for _ in 0..CALLS {
        let (caller, [method, path, host, protocol], source_ip) = testing::random_call(choices);
        let some = |choices: &mut Choices<'_>| *choices.pick::<&str>(&["GET", "/a", "web", "one", "ops", ""]);
        let mut headers = BTreeMap::<Arc<str>, Arc<str>>::new();
        for name in ["tenant", "plan", "other"] {
            if choices.one_in(2) {
                headers.insert(name.into(), some(choices).into());
            }
        }
        let mut user = User { subject: some(choices).into(), ..User::default() };
        if choices.one_in(2) {
            user.claims.insert("team".into(), some(choices).into());
        }
        let server_name = Some(some(choices)).filter(|_| choices.one_in(2));
        let request = CallRequest {
            method,
            path,
            host,
            protocol,
            source_ip,
            headers: &headers,
            grpc: choices.one_in(2),
            tls: Some(TlsFacts { server_name }).filter(|_| choices.one_in(2)),
            user: choices.one_in(2).then_some(&user),
            now: UNIX_EPOCH + Duration::from_secs(1_774_740_000 + 1_200 * choices.below(20) as u64),
            ..testing::request(&caller)
        };
        both.agree(&request)?;
    }
    Ok(())
}

/// Those that a control plane would let through.
fn valid(bundle: &Bundle) -> Bundle {
    let mesh = testing::mesh(&[("tier", &["one", "two"]), ("team", &["ops"])]);
    let validator = Validator::new(schema::of(&mesh));
    let is_valid = |text: &str| {
        let set = PolicySet::from_policies([Policy::parse(None, text).expect("it parses")]).expect("one policy");
        validator.validate(&set, ValidationMode::Strict).validation_passed()
    };
    let mut bundle = bundle.clone();
    bundle.policies.retain(|policy| is_valid(&policy.text));
    bundle
}

/// `WEFT_CASES` for more, or fewer.
fn cases() -> u32 {
    std::env::var("WEFT_CASES").map_or(256, |cases| cases.parse().expect("WEFT_CASES is a number"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn an_engine_decides_as_plain_cedar_does(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        policies in 1usize..16,
    ) {
        let mut choices = Choices::new(&bytes);
        compare(&testing::random_bundle(&mut choices, policies), &mut choices)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn an_engine_decides_as_plain_cedar_does_whatever_a_call_brings(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        policies in 1usize..16,
    ) {
        let mut choices = Choices::new(&bytes);
        compare_all(&testing::random_bundle_of_all(&mut choices, policies), &mut choices)?;
    }
}

proptest! {
    // Most random policies do not fit the schema, so these take longer to find.
    #![proptest_config(ProptestConfig::with_cases(cases() / 4))]

    #[test]
    fn an_engine_decides_as_plain_cedar_does_on_policies_that_fit_the_schema(
        bytes in proptest::collection::vec(any::<u8>(), 200..4000),
        policies in 16usize..40,
    ) {
        let mut choices = Choices::new(&bytes);
        compare(&valid(&testing::random_bundle(&mut choices, policies)), &mut choices)?;
    }
}

/// What of a bundle is about whoever calls in plain text: every `forbid`, and each `permit` whose scope names that caller.
fn of_plain_text(bundle: &Bundle) -> Bundle {
    let mut bundle = bundle.clone();
    bundle.policies.retain(|text| {
        let form = Policy::parse(None, &text.text).expect("it parses").to_json().expect("a JSON form");
        let scope = form["principal"].to_string();
        form["effect"] == "forbid" || scope.contains("\"id\":\"plain-text\"")
    });
    bundle
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases() / 2))]

    /// Plain Cedar over those policies alone; and over all of them for everybody else.
    #[test]
    fn of_plain_text_an_engine_decides_as_plain_cedar_does_over_what_names_it(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        policies in 1usize..20,
    ) {
        let mut choices = Choices::new(&bytes);
        let bundle = testing::random_bundle_with_plain_text(&mut choices, policies);
        let mut both = Both::new(&bundle, Plain::new(&of_plain_text(&bundle)));
        let bytes = many(&mut choices);
        let calls = &mut Choices::new(&bytes);
        for _ in 0..CALLS {
            let (caller, [method, path, host, protocol], source_ip) = testing::random_call(calls);
            let of_mesh = CallRequest { method, path, host, protocol, source_ip, ..testing::request(&caller) };
            both.agree(&CallRequest { principal: Principal::PlainText, ..of_mesh })?;
        }
        compare(&bundle, &mut choices)?;
    }
}
