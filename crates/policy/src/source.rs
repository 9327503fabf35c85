//! A policy with the place where a person wrote it.

use std::sync::Arc;

use cedar_policy::{Effect, Policy};
use weft_model::Span;

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
    /// The whole file and where the text starts in it, in bytes; `None` for a policy made from an `access` entry.
    pub(crate) origin: Option<(Arc<str>, usize)>,
}

impl Source {
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
            Some((file_text, start)) => place(&self.file, file_text, start + offset),
            None => Span { file: self.file.clone(), line: self.line, column: 1 },
        }
    }
}

/// The place of a byte of a file.
pub(crate) fn place(file: &Arc<str>, text: &str, offset: usize) -> Span {
    let (line, column) = split::position(text, offset);
    Span { file: file.clone(), line, column }
}
