//! What became of what was to be imported, policy by policy, for people and for programs.

use std::fmt::Write;
use std::sync::Arc;

use serde::Serialize;
use weft_model::Span;

/// All that is to be said about one import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One for each policy that was found, in the order of the input.
    pub policies: Vec<PolicyReport>,
    /// Documents of other kinds.
    pub passed_over: Vec<PassedOver>,
    /// What holds for the whole import.
    pub notes: Vec<String>,
}

/// What became of one policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// Namespace and name, like `prod/board`.
    pub policy: String,
    /// As written there, like `ALLOW`.
    pub action: &'static str,
    /// Where it stands.
    pub span: Span,
    /// Which document of its file it is, from 1.
    pub document: usize,
    /// What it was for there, and what that was taken to be here.
    pub target: String,
    /// The file that was made of it.
    pub written: Arc<str>,
    /// How much of it is in that file.
    pub outcome: Outcome,
    /// What is not, or not as it was; notes too.
    pub issues: Vec<Issue>,
}

/// How much of a policy was carried over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All that it means.
    Full,
    /// Some of its rules, or rules that allow less or deny more.
    Part,
    /// Nothing.
    Not,
}

/// One thing that was not carried over, or that the reader should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// How bad it is.
    pub level: Level,
    /// Where it stands.
    pub span: Span,
    /// The field in the document, like `rules[0].when[1]`.
    pub field: String,
    /// What cannot be said.
    pub problem: String,
    /// What was done about it.
    pub effect: String,
    /// What to do by hand; empty if nothing.
    pub hint: String,
}

/// How bad an issue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A rule that denies is not as it was: it denies more, or is missing.
    Error,
    /// A rule that allows is not as it was: it allows less, or is missing.
    Warning,
    /// Nothing is lost.
    Note,
}

/// A document that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassedOver {
    /// Its kind, as written.
    pub kind: String,
    /// Where it stands.
    pub span: Span,
    /// What the reader should know about it; mostly empty.
    pub note: &'static str,
}

impl Report {
    /// Whether everything was carried over.
    pub fn is_whole(&self) -> bool {
        self.policies.iter().all(|policy| policy.outcome == Outcome::Full)
    }

    /// As lines of text, the summary last. Control characters of the input are escaped.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for policy in self.policies.iter().filter(|policy| !policy.issues.is_empty()) {
            let outcome = match policy.outcome {
                Outcome::Full => "carried over",
                Outcome::Part => "carried over in part",
                Outcome::Not => "NOT carried over",
            };
            let (name, action) = (&policy.policy, policy.action);
            let _ = writeln!(out, "{name} ({action}, {}:{}): {outcome}", policy.span.file, policy.span.line);
            policy.issues.iter().for_each(|issue| issue.write(&mut out));
            out.push('\n');
        }
        for (kind, places, note) in self.other_kinds() {
            let note = if note.is_empty() { String::new() } else { format!(": {note}") };
            let _ = writeln!(out, "passed over: {places} {kind}{note}");
        }
        self.notes.iter().for_each(|note| {
            let _ = writeln!(out, "note: {note}");
        });
        let count = |outcome| self.policies.iter().filter(|policy| policy.outcome == outcome).count();
        let all = self.policies.len();
        let _ = writeln!(
            out,
            "{all} {}: {} carried over in full, {} in part, {} not at all",
            if all == 1 { "policy" } else { "policies" },
            count(Outcome::Full),
            count(Outcome::Part),
            count(Outcome::Not)
        );
        shown(&out)
    }

    /// Kinds that were passed over with their number, in the order in which they came.
    fn other_kinds(&self) -> Vec<(&str, usize, &'static str)> {
        let mut kinds: Vec<(&str, usize, &'static str)> = Vec::new();
        for other in &self.passed_over {
            match kinds.iter_mut().find(|(kind, ..)| *kind == other.kind) {
                Some((_, number, _)) => *number += 1,
                None => kinds.push((&other.kind, 1, other.note)),
            }
        }
        kinds
    }
}

impl Issue {
    fn write(&self, out: &mut String) {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        let _ = writeln!(out, "  {level}: {}: {}", self.span, self.field);
        let _ = writeln!(out, "    {}", self.problem);
        for (name, text) in [("so", &self.effect), ("by hand", &self.hint)] {
            if !text.is_empty() {
                let _ = writeln!(out, "    {name}: {text}");
            }
        }
    }
}

/// What a stranger wrote, for a terminal or a comment: what is no plain text becomes an escape; line ends stay.
pub(crate) fn shown(text: &str) -> String {
    let foul = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let escape = |c: char| if foul(c) { c.escape_unicode().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A value for a message.
pub(crate) fn short(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    let cut = shown(&cut).replace('\n', "\\n");
    if text.chars().count() > 80 { format!("{cut}…") } else { cut }
}
