//! `weft policy test`: the mesh's own tests, one by one, and how many of the policies they touch.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use weft_control::check::{Look, check, render};
use weft_control::git::{read_dir, safe};
use weft_control::routes::{self, RouteOutcome};
use weft_model::intent::{ExpectedDecision, ExpectedRoute, TestCaller};
use weft_model::{PLAIN_TEXT, Severity};
use weft_policy::{Outcome, PolicyModel};

use crate::command::asked::Repo;
use crate::output::{Format, count, hinted, say, shown};

/// Run the Test documents of a folder, and say which policies they do not touch
///
/// The same tests run on every commit, and refuse it. A policy is touched if it determines what is decided about a call of a test. Exit code 0 if
/// all hold, 1 if one does not or too few policies are touched, 2 if they cannot be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    repo: Repo,
    /// Fail if the tests touch less than this share of the policies, in percent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Codes of expectations that do not hold, which are findings of a commit too.
const OF_TESTS: [&str; 3] = ["WEFT0211", "WEFT0212", "WEFT0216"];

/// Which policies the tests touch, by where they stand: an `access` entry counts once, however many callers it has. Shadow policies do not count.
struct Coverage {
    places: usize,
    untouched: BTreeSet<String>,
    /// What was asked for.
    minimum: Option<u8>,
}

impl Coverage {
    fn of(model: &PolicyModel, outcomes: &[Outcome<'_>], minimum: Option<u8>) -> Self {
        let decisions = outcomes.iter().filter_map(|outcome| outcome.decision.as_ref());
        let touched: BTreeSet<String> =
            decisions.flat_map(|decision| decision.policies.iter()).map(ToString::to_string).collect();
        let all: BTreeSet<String> = model.policies().map(|policy| policy.to_string()).collect();
        Self { places: all.len(), untouched: all.difference(&touched).cloned().collect(), minimum }
    }

    /// Rounded down, so that 100 is all of them.
    fn percent(&self) -> usize {
        let touched = self.places - self.untouched.len();
        (touched * 100).checked_div(self.places).unwrap_or(100)
    }

    fn is_enough(&self) -> bool {
        self.minimum.is_none_or(|minimum| self.percent() >= usize::from(minimum))
    }
}

pub(super) fn run(args: &Args) -> Result<bool> {
    let files = read_dir(&args.repo.repo)
        .map_err(|error| hinted(safe(&error.to_string()), "name the folder of the mesh's repository with --repo"))?;
    let is_other = |code: &str| !OF_TESTS.contains(&code);
    let checked = check(&files);
    let other: Vec<_> = checked
        .findings
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error && is_other(finding.code))
        .collect();
    let draft = weft_model::parse::draft(&files).intent;
    let Some(intent) = draft.filter(|_| other.is_empty()) else {
        let told = render(&other, &files, Look::default());
        return Err(hinted(format!("the intent has errors\n\n{told}"), "mend them; weft check shows them too"));
    };
    let model =
        weft_policy::compile(&intent, "").map_err(|findings| hinted(render(&findings, &files, Look::default()), ""))?;
    let model = Arc::new(model);
    let outcomes = weft_policy::run_tests(&intent, &model);
    let routed = routes::run(&intent, model.clone());
    let coverage = Coverage::of(&model, &outcomes, args.min_coverage);
    match args.output {
        Format::Json => say(format_args!("{:#}\n", as_json(&outcomes, &routed, &coverage))),
        Format::Text => say(as_text(&outcomes, &routed, &coverage)),
    }
    let mut failures =
        outcomes.iter().map(|outcome| &outcome.failure).chain(routed.iter().map(|outcome| &outcome.failure));
    Ok(failures.all(Option::is_none) && coverage.is_enough())
}

fn as_json(outcomes: &[Outcome<'_>], routed: &[RouteOutcome<'_>], coverage: &Coverage) -> serde_json::Value {
    let routes: Vec<_> = routed
        .iter()
        .map(|outcome| {
            json!({
                "test": outcome.test,
                "call": routed_call(outcome.expected),
                "place": outcome.expected.span.to_string(),
                "holds": outcome.failure.is_none(),
                "goes": outcome.told,
                "failure": outcome.failure.as_ref().map(|failure| failure.message.clone()),
            })
        })
        .collect();
    let tests: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let decision = outcome.decision.as_ref();
            json!({
                "test": outcome.test,
                "call": call(outcome.expected),
                "place": outcome.expected.span.to_string(),
                "holds": outcome.failure.is_none(),
                "decision": decision.map(|decision| if decision.allowed { "allow" } else { "deny" }),
                "reason": decision.map(|decision| decision.reason.to_string()),
                "shadow": decision.and_then(|decision| decision.shadow.as_ref()).map(ToString::to_string),
                "failure": outcome.failure.as_ref().map(|failure| failure.message.clone()),
            })
        })
        .collect();
    let touched = coverage.places - coverage.untouched.len();
    let covered = json!({"policies": coverage.places, "touched": touched, "percent": coverage.percent()});
    json!({"tests": tests, "routes": routes, "untouched": coverage.untouched, "coverage": covered})
}

fn as_text(outcomes: &[Outcome<'_>], routed: &[RouteOutcome<'_>], coverage: &Coverage) -> String {
    let mut out = String::new();
    for outcome in outcomes {
        let word = if outcome.failure.is_none() { "ok    " } else { "FAILED" };
        let _ = writeln!(out, "{word}  {}: {}", outcome.test, shown(&call(outcome.expected)));
        match (&outcome.failure, &outcome.decision) {
            (Some(failure), _) => {
                let _ = writeln!(out, "        {}\n        {}", outcome.expected.span, shown(&failure.message));
            }
            (None, Some(decision)) => {
                let _ = writeln!(out, "        {}", shown(&decision.reason));
            }
            (None, None) => {}
        }
        if let Some(shadow) = outcome.decision.as_ref().and_then(|decision| decision.shadow.as_ref()) {
            let _ = writeln!(out, "        with the shadow policies {}", shown(&shadow.to_string()));
        }
    }
    for outcome in routed {
        let word = if outcome.failure.is_none() { "ok    " } else { "FAILED" };
        let _ = writeln!(out, "{word}  {}: {}", outcome.test, shown(&routed_call(outcome.expected)));
        let _ = match &outcome.failure {
            Some(failure) => writeln!(out, "        {}\n        {}", outcome.expected.span, shown(&failure.message)),
            None => writeln!(out, "        goes {}", shown(&outcome.told)),
        };
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count()
        + routed.iter().filter(|outcome| outcome.failure.is_some()).count();
    let _ = writeln!(out, "\n{}, {failed} failed", count(outcomes.len() + routed.len(), "expectation"));
    let Coverage { places, untouched, minimum } = coverage;
    let touched = places - untouched.len();
    let _ = writeln!(out, "{touched} of {places} policies ({} %) determine one of them", coverage.percent());
    if !untouched.is_empty() {
        let _ = writeln!(out, "these determine none:");
        untouched.iter().for_each(|place| {
            let _ = writeln!(out, "  {place}");
        });
    }
    if let Some(minimum) = minimum.filter(|_| !coverage.is_enough()) {
        let _ = writeln!(out, "FAILED  that is less than the {minimum} % that were asked for");
    }
    out
}

fn routed_call(expected: &ExpectedRoute) -> String {
    let host = expected.host.as_ref().map(|host| format!(" as {host}")).unwrap_or_default();
    let headers: Vec<String> = expected.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let with = if headers.is_empty() { String::new() } else { format!(" with {}", headers.join(", ")) };
    format!("route {} to {}{host} {} {}{with}", expected.from, expected.to, expected.method, expected.target)
}

fn call(expected: &ExpectedDecision) -> String {
    let from = match &expected.from {
        TestCaller::Service(name) => name.to_string(),
        TestCaller::Id(id) => id.to_string(),
        TestCaller::PlainText => PLAIN_TEXT.to_owned(),
    };
    let expect = if expected.allowed { "allow" } else { "deny" };
    let what = format!("{} {}", expected.method, expected.target);
    format!("{expect} {from} to {} {what}", expected.to).trim_end().to_owned()
}
