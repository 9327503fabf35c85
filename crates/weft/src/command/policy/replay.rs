//! `weft policy replay`: what was decided before, decided again by other policies.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use serde_json::{Value, json};
use weft_decision_log::{Entry, Outcome, Tail, since};
use weft_model::time::length;
use weft_model::{PLAIN_TEXT, ServiceName, SpiffeId};
use weft_policy::{Engine, Probe, READ_OTHERWISE, REDACTED, User, Who};

use crate::command::asked::{Asked, Repo};
use crate::command::logs::find;
use crate::output::{Format, count, say, shown, table};

/// Decide again what was decided before, by the policies of a folder or a branch, and say what would be another decision
///
/// Reads decision logs as weft logs does. Exit code 0 if every decision would be the same, 1 if one would not, 2 if it cannot be told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Decision logs, or folders that have some [default: weft-sidecar and weft-server, the state folders]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    repo: Repo,
    /// The branch of the repository whose policies decide, instead of the folder as it is
    #[arg(long, value_name = "BRANCH")]
    against: Option<String>,
    /// Only decisions of so long ago and less, like 30m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = length, default_value = "24h")]
    since: Duration,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What became of the lines of a log.
#[derive(Default)]
struct Replayed {
    lines: usize,
    /// Of the same kind together, in the order in which they came first.
    changed: Vec<Change>,
    known: HashMap<Kind, usize>,
    /// Lines that do not have what the policies now read, and what that is.
    untold: BTreeMap<String, usize>,
    /// Lines that stand for calls which differ in what the policies now read.
    partial: usize,
}

/// Changes of one kind: caller, callee, method, path, and the two reasons.
type Kind = (String, String, String, String, String, String);

/// Of each callee, with the glass whole and broken.
type Engines = HashMap<(ServiceName, bool), Engine>;

struct Change {
    count: usize,
    was: Outcome,
    kind: Kind,
    /// The newest.
    example: Entry<'static>,
}

pub(super) fn run(args: &Args) -> Result<bool> {
    let asked = match &args.against {
        Some(branch) => Asked::read_branch(&args.repo.repo, branch)?,
        None => Asked::read(&args.repo.repo)?,
    };
    let earliest = since(SystemTime::now(), args.since);
    let mut entries = Vec::new();
    for log in find(&args.logs)? {
        Tail::new(&log)
            .read(|entry| entries.extend((entry.action == "call" && *entry.time >= *earliest).then_some(entry)))?;
    }
    entries.sort_by(|a, b| a.time.cmp(&b.time));
    let mut replayed = Replayed::default();
    let mut engines = HashMap::new();
    for entry in entries {
        replay(entry, &asked, &mut engines, &mut replayed)?;
    }
    match args.output {
        Format::Json => say(format_args!("{:#}\n", as_json(&replayed))),
        Format::Text => say(as_text(&replayed)),
    }
    Ok(replayed.changed.is_empty())
}

fn replay(entry: Entry<'static>, asked: &Asked, engines: &mut Engines, replayed: &mut Replayed) -> Result<()> {
    replayed.lines += 1;
    let Some(callee) = entry.resource.parse::<ServiceName>().ok() else { return Ok(()) };
    let caller = match entry.principal.as_deref() {
        Some(PLAIN_TEXT) => Who::PlainText,
        id => match id.and_then(|id| id.parse::<SpiffeId>().ok()) {
            Some(id) => Who::Id(id),
            None => return Ok(()), // whoever has shown no identity is denied by any policies
        },
    };
    let reads: Vec<String> = asked.concerning(&caller, &callee).into_iter().flat_map(|concern| concern.reads).collect();
    let reads = reads.iter().map(|read| read.strip_prefix("context.").unwrap_or(read));
    if let Some(unknown) = reads.clone().find(|read| !is_known(&entry, read)) {
        *replayed.untold.entry(unknown.to_owned()).or_default() += 1;
        return Ok(());
    }
    if entry.decision == Outcome::Allow && reads.clone().any(|read| !is_told_apart(&entry, read)) {
        replayed.partial += 1;
    }
    let (allowed, reason) = decide(&entry, caller.clone(), &callee, asked, engines)?;
    if Outcome::of(allowed) != entry.decision {
        let caller = match caller {
            Who::PlainText => PLAIN_TEXT.to_owned(),
            Who::Id(id) => id.service().map_or_else(|| id.to_string(), |name| name.to_string()),
        };
        let kind = (
            caller,
            callee.to_string(),
            entry.method.to_string(),
            entry.path.to_string(),
            entry.reason.to_string(),
            reason,
        );
        let at = *replayed.known.entry(kind.clone()).or_insert_with(|| {
            replayed.changed.push(Change { count: 0, was: entry.decision, kind, example: entry.clone() });
            replayed.changed.len() - 1
        });
        replayed.changed[at].count += 1;
        replayed.changed[at].example = entry;
    }
    Ok(())
}

/// What would be decided, and why.
fn decide(
    entry: &Entry<'_>,
    caller: Who,
    callee: &ServiceName,
    asked: &Asked,
    engines: &mut Engines,
) -> Result<(bool, String)> {
    if !asked.intent.services.contains_key(callee) {
        return Ok((false, format!("there is no service {callee}")));
    }
    // A line on which nothing read whether the glass was broken does not say it.
    let of = (callee.clone(), entry.attributes.get("breakGlass").is_some_and(|broken| broken == true));
    if !engines.contains_key(&of) {
        engines.insert(of.clone(), asked.engine(callee, of.1)?);
    }
    let Some(probe) = probe(entry, caller) else { return Ok((false, "the line cannot be read".to_owned())) };
    Ok(match probe.decide(&engines[&of]) {
        Ok(decision) => (decision.allowed, decision.reason.to_string()),
        Err(error) => (false, error.to_string()),
    })
}

/// The call that a line tells of.
fn probe(entry: &Entry<'_>, caller: Who) -> Option<Probe> {
    let mut headers = BTreeMap::<Arc<str>, Arc<str>>::new();
    let mut query = form_urlencoded::Serializer::new(String::new());
    let mut user = None;
    for (name, value) in &entry.attributes {
        match name.split_once('.') {
            Some(("headers", name)) => drop(headers.insert(name.into(), value.as_str()?.into())),
            Some(("query", name)) => {
                let values = value.as_array()?.iter().filter_map(Value::as_str);
                query.extend_pairs(values.map(|value| (name, value)));
            }
            None if name == "grpc" && value == true => {
                drop(headers.insert("content-type".into(), "application/grpc".into()))
            }
            None if name == "user" => user = Some(self::user(value)),
            _ => {}
        }
    }
    let (path, query) = (&entry.path, query.finish());
    let target = if query.is_empty() { path.to_string() } else { format!("{path}?{query}") };
    Some(Probe {
        caller,
        method: (*entry.method).into(),
        target: target.into(),
        host: entry.host.to_string(),
        headers,
        source: entry.source_ip.as_deref().and_then(|ip| ip.parse().ok()),
        user,
        at: weft_model::time::parse(&entry.time)?,
        protocol: Some((*entry.protocol).into()),
        server_name: entry.attributes.get("tls.sni").and_then(Value::as_str).map(Into::into),
    })
}

fn user(value: &Value) -> User {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let list = |name: &str| {
        let items = value[name].as_array().into_iter().flatten();
        items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let claims = value["claims"].as_object().into_iter().flatten();
    let claims = claims.filter_map(|(name, value)| Some((name.as_str().into(), value.as_str()?.to_owned())));
    User {
        subject: text("subject"),
        issuer: text("issuer"),
        scopes: list("scopes"),
        groups: list("groups"),
        claims: claims.collect(),
    }
}

/// Whether the line says what a policy reads: a line has what was read then, and no secrets.
fn is_known(entry: &Entry<'_>, read: &str) -> bool {
    let redacted = |value: &Value| {
        value == REDACTED || value.as_array().is_some_and(|values| values.iter().any(|one| one == REDACTED))
    };
    match read.split('.').next().unwrap_or(read) {
        // The line has all values that some reader finds, and not which of them a form has.
        "query" if entry.attributes.contains_key(READ_OTHERWISE) => false,
        "headers" | "query" | "grpc" | "tls" | "user" => {
            entry.reads.iter().any(|known| known == read) && !entry.attributes.get(read).is_some_and(redacted)
        }
        _ => true,
    }
}

/// Whether calls that share this line agree in it.
fn is_told_apart(entry: &Entry<'_>, read: &str) -> bool {
    let is_of_path = |read: &str| {
        read == "path" || read == "depth" || read.starts_with("first") || read.starts_with("segment") || read == "grpc"
    };
    let is_fixed = ["port", "breakGlass", "now"].contains(&read) || read.starts_with("time");
    is_fixed || entry.reads.iter().any(|known| known == read || is_of_path(read) && is_of_path(known))
}

fn as_json(replayed: &Replayed) -> Value {
    let changed: Vec<Value> = replayed
        .changed
        .iter()
        .map(|Change { count, was, kind: (caller, callee, method, path, before, now), example }| {
            let would_be = if *was == Outcome::Allow { Outcome::Deny } else { Outcome::Allow };
            json!({
                "count": count, "was": was.as_str(), "would_be": would_be.as_str(), "caller": caller, "callee": callee,
                "method": method, "path": path, "reason_before": before, "reason": now,
                "newest": {"time": example.time, "decision_id": example.decision_id},
            })
        })
        .collect();
    json!({"decisions": replayed.lines, "changed": changed, "untold": replayed.untold, "partial": replayed.partial})
}

fn as_text(replayed: &Replayed) -> String {
    let mut out = String::new();
    let total: usize = replayed.changed.iter().map(|change| change.count).sum();
    let rows: Vec<Vec<String>> = replayed
        .changed
        .iter()
        .map(|Change { count, was, kind: (caller, callee, method, path, _, now), .. }| {
            let turn = if *was == Outcome::Allow { "allow -> deny" } else { "deny -> allow" };
            let call = if method.is_empty() { "TCP".to_owned() } else { format!("{method} {path}") };
            vec![count.to_string(), turn.to_owned(), caller.clone(), callee.clone(), call, now.clone()]
        })
        .collect();
    if !rows.is_empty() {
        let _ = writeln!(out, "{}", table(&["COUNT", "DECISION", "CALLER", "CALLEE", "CALL", "BY THEN"], &rows));
    }
    let _ = writeln!(out, "{}, {total} would be decided otherwise", count(replayed.lines, "decision"));
    for (read, lines) in &replayed.untold {
        let _ = writeln!(out, "{lines} cannot be told: the log does not have context.{}", shown(read));
    }
    if replayed.partial > 0 {
        let _ = writeln!(
            out,
            "{} stand for other calls too, which the policies now tell apart: --decision-log-allowed all has each",
            replayed.partial
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(attributes: Value, reads: &[&str]) -> Entry<'static> {
        Entry {
            method: "GET".into(),
            path: "/x".into(),
            attributes: attributes.as_object().cloned().unwrap_or_default(),
            reads: reads.iter().map(ToString::to_string).collect(),
            ..Entry::new(SystemTime::UNIX_EPOCH, Outcome::Allow, "permit x:1", "c0ffee")
        }
    }

    #[test]
    fn a_call_is_made_again_of_what_its_line_says() {
        let attributes = json!({"headers.x-tenant": "a", "query.tag": ["r&d", "é"], "grpc": true});
        let probe =
            probe(&entry(attributes, &[]), Who::Id("spiffe://acme.internal/ns/prod/sa/web".parse().expect("legal")))
                .expect("whole");
        assert_eq!(&*probe.target, "/x?tag=r%26d&tag=%C3%A9");
        assert_eq!(&*probe.headers["x-tenant"], "a");
        assert_eq!(&*probe.headers["content-type"], "application/grpc");
        assert_eq!(probe.at, SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn what_a_line_does_not_have_is_not_guessed() {
        let line = entry(
            json!({"headers.x-key": "[redacted]", "query.token": ["[redacted]"]}),
            &["method", "first1", "headers.x-key", "headers.x-plan", "query.token"],
        );
        for (read, known) in [
            ("headers.x-plan", true),
            ("headers.x-key", false),
            ("query.token", false),
            ("headers.x-new", false),
            ("host", true),
            ("time.utc", true),
            ("user", false),
        ] {
            assert_eq!(is_known(&line, read), known, "{read}");
        }
        for (read, told) in
            [("path", true), ("method", true), ("host", false), ("sourceIp", false), ("time.office", true)]
        {
            assert_eq!(is_told_apart(&line, read), told, "{read}");
        }
    }
}
