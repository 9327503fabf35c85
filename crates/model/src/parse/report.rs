//! Collects findings so that a check can go on after the first.

use crate::finding::{Finding, Severity, Span};

/// Most findings that one parse reports; a reader has given up long before.
const MAX_FINDINGS: usize = 1_000;

/// Findings so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    findings: Vec<Finding>,
    more: usize,
}

impl Report {
    /// Something that stops the commit.
    pub(super) fn error(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(code, Severity::Error, Some(span.clone()), message.into(), hint.into());
    }

    /// Something that the reader should know.
    pub(super) fn warning(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(code, Severity::Warning, Some(span.clone()), message.into(), hint.into());
    }

    /// An error that is in no file.
    pub(super) fn nowhere(&mut self, code: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.push(code, Severity::Error, None, message.into(), hint.into());
    }

    /// How many so far: whether a part was read without one.
    pub(super) fn len(&self) -> usize {
        self.findings.len() + self.more
    }

    fn push(&mut self, code: &'static str, severity: Severity, span: Option<Span>, message: String, hint: String) {
        if self.findings.len() >= MAX_FINDINGS {
            // A dropped finding must still stop the commit, so the note about them is an error whenever one of them is.
            self.more += usize::from(severity == Severity::Error);
            return;
        }
        self.findings.push(Finding { code, severity, message, hint, span });
    }

    /// All findings in the order of the files and lines, those without a place last.
    pub(super) fn finish(mut self) -> Vec<Finding> {
        let place = |f: &Finding| (f.span.is_none(), f.span.clone(), f.code);
        self.findings.sort_by_cached_key(place);
        self.findings.dedup();
        if self.more > 0 {
            self.findings.push(Finding {
                code: crate::code::LIMIT,
                severity: Severity::Error,
                message: format!("{} more errors are not shown", self.more),
                hint: "repair those above and check again".to_owned(),
                span: None,
            });
        }
        self.findings
    }
}
