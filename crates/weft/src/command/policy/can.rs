//! `weft policy who-can` and `what-can`: every service of the mesh, asked one by one.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;
use weft_model::{PLAIN_TEXT, ServiceName, SpiffeId};
use weft_policy::{Concern, Decision, PolicyRef, Who};

use crate::command::asked::{Asked, Call, Repo};
use crate::output::{Format, count, say, shown, table};

/// Name every service that may make a call, and by which line
///
/// All services of the mesh are asked, and whoever calls in plain text (`plain-text`) of a service that takes such calls. What a policy reads and the call does not say (a header, the time) is named: with it the answer can be
/// another one. Exit code 0 if somebody may, 1 if nobody may, 2 if it cannot be told.
#[derive(Debug, clap::Args)]
pub(crate) struct WhoCan {
    /// What is done; so far calls are all there is
    #[arg(value_parser = ["call"])]
    action: String,
    /// Whom
    callee: String,
    #[command(flatten)]
    call: Call,
    #[command(flatten)]
    repo: Repo,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Name every service that another may call, and by which policies
///
/// A service stands here if some permit is about both; conditions are not looked at, so each line is a "may, if". What is not here is denied always.
/// Exit code 0 if there is one, 1 if there is none, 2 if it cannot be told.
#[derive(Debug, clap::Args)]
pub(crate) struct WhatCan {
    /// Who calls: a service, a SPIFFE ID, or plain-text
    caller: String,
    #[command(flatten)]
    repo: Repo,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

struct Answer {
    caller: String,
    allowed: bool,
    reason: String,
    /// What policies read and the call does not say.
    open: Vec<String>,
}

pub(super) fn who_can(args: &WhoCan) -> Result<bool> {
    let asked = Asked::read(&args.repo.repo)?;
    let callee = asked.service(&args.callee)?;
    let engine = asked.engine(&callee, args.call.facts.break_glass)?;
    let mut answers = Vec::new();
    let id = |name| Who::Id(SpiffeId::for_service(&asked.intent.mesh.trust_domain, name));
    let services = asked.intent.services.keys().map(|name| (name.to_string(), id(name)));
    let plain_text = asked.model.takes_plain_text(&callee).then(|| (PLAIN_TEXT.to_owned(), Who::PlainText));
    let foreign = asked.model.foreign_callers(&callee).map(|id| (id.to_string(), Who::Id(id.clone())));
    for (caller, who) in services.chain(foreign).chain(plain_text) {
        let probe = asked.probe(who.clone(), &callee, &args.call)?;
        let (allowed, reason, open) = match probe.decide(&engine) {
            Ok(decision) => {
                let reach = probe.permits_in_reach(&engine).unwrap_or_default();
                let open = left_open(&decision, &reach, &asked.concerning(&who, &callee), &args.call);
                (decision.allowed, decision.policy().to_string(), open)
            }
            Err(error) => (false, error.to_string(), Vec::new()),
        };
        answers.push(Answer { caller, allowed, reason, open });
    }
    let somebody = answers.iter().any(|answer| answer.allowed);
    match args.output {
        Format::Json => say(format_args!("{:#}\n", who_as_json(&callee, &answers))),
        Format::Text => say(who_as_text(&callee, &answers)),
    }
    Ok(somebody)
}

/// What of the call is not said and could make the decision another one: of permits those `in_reach` alone count, and where one decides
/// that reads nothing of it, it stays as it is.
fn left_open(decision: &Decision, in_reach: &[PolicyRef], concerning: &[Concern], call: &Call) -> Vec<String> {
    let open = |concern: &Concern| {
        let reads = concern.reads.iter().filter(|read| call.facts.leave_open(read, call.target.as_deref()));
        reads.cloned().collect::<Vec<_>>()
    };
    let enforced: Vec<&Concern> = concerning.iter().filter(|concern| !concern.is_shadow).collect();
    let forbids_always = |concern: &&Concern| {
        !concern.is_permit && decision.policies.contains(&concern.place) && open(concern).is_empty()
    };
    if !decision.allowed && (in_reach.is_empty() || enforced.iter().any(forbids_always)) {
        return Vec::new();
    }
    let counts = |concern: &&&Concern| !concern.is_permit || in_reach.contains(&concern.place);
    let all: BTreeSet<String> = enforced.iter().filter(counts).flat_map(|concern| open(concern)).collect();
    all.into_iter().collect()
}

fn who_as_json(callee: &ServiceName, answers: &[Answer]) -> serde_json::Value {
    let callers: Vec<_> = answers
        .iter()
        .map(|answer| {
            let decision = if answer.allowed { "allow" } else { "deny" };
            json!({"caller": answer.caller, "decision": decision, "policy": answer.reason, "dependsOn": answer.open})
        })
        .collect();
    json!({"callee": callee.as_str(), "callers": callers})
}

fn who_as_text(callee: &ServiceName, answers: &[Answer]) -> String {
    let row = |answer: &Answer| vec![answer.caller.clone(), answer.reason.clone(), answer.open.join(", ")];
    let (may, may_not): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| answer.allowed);
    let mut out = String::new();
    if may.is_empty() {
        let _ = writeln!(out, "no service may make this call to {callee}");
    } else {
        let rows: Vec<_> = may.into_iter().map(row).collect();
        out.push_str(&table(&["CALLER", "ALLOWED BY", "DEPENDS ALSO ON"], &rows));
    }
    // Those whom a header, or another hour, could let in.
    let (open, closed): (Vec<&Answer>, Vec<&Answer>) = may_not.into_iter().partition(|answer| !answer.open.is_empty());
    if !open.is_empty() {
        let rows: Vec<_> = open.into_iter().map(row).collect();
        let _ = writeln!(out, "\nThese may not, as it was asked:\n");
        out.push_str(&table(&["CALLER", "DENIED", "MAY DEPEND ON"], &rows));
    }
    let _ = writeln!(out, "\n{} may not, whatever else the call says", count(closed.len(), "service"));
    out
}

pub(super) fn what_can(args: &WhatCan) -> Result<bool> {
    let asked = Asked::read(&args.repo.repo)?;
    let (caller, name) = (asked.caller(&args.caller)?, shown(&args.caller));
    let mut rows = Vec::new();
    let mut found = Vec::new();
    for callee in asked.intent.services.keys() {
        let concerning = asked.concerning(&caller, callee);
        if !concerning.iter().any(|concern| concern.is_permit && !concern.is_shadow) {
            continue;
        }
        for concern in concerning {
            let effect = match (concern.is_permit, concern.is_shadow) {
                (true, false) => "permit",
                (false, false) => "forbid",
                (true, true) => "shadow permit",
                (false, true) => "shadow forbid",
            };
            let says = asked.excerpt(&concern.place, 1).pop().unwrap_or_default().trim().to_owned();
            rows.push(vec![callee.to_string(), effect.to_owned(), concern.place.to_string(), says]);
            found.push(json!({"callee": callee.as_str(), "effect": effect, "place": concern.place.to_string(), "text": &*concern.text, "reads": concern.reads}));
        }
    }
    match args.output {
        Format::Json => say(format_args!("{:#}\n", json!({"caller": name, "policies": found}))),
        Format::Text if rows.is_empty() => say(format_args!("{name} may call nobody\n")),
        Format::Text => say(table(&["CALLEE", "EFFECT", "WHERE", "BEGINS"], &rows)),
    }
    Ok(!rows.is_empty())
}
