//! Policies of other meshes as Cedar policies of this one. Text in, policies and a report out; no I/O.
//!
//! What is imported never allows more than the original: what cannot be said is left out of a rule that allows, and makes a rule that
//! denies deny more. Both are in the report, with the place, and what to do by hand.

mod cedar;
pub mod istio;
mod report;
mod verify;
mod vocabulary;

use std::sync::Arc;

pub use report::{Issue, Level, Outcome, PassedOver, PolicyReport, Report};

/// A file of the other mesh.
#[derive(Clone, Debug)]
pub struct Input {
    /// What the report calls it.
    pub path: Arc<str>,
    /// What is in it.
    pub text: String,
}

/// What became of the input.
#[derive(Clone, Debug)]
pub struct Import {
    /// The `.cedar` files, judged as a commit would be. A policy of which nothing could be carried over has one too, of comments.
    pub files: Vec<CedarFile>,
    /// What was carried over, and what was not.
    pub report: Report,
}

/// One file of policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CedarFile {
    /// Its name, without a folder.
    pub name: Arc<str>,
    /// Cedar, with comments that name the source.
    pub text: String,
}
