//! What is wrong (or suspicious) in what a person wrote: the place, the problem, and what to do about it.
//!
//! Checks collect findings and go on, so that a reader sees all of them at once.

use std::fmt;
use std::sync::Arc;

/// A place in a file of the intent repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Span {
    /// Path relative to the root of the repository, with `/`.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// Line, counted from 1.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Whether a finding stops a commit from being applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The commit is refused.
    Error,
    /// The commit is applied; the reader is told.
    Warning,
}

/// One thing found by a check, with a stable code (`WEFT0123`) that has a page in `docs/reference/findings.md`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Stable code, `WEFT` and four digits.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// Where; `None` only when no file is at fault (a repository without a `Mesh` document).
    pub span: Option<Span>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.span {
            Some(span) => write!(f, "{span}: {} [{}]", self.message, self.code),
            None => write!(f, "{} [{}]", self.message, self.code),
        }
    }
}
