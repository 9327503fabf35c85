//! `weft explain`: what would be decided about a call, and by which lines.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use weft_control::routes;
use weft_model::ServiceName;
use weft_model::intent::{ExpectedRoute, Protocol};
use weft_policy::{Concern, Decision, PolicyRef};

use super::asked::{Asked, Call, Repo, exit};
use crate::output::{Format, say, shown};

/// Lines that are shown of a policy.
const EXCERPT: usize = 14;

/// Explain what would be decided about a call: the policies that decide it, and all that have a say; and where it would go
///
/// The policies are those of a folder, as weft check reads them. Exit code 0 if the call is allowed, 1 if it is denied, 2 if it cannot be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Who calls: a service like prod/web, a SPIFFE ID, or plain-text for whoever calls without TLS
    caller: String,
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

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    Ok(exit(explain(args)))
}

fn explain(args: &Args) -> Result<bool> {
    let asked = Asked::read(&args.repo.repo)?;
    let callee = asked.service(&args.callee)?;
    let caller = asked.caller(&args.caller)?;
    let probe = asked.probe(caller.clone(), &callee, &args.call)?;
    let engine = asked.engine(&callee, args.call.facts.break_glass)?;
    let decided = probe.decide(&engine);
    let ours = asked.own(&caller);
    let concerning = asked.concerning(&caller, &callee);
    // What is routed is a call by a sidecar of this mesh, of something that has routes.
    let has_routes = asked.intent.services.get(&callee).is_some_and(|service| service.protocol != Protocol::Tcp);
    let is_known = |name: &ServiceName| has_routes && asked.intent.services.contains_key(name);
    let routed = ours.filter(is_known).map(|from| {
        let (host, method, target) = (Some(probe.host.as_str().into()), probe.method.clone(), probe.target.clone());
        let (to, headers, span) = (callee.clone(), probe.headers.clone(), asked.intent.mesh.span.clone());
        let call = ExpectedRoute { from, to, host, method, target, headers, backends: Vec::new(), span };
        routes::tell(&asked.intent, asked.model.clone(), &call)
    });
    let call = match probe.method.is_empty() {
        true => format!("{} to {callee}", args.caller),
        false => format!("{} to {callee}: {} {}", args.caller, probe.method, probe.target),
    };
    match args.output {
        Format::Json => say(format_args!("{:#}\n", as_json(&call, &decided, &concerning, routed))),
        Format::Text => say(as_text(&asked, &callee, args, &call, &decided, &concerning, routed.as_deref())),
    }
    Ok(decided.is_ok_and(|decision| decision.allowed))
}

type Decided = std::result::Result<Decision, weft_policy::path::PathError>;

fn as_json(call: &str, decided: &Decided, concerning: &[Concern], routed: Option<String>) -> serde_json::Value {
    let places = |policies: &[PolicyRef]| policies.iter().map(PolicyRef::to_string).collect::<Vec<_>>();
    let concerning: Vec<_> = concerning
        .iter()
        .map(|concern| {
            let effect = if concern.is_permit { "permit" } else { "forbid" };
            json!({"place": concern.place.to_string(), "effect": effect, "shadow": concern.is_shadow, "reads": concern.reads})
        })
        .collect();
    match decided {
        Ok(decision) => json!({
            "call": call,
            "decision": if decision.allowed { "allow" } else { "deny" },
            "policies": places(&decision.policies),
            "reason": &*decision.reason,
            "errors": &*decision.errors,
            "shadow": decision.shadow.as_ref().map(|shadow| json!({
                "decision": if shadow.allowed { "allow" } else { "deny" },
                "policies": places(&shadow.policies),
                "reason": &*shadow.reason,
            })),
            "route": routed,
            "concerning": concerning,
        }),
        Err(error) => {
            json!({"call": call, "decision": "deny", "status": 400, "policies": [], "reason": error.to_string(), "errors": [], "concerning": concerning})
        }
    }
}

fn as_text(
    asked: &Asked,
    callee: &ServiceName,
    args: &Args,
    call: &str,
    decided: &Decided,
    concerning: &[Concern],
    routed: Option<&str>,
) -> String {
    let mut out = String::new();
    let decision = match decided {
        Ok(decision) => decision,
        Err(error) => {
            let _ = writeln!(out, "refused   {}\n\n  400 before any policy is asked: {error}", shown(call));
            return out;
        }
    };
    let word = if decision.allowed { "allowed" } else { "denied" };
    let _ = writeln!(out, "{word:<8}  {}\n\n  {}", shown(call), shown(&decision.reason));
    for policy in decision.policies.iter() {
        show(&mut out, asked, policy);
    }
    if let Some(routed) = routed.filter(|_| decision.allowed) {
        let _ = writeln!(out, "\n  goes {}", shown(routed));
    }
    for error in decision.errors.iter().filter(|error| !decision.reason.contains(&***error)) {
        let _ = writeln!(out, "\n  {}", shown(error));
    }
    let mut shown_already: Vec<&PolicyRef> = decision.policies.iter().collect();
    if let Some(shadow) = &decision.shadow {
        let word = if shadow.allowed { "allowed" } else { "denied" };
        let _ =
            writeln!(out, "\n  It would be {word}, were the shadow policies enforced:\n\n  {}", shown(&shadow.reason));
        shadow.policies.iter().for_each(|policy| show(&mut out, asked, policy));
        shown_already.extend(shadow.policies.iter());
    }
    let others: Vec<&Concern> =
        concerning.iter().filter(|concern| !shown_already.iter().any(|policy| policy.id == concern.place.id)).collect();
    if others.is_empty() {
        if decision.policies.is_empty() {
            let _ = writeln!(out, "\n  no policy is about {} and {callee}", shown(&args.caller));
        }
        return out;
    }
    let _ =
        writeln!(out, "\n  other policies about {} and {callee}, which did not decide this call:", shown(&args.caller));
    for concern in others {
        let effect = effect(concern);
        let open = concern.reads.iter().filter(|read| args.call.facts.leave_open(read, args.call.target.as_deref()));
        let open: Vec<&str> = open.map(String::as_str).collect();
        let hint = match &open[..] {
            [] => String::new(),
            open => format!("; it reads {}, which was not given", open.join(", ")),
        };
        let _ = write!(out, "\n  {effect}{hint}");
        show(&mut out, asked, &concern.place);
    }
    out
}

/// As a policy begins, with what it is for.
fn effect(concern: &Concern) -> &'static str {
    match (concern.is_permit, concern.is_shadow) {
        (true, false) => "permit",
        (false, false) => "forbid",
        (true, true) => "permit, in the shadow: not enforced",
        (false, true) => "forbid, in the shadow: not enforced",
    }
}

fn show(out: &mut String, asked: &Asked, policy: &PolicyRef) {
    let _ = writeln!(out, "\n    {policy}");
    for line in asked.excerpt(policy, EXCERPT) {
        let _ = writeln!(out, "    | {line}");
    }
}
