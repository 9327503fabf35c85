//! One answer to "is this commit good?", for the control plane before it applies a commit and for `weft check` before one
//! is made: the same code, so the two never disagree.

use weft_model::finding::{Finding, Severity};
use weft_model::intent::Intent;
use weft_model::parse;
use weft_model::source::SourceFile;

pub use weft_model::render::{Look, render, summary, to_json};

/// What became of the files of a commit.
#[derive(Debug)]
pub struct Checked {
    /// The intent; `None` if there is any error, and then nothing of the commit may be applied.
    pub intent: Option<Intent>,
    /// All findings, sorted by place; warnings also stand beside an intent.
    pub findings: Vec<Finding>,
}

/// Parses the files and validates every policy. All errors are found together: a mistake in a YAML document does not hide
/// one in a Cedar policy.
pub fn check(files: &[SourceFile]) -> Checked {
    let parse::Draft { intent, mut findings } = parse::draft(files);
    if let Some(draft) = &intent {
        findings.extend(weft_policy::check(draft));
    }
    findings.sort_by_cached_key(|finding| (finding.span.is_none(), finding.span.clone(), finding.code));
    findings.dedup();
    let sound = findings.iter().all(|finding| finding.severity != Severity::Error);
    Checked { intent: intent.filter(|_| sound), findings }
}
