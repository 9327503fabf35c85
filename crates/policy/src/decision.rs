//! What a decision is, and by which policies.

use std::fmt::{self, Write as _};
use std::sync::Arc;

/// A policy that a decision names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyRef {
    /// File in the repository of intent.
    pub file: Arc<str>,
    /// Line in it.
    pub line: u32,
    /// Unique in the mesh.
    pub id: Arc<str>,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Allow or deny, and why. A clone shares all of it.
#[derive(Clone, Debug)]
pub struct Decision {
    /// False is a denial.
    pub allowed: bool,
    /// The policies that determined it, sorted by place; empty when nothing permitted the call.
    pub policies: Arc<[PolicyRef]>,
    /// The same as `file:line, file:line`.
    pub places: Arc<str>,
    /// One sentence, like `permit policies/x.cedar:3`.
    pub reason: Arc<str>,
    /// Policies that could not be evaluated, one sentence each.
    pub errors: Arc<[String]>,
    /// What would be decided instead, were the shadow policies enforced; `None` if that is the same.
    pub shadow: Option<Shadow>,
}

/// The other decision that there would be, were all shadow policies enforced. Displayed as `deny: forbid policies/x.cedar:3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// Whether the call would be allowed: never what the decision itself says.
    pub allowed: bool,
    /// The policies that would determine it, sorted by place.
    pub policies: Arc<[PolicyRef]>,
    /// One sentence, like `forbid policies/x.cedar:3`.
    pub reason: Arc<str>,
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", if self.allowed { "allow" } else { "deny" }, self.reason)
    }
}

impl Decision {
    /// A denial that no policy made, for this reason.
    pub fn refused(reason: Arc<str>) -> Self {
        Self { allowed: false, policies: Arc::new([]), places: "".into(), reason, errors: Arc::new([]), shadow: None }
    }

    /// What a log calls the policy: the places of those that determined it, or where a rule is missing.
    pub fn policy(&self) -> &Arc<str> {
        if self.policies.is_empty() { &self.reason } else { &self.places }
    }
}

pub(crate) fn places(policies: &[PolicyRef]) -> String {
    let mut out = String::new();
    let mut last = None;
    for policy in policies {
        // One `access` entry is several policies.
        if last.replace((&policy.file, policy.line)) != Some((&policy.file, policy.line)) {
            let comma = if out.is_empty() { "" } else { ", " };
            let _ = write!(out, "{comma}{policy}");
        }
    }
    out
}
