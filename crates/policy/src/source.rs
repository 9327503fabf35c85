//! A policy with the place where a person wrote it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use cedar_policy::{Effect, Policy};
use serde_json::Value;
use weft_model::Span;

use crate::bound;
use crate::bundle::PolicyText;
use crate::decision::PolicyRef;
use crate::split;

/// The annotation of a policy that is evaluated and logged, and not enforced.
pub(crate) const SHADOW: &str = "shadow";

/// One policy.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Unique in the mesh, like `policies/x.cedar:3`.
    pub(crate) id: Arc<str>,
    pub(crate) file: Arc<str>,
    pub(crate) line: u32,
    /// As Cedar text.
    pub(crate) text: Arc<str>,
    pub(crate) policy: Policy,
    /// Where the text starts in what Cedar was given, in bytes: what Cedar says of places counts from there.
    pub(crate) parsed_at: usize,
    /// What stands behind `when` and `unless`, in Cedar's JSON form: made when it is asked for, as Cedar reads the text again for it.
    pub(crate) form: Arc<OnceLock<Value>>,
    /// The whole file and where the text starts in it, in bytes; `None` for a policy made from an `access` entry.
    pub(crate) origin: Option<(Arc<str>, usize)>,
}

impl Source {
    /// A list of `{kind, body}`, in Cedar's JSON form (its documentation: JSON policy format); null if there is none. That of a deep policy is
    /// not kept: whoever drops it needs a stack for it.
    pub(crate) fn conditions(&self) -> Cow<'_, Value> {
        let make = || self.policy.to_json().map(|mut form| form["conditions"].take()).unwrap_or_default();
        match self.form.get() {
            None if bound::is_deep(&self.text) => Cow::Owned(make()),
            _ => Cow::Borrowed(self.form.get_or_init(make)),
        }
    }

    pub(crate) fn is_permit(&self) -> bool {
        self.policy.effect() == Effect::Permit
    }

    /// As decisions name it.
    pub(crate) fn place(&self) -> PolicyRef {
        PolicyRef { file: self.file.clone(), line: self.line, id: self.id.clone() }
    }

    /// Evaluated and logged, and not enforced.
    pub(crate) fn is_shadow(&self) -> bool {
        self.policy.annotation(SHADOW).is_some()
    }

    /// What a finding about it is about: an `access` entry is a policy for each of its callers.
    pub(crate) fn subject(&self) -> String {
        match self.id.rsplit_once('#') {
            Some((_, caller)) if self.origin.is_none() => format!("what this entry says of `{caller}`"),
            _ if self.origin.is_none() => "this entry".to_owned(),
            _ => "this policy".to_owned(),
        }
    }

    /// As a bundle carries it.
    pub(crate) fn to_text(&self) -> PolicyText {
        let Self { id, file, line, text, .. } = self;
        PolicyText { id: id.clone(), file: file.clone(), line: *line, text: text.clone() }
    }

    /// The place of a byte of the policy's text.
    pub(crate) fn span(&self, offset: usize) -> Span {
        match &self.origin {
            Some((file, start)) => Place { file: &self.file, text: file, start: *start, line: self.line }.span(offset),
            None => Span { file: self.file.clone(), line: self.line, column: 1 },
        }
    }
}

/// Where a policy starts in its file.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) file: &'a Arc<str>,
    /// All of it.
    pub(crate) text: &'a str,
    /// In bytes.
    pub(crate) start: usize,
    /// From 1.
    pub(crate) line: u32,
}

impl Place<'_> {
    /// The place of a byte of the policy. Counted from where that starts: a file may have thousands.
    pub(crate) fn span(self, offset: usize) -> Span {
        let line_start = self.text[..self.start].rfind('\n').map_or(0, |at| at + 1);
        let (line, column) = split::position(&self.text[line_start..], self.start - line_start + offset);
        Span { file: self.file.clone(), line: self.line + line - 1, column }
    }
}
