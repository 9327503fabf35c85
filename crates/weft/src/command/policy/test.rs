//! `weft policy test`: the mesh's own tests, one by one, and the policies that none of them touches.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;
use weft_control::check::{Look, check, render};
use weft_control::git::{read_dir, safe};
use weft_model::Severity;
use weft_model::intent::{ExpectedDecision, TestCaller};
use weft_policy::Outcome;

use crate::command::asked::Repo;
use crate::output::{Format, count, hinted, say, shown};

/// Run the Test documents of a folder, and say which policies they do not touch
///
/// The same tests run on every commit, and refuse it. Exit code 0 if all hold, 1 if one does not, 2 if they cannot be run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    repo: Repo,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Codes of expectations that do not hold, which are findings of a commit too.
const OF_TESTS: [&str; 2] = ["WEFT0211", "WEFT0212"];

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
    let outcomes = weft_policy::run_tests(&intent, &model);
    let touched: BTreeSet<&str> = outcomes
        .iter()
        .filter_map(|outcome| outcome.decision.as_ref())
        .flat_map(|decision| decision.policies.iter().map(|policy| &*policy.id))
        .collect();
    let all: Vec<_> = model.policies().collect();
    let untouched: BTreeSet<String> =
        all.iter().filter(|policy| !touched.contains(&*policy.id)).map(ToString::to_string).collect();
    let holds = outcomes.iter().all(|outcome| outcome.failure.is_none());
    match args.output {
        Format::Json => say(format_args!("{:#}\n", as_json(&outcomes, &untouched))),
        Format::Text => say(as_text(&outcomes, &untouched, all.len())),
    }
    Ok(holds)
}

fn as_json(outcomes: &[Outcome<'_>], untouched: &BTreeSet<String>) -> serde_json::Value {
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
                "failure": outcome.failure.as_ref().map(|failure| failure.message.clone()),
            })
        })
        .collect();
    json!({"tests": tests, "untouched": untouched})
}

fn as_text(outcomes: &[Outcome<'_>], untouched: &BTreeSet<String>, policies: usize) -> String {
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
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    let _ = writeln!(out, "\n{}, {failed} failed", count(outcomes.len(), "expectation"));
    if !untouched.is_empty() {
        let _ = writeln!(out, "{} of {policies} policies determine none of them:", untouched.len());
        untouched.iter().for_each(|place| {
            let _ = writeln!(out, "  {place}");
        });
    }
    out
}

fn call(expected: &ExpectedDecision) -> String {
    let from = match &expected.from {
        TestCaller::Service(name) => name.to_string(),
        TestCaller::Id(id) => id.to_string(),
    };
    let expect = if expected.allowed { "allow" } else { "deny" };
    let what = format!("{} {}", expected.method, expected.target);
    format!("{expect} {from} to {} {what}", expected.to).trim_end().to_owned()
}
