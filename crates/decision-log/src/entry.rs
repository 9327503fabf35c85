//! One line.

use std::borrow::Cow;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_policy::PolicyRef;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The call went on.
    Allow,
    /// It did not.
    Deny,
}

impl Outcome {
    /// Of a decision.
    pub fn of(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }

    /// `allow` or `deny`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A policy that determined a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place<'a> {
    /// Unique in the mesh.
    pub id: Cow<'a, str>,
    /// In the repository of intent.
    pub file: Cow<'a, str>,
    /// In it.
    pub line: u32,
}

impl<'a> Place<'a> {
    /// Of a policy.
    pub fn of(policy: &'a PolicyRef) -> Self {
        Self { id: Cow::Borrowed(&policy.id), file: Cow::Borrowed(&policy.file), line: policy.line }
    }
}

/// What would have been decided had the shadow policies been in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shadow<'a> {
    /// Another one than what was decided.
    pub decision: Outcome,
    /// Which policies would have determined it.
    pub policies: Vec<Place<'a>>,
    /// One sentence.
    pub reason: Cow<'a, str>,
}

impl<'a> Shadow<'a> {
    /// Of a decision.
    pub fn of(shadow: &'a weft_policy::Shadow) -> Self {
        let policies = shadow.policies.iter().map(Place::of).collect();
        Self { decision: Outcome::of(shadow.allowed), policies, reason: Cow::Borrowed(&shadow.reason) }
    }
}

/// A decision and its grounds. Fields that say nothing are left out of the line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// When the call came, RFC 3339 in UTC with milliseconds.
    pub time: Cow<'a, str>,
    /// Allow or deny.
    pub decision: Outcome,
    /// Also in the answer to a denied call, and in the access log.
    pub decision_id: Cow<'a, str>,
    /// SPIFFE ID of the caller, or `plain-text`; none if it has shown a certificate without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Cow<'a, str>>,
    /// What it is allowed or not: `call`, or `breakGlass`.
    pub action: Cow<'a, str>,
    /// The service that is called, `prod/board`.
    pub resource: Cow<'a, str>,
    /// Empty for TCP.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub method: Cow<'a, str>,
    /// As it was decided on, without the query; empty for TCP.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub path: Cow<'a, str>,
    /// As it was decided on; empty for TCP.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub host: Cow<'a, str>,
    /// `HTTP/2`, `TCP` and so on.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub protocol: Cow<'a, str>,
    /// Where the connection came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ip: Option<Cow<'a, str>>,
    /// Further values that policies about this caller read, by the name that stands behind `context.`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    /// All that policies about this caller read of a call: calls that agree in it are decided alike, and may share this line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<String>,
    /// The policies that determined the decision; none if nothing permitted the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Place<'a>>,
    /// One sentence.
    pub reason: Cow<'a, str>,
    /// Policies that could not be evaluated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Cow<'a, str>>,
    /// Only where it is another decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow<'a>>,
    /// The commit that was in force.
    pub commit: Cow<'a, str>,
    /// Revision of the service's policies: it changes only with them.
    pub policy_version: Cow<'a, str>,
    /// `x-request-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Cow<'a, str>>,
    /// W3C trace id, 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<Cow<'a, str>>,
    /// How long the policies took; none if the decision was remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<f64>,
    /// Lines about allowed calls that were left out since the last one, because there were too many or only a share is logged.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl<'a> Entry<'a> {
    /// A decision about a call of which nothing else is known.
    pub fn new(at: SystemTime, decision: Outcome, reason: &'a str, commit: &'a str) -> Self {
        Self {
            time: time(at).into(),
            decision,
            decision_id: "".into(),
            principal: None,
            action: "call".into(),
            resource: "-".into(),
            method: "".into(),
            path: "".into(),
            host: "".into(),
            protocol: "".into(),
            source_ip: None,
            attributes: Map::new(),
            reads: Vec::new(),
            policies: Vec::new(),
            reason: reason.into(),
            errors: Vec::new(),
            shadow: None,
            commit: commit.into(),
            policy_version: "".into(),
            request_id: None,
            trace_id: None,
            micros: None,
            skipped: 0,
        }
    }

    /// The policies' places, `file:line, file:line`, each once.
    pub fn places(&self) -> String {
        let mut places: Vec<String> =
            self.policies.iter().map(|policy| format!("{}:{}", policy.file, policy.line)).collect();
        places.dedup();
        places.join(", ")
    }
}

/// RFC 3339 in UTC with milliseconds.
fn time(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::MAX);
    format!("{at:.3}")
}
