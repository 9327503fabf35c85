//! One policy as Cedar policies and a report on it.
//!
//! What cannot be said is never made wider: a rule that allows loses what cannot be said, one that denies denies more.

use std::fmt::Write;

use super::bounds::Loss;
use super::condition::Said;
use super::policy::{Action, Policy, Rule};
use super::rule::{self, Built, Size};
use super::target::{self, Target};
use super::world::World;
use crate::cedar::print::{self, Effect};
use crate::report::{Issue, Level, Outcome, PolicyReport, shown};

/// What a policy became.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) policies: Vec<print::Policy>,
    /// The text of its file.
    pub(super) text: String,
    pub(super) report: PolicyReport,
}

/// Carries one policy of `all` over. `file` is the name of its file.
pub(super) fn carry(policy: &Policy, all: &[Policy], file: &str, world: &World<'_>) -> Carried {
    let target = target::of(policy, world);
    let whole = target::may_be_whole(policy, all, world);
    let effect = if policy.action == Action::Allow { Effect::Permit } else { Effect::Forbid };
    let mut work =
        Work { policy, target: &target, whole, effect, issues: Vec::new(), policies: Vec::new(), body: String::new() };
    if work.is_enforced() {
        work.selection();
        work.rules(world);
    }
    let outcome = work.outcome();
    let text = format!("{}{}", head(policy, &target, outcome), work.body);
    let report = PolicyReport {
        policy: format!("{}/{}", policy.namespace, policy.name),
        action: policy.action.name(),
        span: policy.span.clone(),
        document: policy.document,
        target: target.text.clone(),
        written: file.into(),
        outcome,
        issues: work.issues,
    };
    Carried { policies: work.policies, text, report }
}

struct Work<'a> {
    policy: &'a Policy,
    target: &'a Target,
    /// Whether it may be for all workloads of its services.
    whole: bool,
    effect: Effect,
    issues: Vec<Issue>,
    policies: Vec<print::Policy>,
    body: String,
}

impl Work<'_> {
    /// What lost something says so at this level.
    fn level(&self) -> Level {
        if self.effect == Effect::Permit { Level::Warning } else { Level::Error }
    }

    fn issue(&mut self, level: Level, field: &str, problem: &str, effect: &str, hint: &str) {
        let text = str::to_owned;
        let (field, problem, effect, hint) = (text(field), text(problem), text(effect), text(hint));
        self.issues.push(Issue { level, span: self.policy.span.clone(), field, problem, effect, hint });
    }

    /// False for what decides nothing in Istio.
    fn is_enforced(&mut self) -> bool {
        let nothing = "nothing is written: it decides nothing in Istio either";
        match self.policy.action {
            _ if self.policy.dry_run => {
                let problem = "Istio does not enforce it: it is annotated istio.io/dry-run";
                self.issue(Level::Warning, "metadata.annotations", problem, nothing, "");
                false
            }
            Action::Audit => {
                let problem = "it asks for an audit log of what it matches";
                let hint = "Weft's access log has every request with its decision; look there";
                self.issue(Level::Warning, "action", problem, nothing, hint);
                false
            }
            Action::Custom => {
                let problem = "an external authorizer decides on what it matches, and Weft asks none";
                let effect = "all that it would be asked about is denied";
                let hint = "write by hand what it allows as policies, and remove these";
                self.issue(Level::Error, "action", problem, effect, hint);
                true
            }
            Action::Allow | Action::Deny => true,
        }
    }

    /// What cannot be said of the workloads.
    fn selection(&mut self) {
        for lost in &self.target.lost {
            let absent = self.target.resources.iter().any(|called| matches!(called, target::Resource::Absent { .. }));
            let effect = match self.effect {
                Effect::Permit if self.policy.rules.is_empty() => {
                    "it closes more than there: --default-allow opens none of what it could be for".to_owned()
                }
                Effect::Permit if self.whole => {
                    format!("it is for all of {}; what Istio lets everyone call is closed but for this", self.taken())
                }
                Effect::Permit => "the whole policy is left out: what it allows is denied".to_owned(),
                Effect::Forbid if self.target.resources.is_empty() => {
                    "nothing is written for it: WHAT IT DENIES IS NOT DENIED".to_owned()
                }
                Effect::Forbid if absent => {
                    "it is written by name, and holds for nothing until there is such a service".to_owned()
                }
                Effect::Forbid => {
                    let taken: Vec<String> = self.target.resources.iter().map(target::Resource::text).collect();
                    format!("what it denies is denied for more: {}", taken.join(", "))
                }
            };
            self.issues.push(Issue {
                level: self.level(),
                span: lost.span.clone(),
                field: lost.field.clone(),
                problem: lost.problem.clone(),
                effect,
                hint: lost.hint.clone(),
            });
        }
    }

    fn rules(&mut self, world: &World<'_>) {
        if self.policy.rules.is_empty() {
            let word = match self.effect {
                Effect::Permit => {
                    "It has no rules and allows nothing, as nothing is allowed here that no policy allows."
                }
                Effect::Forbid => "It has no rules and denies nothing.",
            };
            let _ = writeln!(self.body, "// {word}");
            return;
        }
        if self.effect == Effect::Permit && !self.target.lost.is_empty() && !self.whole {
            return;
        }
        let tcp = world.speaks_tcp(|service| self.target.resources.iter().any(|called| called.covers(service)));
        for rule in &self.policy.rules {
            let mut rule = rule.clone();
            rule.when.extend(self.policy.unknown.iter().cloned());
            let built = rule::build(&rule, self.effect, &self.target.resources, tcp, &self.policy.namespace, world);
            self.rule(&rule, built);
        }
    }

    fn rule(&mut self, rule: &Rule, built: Built<'_>) {
        let _ = write!(self.body, "\n// {}, line {}.", rule.path, rule.span.line);
        let before = self.issues.len();
        for said in &built.said {
            let issue = self.said(rule, said, built.size);
            // A note is worth one line a policy, whatever it is about.
            let is_told = self.issues.iter().any(|told| told.level == Level::Note && told.problem == issue.problem);
            if !is_told && !self.issues[before..].contains(&issue) {
                self.issues.push(issue);
            }
        }
        if built.size == Size::TooMuch {
            let effect = match self.effect {
                Effect::Permit => format!("{} is left out", rule.path),
                Effect::Forbid => format!("{} denies every call to {}", rule.path, self.taken()),
            };
            self.issues.push(Issue {
                level: self.level(),
                span: rule.span.clone(),
                field: rule.path.clone(),
                problem: "it has more conditions that must all hold than one policy may have (WEFT0209)".to_owned(),
                effect,
                hint: "say it with fewer patterns".to_owned(),
            });
        }
        if built.policies.is_empty() {
            let _ = write!(self.body, " Nothing is written for it.");
        }
        self.body.push('\n');
        for issue in self.issues[before..].iter().filter(|issue| issue.level != Level::Note) {
            let (line, effect) = (issue.span.line, &issue.effect);
            let _ = writeln!(self.body, "// NOT AS IT WAS, line {line}: {}; {effect}.", issue.problem);
        }
        self.body.push_str(&built.policies.iter().map(print::policy).collect::<Vec<_>>().join("\n"));
        self.policies.extend(built.policies);
    }

    fn said(&self, rule: &Rule, said: &Said<'_>, size: Size) -> Issue {
        let name = &rule.path;
        let effect = match (said.remark.loss, self.effect) {
            (Loss::Nothing, _) => String::new(),
            (_, Effect::Permit) if size == Size::Nothing => format!("{name} is left out: what it allows is denied"),
            (_, Effect::Permit) => format!("{name} allows less than there"),
            (Loss::Name, Effect::Forbid) if size != Size::Everything => {
                format!("{name} says so by name, and that holds for nobody until there is such a service")
            }
            (_, Effect::Forbid) if size == Size::Everything => format!("{name} DENIES EVERY CALL to {}", self.taken()),
            (_, Effect::Forbid) => format!("{name} denies more than there"),
        };
        Issue {
            level: if said.remark.loss == Loss::Nothing { Level::Note } else { self.level() },
            span: said.value.span.clone(),
            field: said.of.path.clone(),
            problem: said.remark.problem.clone(),
            effect,
            hint: said.remark.hint.clone(),
        }
    }

    fn taken(&self) -> String {
        self.target.resources.iter().map(target::Resource::text).collect::<Vec<_>>().join(", ")
    }

    fn outcome(&self) -> Outcome {
        let lost = self.issues.iter().any(|issue| issue.level != Level::Note);
        match lost {
            false => Outcome::Full,
            true if self.policies.is_empty() => Outcome::Not,
            true => Outcome::Part,
        }
    }
}

/// The comment at the top of a file.
fn head(policy: &Policy, target: &Target, outcome: Outcome) -> String {
    let Policy { namespace, name, action, span, document, .. } = policy;
    let outcome = match outcome {
        Outcome::Full => "carried over",
        Outcome::Part => "carried over in part",
        Outcome::Not => "not carried over",
    };
    let head = format!(
        "// Istio's AuthorizationPolicy {namespace}/{name} ({}), {outcome}.\n// From {}:{}, document {document}. For {}.\n",
        action.name(),
        // A file's name may have line ends, and a comment may not.
        span.file.replace('\n', "\\n"),
        span.line,
        target.text,
    );
    shown(&head)
}
