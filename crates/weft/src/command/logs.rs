//! `weft logs`: what was decided about calls, by which lines, on this machine.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use weft_decision_log::{Entry, Outcome, Tail, since};
use weft_model::time::length;
use weft_model::{NameError, PLAIN_TEXT, ServiceName, SpiffeId};

use crate::decisions::FILE;
use crate::output::{Format, hinted, print_error, say, shown, table};

/// Folders within folders that are looked into.
const DEPTH: usize = 4;
/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(200);

/// Show what was decided about calls, and by which lines of which files
///
/// Reads the decision logs of the sidecars and of the authorization server on this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Decision logs, or folders that have some [default: weft-sidecar and weft-server, the state folders]
    logs: Vec<PathBuf>,
    #[command(flatten)]
    wanted: Wanted,
    /// Go on as decisions are made
    #[arg(long, short)]
    follow: bool,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Which decisions.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Only denials
    #[arg(long, conflicts_with = "allowed")]
    denied: bool,
    /// Only what was allowed
    #[arg(long)]
    allowed: bool,
    /// Only those that shadow policies would have decided in another way
    #[arg(long)]
    shadow: bool,
    /// Only calls of this service, or those in plain-text
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = caller_name)]
    caller: Option<String>,
    /// Only calls to this service
    #[arg(long, value_name = "NAMESPACE/NAME")]
    callee: Option<ServiceName>,
    /// Only the decision, or the request, of this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only those of so long ago and less, like 30m, 24h or 7d
    #[arg(long, value_name = "TIME", value_parser = length)]
    since: Option<Duration>,
}

impl Wanted {
    fn fits(&self, entry: &Entry<'_>, earliest: &str) -> bool {
        let is_id = |id: &String| *entry.decision_id == **id || entry.request_id.as_deref() == Some(id);
        (!self.denied || entry.decision == Outcome::Deny)
            && (!self.allowed || entry.decision == Outcome::Allow)
            && (!self.shadow || entry.shadow.is_some())
            && self.caller.as_ref().is_none_or(|name| caller(entry).as_deref() == Some(name))
            && self.callee.as_ref().is_none_or(|name| *entry.resource == *name.as_str())
            && self.id.as_ref().is_none_or(is_id)
            && *entry.time >= *earliest
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let earliest = args.wanted.since.map(|ago| since(SystemTime::now(), ago)).unwrap_or_default();
    let mut tails: Vec<Tail> = find(&args.logs)?.iter().map(|log| Tail::new(log)).collect();
    let entries = newest(&mut tails, &args.wanted, &earliest)?;
    for tail in tails.iter().filter(|tail| tail.foreign() > 0) {
        let what = format!("{} lines of {} are none of a decision log", tail.foreign(), tail.path().display());
        print_error(&hinted(what, "they are left out"));
    }
    match args.output {
        Format::Json => entries.iter().for_each(say_json),
        Format::Text if entries.is_empty() && !args.follow => say("no such decisions\n"),
        Format::Text => say(as_text(&entries)),
    }
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        std::thread::sleep(LOOK);
        for entry in &newest(&mut tails, &args.wanted, &earliest)? {
            match args.output {
                Format::Json => say_json(entry),
                Format::Text => say(format_args!("{}\n", shown(&row(entry).join("  ")))),
            }
        }
    }
}

/// What has come since the last time, by time.
fn newest(tails: &mut [Tail], wanted: &Wanted, earliest: &str) -> Result<Vec<Entry<'static>>> {
    let mut entries = Vec::new();
    for tail in tails {
        tail.read(|entry| entries.extend(wanted.fits(&entry, earliest).then_some(entry)))?;
    }
    entries.sort_by(|a, b| a.time.cmp(&b.time));
    Ok(entries)
}

fn say_json(entry: &Entry<'_>) {
    say(format_args!("{}\n", serde_json::to_string(entry).unwrap_or_default()));
}

const HEADER: [&str; 6] = ["TIME", "DECISION", "CALLER", "CALLEE", "CALL", "WHY"];

fn as_text(entries: &[Entry<'_>]) -> String {
    let rows: Vec<Vec<String>> = entries.iter().map(row).collect();
    table(&HEADER, &rows)
}

fn row(entry: &Entry<'_>) -> Vec<String> {
    let call = match entry.method.is_empty() {
        true => entry.protocol.to_string(),
        false => format!("{} {}", entry.method, shorten(&entry.path)),
    };
    let mut why = shorten(&entry.reason).to_owned();
    if let Some(shadow) = &entry.shadow {
        why.push_str(&format!("; in shadow {}: {}", shadow.decision.as_str(), shorten(&shadow.reason)));
    }
    let caller = caller(entry).unwrap_or_else(|| entry.principal.as_deref().unwrap_or("nobody").to_owned());
    vec![entry.time.to_string(), entry.decision.as_str().to_owned(), caller, entry.resource.to_string(), call, why]
}

/// `prod/web`, if the caller is a service, or `plain-text`.
fn caller(entry: &Entry<'_>) -> Option<String> {
    match entry.principal.as_deref()? {
        PLAIN_TEXT => Some(PLAIN_TEXT.to_owned()),
        id => Some(id.parse::<SpiffeId>().ok()?.service()?.to_string()),
    }
}

/// What [`caller`] gives.
fn caller_name(text: &str) -> Result<String, NameError> {
    if text == PLAIN_TEXT { Ok(text.to_owned()) } else { text.parse::<ServiceName>().map(|name| name.to_string()) }
}

fn shorten(text: &str) -> &str {
    text.char_indices().nth(160).map_or(text, |(end, _)| &text[..end])
}

/// The logs that are named, or lie in the folders that are named.
pub(crate) fn find(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let defaults = ["weft-sidecar", "weft-server"].map(PathBuf::from);
    let hint = "name a decision log, or the state folder of a sidecar (--state-dir) or of weft up (--keep)";
    let places: Vec<&Path> = match named {
        [] => defaults.iter().map(PathBuf::as_path).filter(|folder| folder.is_dir()).collect(),
        named => named.iter().map(PathBuf::as_path).collect(),
    };
    let mut logs = Vec::new();
    for place in &places {
        let kind = std::fs::metadata(place).map_err(|error| hinted(format!("{}: {error}", place.display()), hint))?;
        if kind.is_dir() {
            gather(place, DEPTH, &mut logs).with_context(|| format!("looking into {}", place.display()))?;
        } else {
            logs.push(place.to_path_buf());
        }
    }
    if logs.is_empty() {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let where_ = if places.is_empty() { "here".to_owned() } else { format!("in {}", places.join(", ")) };
        return Err(hinted(format!("there is no {FILE} {where_}"), hint));
    }
    Ok(logs)
}

fn gather(folder: &Path, depth: usize, logs: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut names: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    names.sort_by_key(std::fs::DirEntry::file_name);
    for entry in names {
        let kind = entry.file_type()?;
        if kind.is_file() && entry.file_name() == FILE {
            logs.push(entry.path());
        } else if kind.is_dir() && depth > 0 {
            gather(&entry.path(), depth - 1, logs)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_found_in_the_folders_of_a_mesh() {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in ["server", "web/state", "board/state"] {
            let folder = dir.path().join(folder);
            std::fs::create_dir_all(&folder).expect("made");
            std::fs::write(folder.join(FILE), "").expect("written");
            std::fs::write(folder.join("decisions.log.1"), "").expect("written");
        }
        let found = find(&[dir.path().to_owned()]).expect("some");
        assert_eq!(found, ["board/state", "server", "web/state"].map(|folder| dir.path().join(folder).join(FILE)));
        let error = find(&[dir.path().join("none")]).expect_err("not there");
        assert!(error.to_string().contains("none"), "{error}");
    }
}
