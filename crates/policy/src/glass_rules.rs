//! Who may break the glass, and for how long.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use cedar_policy::{
    AuthorizationError, Authorizer, Entities, Entity, PolicyId, PolicySet, Request, Response, RestrictedExpression,
};
use weft_model::intent::PolicyInputs;

use crate::context::{self, Clock};
use crate::decision::{Decision, PolicyRef, places};
use crate::source::Source;
use crate::{bound, entities};

/// What policies say about `Action::"breakGlass"`: who may do it, for how long. They are apart from those about calls, and name the action: a
/// policy that is open to all actions says nothing here.
#[derive(Default)]
pub(crate) struct GlassRules {
    policies: Vec<Source>,
}

impl GlassRules {
    /// Those in shadow say nothing here.
    pub(crate) fn new(policies: Vec<Source>) -> Self {
        Self { policies: policies.into_iter().filter(|source| !source.is_shadow()).collect() }
    }

    /// Decides as on calls: default is deny, `forbid` wins, and one that cannot be evaluated denies.
    pub(crate) fn decide(&self, mesh: &str, inputs: &PolicyInputs, asked: &Breaking<'_>) -> Decision {
        bound::with_stack(|| self.decide_here(mesh, inputs, asked))
    }

    fn decide_here(&self, mesh: &str, inputs: &PolicyInputs, asked: &Breaking<'_>) -> Decision {
        let refused = |why: String| Decision::refused(format!("the policies cannot be asked: {why}").into());
        let (operator, mesh) = (entities::operator(asked.operator), entities::mesh(mesh));
        let clock = match Clock::new(inputs) {
            Ok(clock) => clock,
            Err(zone) => return refused(format!("there is no time zone {zone}")),
        };
        let context = match context::build_for_glass(&clock, asked.minutes, asked.reason, asked.now) {
            Ok(context) => context,
            Err(error) => return refused(error.to_string()),
        };
        let name = [("name".to_owned(), RestrictedExpression::new_string(asked.operator.to_owned()))];
        let known = Entity::new(operator.clone(), name.into(), HashSet::new()).map_err(|error| error.to_string());
        let known = known.and_then(|entity| Entities::from_entities([entity], None).map_err(|error| error.to_string()));
        let request =
            Request::new(operator, entities::break_glass(), mesh, context, None).map_err(|error| error.to_string());
        let set = PolicySet::from_policies(self.policies.iter().map(|source| source.policy.clone()));
        let (known, request, set) = match (known, request, set.map_err(|error| error.to_string())) {
            (Ok(known), Ok(request), Ok(set)) => (known, request, set),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => return refused(error),
        };
        self.explain(asked.operator, &Authorizer::new().is_authorized(&request, &set, &known))
    }

    fn explain(&self, operator: &str, response: &Response) -> Decision {
        let named = |id: &PolicyId| self.policies.iter().find(|source| *source.id == *AsRef::<str>::as_ref(id));
        let mut errors = Vec::new();
        let mut broken = Vec::new();
        for AuthorizationError::PolicyEvaluationError(error) in response.diagnostics().errors() {
            let Some(source) = named(error.policy_id()) else { continue };
            errors.push(format!("{}:{} could not be evaluated: {}", source.file, source.line, error.inner()));
            broken.extend((!source.is_permit()).then(|| source.place()));
        }
        let mut policies: Vec<PolicyRef> =
            response.diagnostics().reason().filter_map(named).map(Source::place).collect();
        let mut allowed = response.decision() == cedar_policy::Decision::Allow;
        if allowed && !broken.is_empty() {
            (allowed, policies) = (false, broken);
        }
        policies.sort();
        let places: Arc<str> = places(&policies).into();
        let reason = match (policies.is_empty(), allowed) {
            (true, _) => format!("no policy about Action::\"breakGlass\" permits {operator} this").into(),
            (false, true) => format!("permit {places}").into(),
            (false, false) => format!("forbid {places}").into(),
        };
        Decision { allowed, policies: policies.into(), places, reason, errors: errors.into(), shadow: None }
    }
}

/// Who wants to break the glass, and what for.
#[derive(Clone, Copy, Debug)]
pub struct Breaking<'a> {
    /// Name of the operator.
    pub operator: &'a str,
    /// For so long, rounded up.
    pub minutes: u64,
    /// Why.
    pub reason: &'a str,
    /// When it begins.
    pub now: SystemTime,
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use weft_model::intent::Operator;

    use super::*;
    use crate::break_glass::BreakGlass;
    use crate::testing;

    const AT: u64 = 1_795_537_086;

    fn decide(policies: &str, operator: &str, minutes: u64) -> Decision {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        for name in ["alice", "bob"] {
            let operator = Operator { name: name.into(), ssh_keys: Vec::new(), span: intent.mesh.span.clone() };
            intent.operators.insert(name.into(), operator);
        }
        testing::policies(&mut intent, policies);
        let findings = crate::check(&intent);
        assert!(findings.is_empty(), "{findings:#?}");
        let model = crate::compile(&intent, "c0ffee").expect("compiles");
        let now = UNIX_EPOCH + Duration::from_secs(AT);
        model.may_break_glass(&Breaking { operator, minutes, reason: "deploy is stuck", now })
    }

    #[test]
    fn only_who_is_named_may_and_only_as_long() {
        let policies = r#"
            permit(principal == Operator::"alice", action == Action::"breakGlass", resource == Mesh::"acme")
            when { context.minutes <= 60 && principal.name == "alice" };
            forbid(principal, action == Action::"breakGlass", resource) when { context.reason like "*test*" };
            permit(principal, action, resource);
            @shadow permit(principal == Operator::"bob", action == Action::"breakGlass", resource);
            forbid(principal, action, resource) when { principal.namespace != resource.namespace };
        "#;
        let allowed = decide(policies, "alice", 60);
        assert!(allowed.allowed);
        assert_eq!(&*allowed.reason, "permit policies/x.cedar:2");
        assert!(!decide(policies, "alice", 61).allowed);
        let denied = decide(policies, "bob", 1);
        assert!(!denied.allowed);
        assert_eq!(&*denied.reason, "no policy about Action::\"breakGlass\" permits bob this");
    }

    #[test]
    fn a_forbid_wins_and_one_that_cannot_be_evaluated_denies() {
        let forbid = |when: &str| {
            let all = "permit(principal, action == Action::\"breakGlass\", resource);";
            decide(
                &format!("{all}\nforbid(principal, action == Action::\"breakGlass\", resource) when {{ {when} }};"),
                "bob",
                5,
            )
        };
        assert!(forbid("context.time.utc.hour == 3").allowed);
        let denied = forbid("context.time.utc.hour == 16");
        assert_eq!((denied.allowed, &*denied.reason), (false, "forbid policies/x.cedar:2"));
        let broken = forbid("context.minutes * 9223372036854775807 == 1");
        assert!(!broken.allowed && broken.errors[0].contains("policies/x.cedar:2"), "{broken:?}");
    }

    #[test]
    fn what_a_policy_about_it_may_say_is_checked() {
        let mut intent = testing::intent(&["prod/web"]);
        testing::policies(
            &mut intent,
            r#"permit(principal == Operator::"carol", action == Action::"breakGlass", resource);
permit(principal == Service::"prod/web", action == Action::"breakGlass", resource);
permit(principal, action == Action::"breakGlass", resource) when { context.method == "GET" };
permit(principal, action in [Action::"call", Action::"breakGlass"], resource);"#,
        );
        let found: Vec<(&str, u32)> = crate::check(&intent)
            .iter()
            .map(|finding| (finding.code, finding.span.as_ref().map_or(0, |span| span.line)))
            .collect();
        assert_eq!(found, [("WEFT0204", 1), ("WEFT0202", 2), ("WEFT0202", 3), ("WEFT0202", 4)]);
    }

    #[test]
    fn it_is_over_by_itself_and_reaches_only_policies_that_ask() {
        let mut intent = testing::intent(&["prod/web", "prod/board", "prod/other"]);
        testing::policies(
            &mut intent,
            r#"permit(principal, action == Action::"call", resource == Service::"prod/board") when { context.breakGlass };
permit(principal, action == Action::"call", resource == Service::"prod/other");"#,
        );
        let model = crate::compile(&intent, "c0ffee").expect("compiles");
        let glass = BreakGlass { from: AT, until: AT + 60, operator: "alice".into(), reason: "r".into() };
        let name = |text| testing::name(text);
        assert_eq!(model.bundle_with(&name("prod/other"), Some(&glass)), model.bundle_for(&name("prod/other")));
        let bundle = model.bundle_with(&name("prod/board"), Some(&glass));
        assert_ne!(bundle.revision, model.bundle_for(&name("prod/board")).revision);
        let engine =
            crate::Engine::new(&crate::Bundle::from_bytes(&bundle.to_bytes()).expect("whole")).expect("an engine");
        let (id, mut decisions) = (testing::id("prod/web"), crate::Decisions::default());
        let mut allowed = |at: u64| {
            let request = crate::CallRequest { now: UNIX_EPOCH + Duration::from_secs(at), ..testing::request(&id) };
            decisions.decide(&engine, &request).decision.allowed
        };
        // Remembered or not; also by a clock that is behind the control plane's.
        let seen = [AT - 1, AT, AT + 59, AT + 60, AT + 59, AT + 61].map(&mut allowed);
        assert_eq!(seen, [true, true, true, false, true, false]);
    }
}
