//! The decision on one call.
//!
//! Default is deny, `forbid` wins. Cedar skips a policy whose evaluation errors; here a `forbid` that errors denies, because a
//! rule that was written to stop something must not fail open. A `permit` that errors permits nothing and is reported.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use cedar_policy::{Effect, EntityUid};
use weft_model::intent::{Case, Paths, PolicyInputs};
use weft_model::{ServiceName, SpiffeId, TrustDomain};
use weft_policy_eval::AskCedar;

use crate::ask::Parties;
use crate::bound;
use crate::break_glass::BreakGlass;
use crate::bundle::{Bundle, PolicyError};
use crate::context::{self, Attribute, Clock, Live, Reads, Surroundings};
use crate::decision::{Decision, PolicyRef, Shadow, places};
use crate::entities;
use crate::index::Candidate;
use crate::load::{self, Caller, Known, Parts};
use crate::request::{CallRequest, Principal};
use crate::{path, query};

/// The policies of one service, ready to decide.
pub struct Engine {
    number: u64,
    trust_domain: TrustDomain,
    service: ServiceName,
    access: Arc<str>,
    paths: Paths,
    port: u16,
    inputs: PolicyInputs,
    clock: Clock,
    break_glass: Option<BreakGlass>,
    version: String,
    parts: Parts,
    action: EntityUid,
    resource: EntityUid,
    no_policies: Arc<[PolicyRef]>,
    no_places: Arc<str>,
    no_errors: Arc<[String]>,
}

/// Which policies are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Enforced,
    /// Those, and the shadow policies as if they were enforced.
    All,
}

/// What policies say of a call, by their positions. One may be there several times.
#[derive(Default)]
struct Found {
    permits: Vec<u32>,
    forbids: Vec<u32>,
    /// With why it cannot be evaluated.
    errors: Vec<(u32, String)>,
}

impl Engine {
    /// Parses the policies and makes the entities.
    ///
    /// # Errors
    /// A policy does not parse: the control plane validated it with another version of Cedar. Or it goes deeper than any that a
    /// control plane lets through.
    pub fn new(bundle: &Bundle) -> Result<Self, PolicyError> {
        bound::with_stack(|| Self::new_here(bundle))
    }

    fn new_here(bundle: &Bundle) -> Result<Self, PolicyError> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let parts = load::load(bundle)?;
        let clock = Clock::new(&bundle.inputs).map_err(PolicyError::TimeZone)?;
        Ok(Self {
            number: MADE.fetch_add(1, Ordering::Relaxed),
            trust_domain: bundle.trust_domain.clone(),
            service: bundle.service.name.clone(),
            access: bundle.access.clone(),
            paths: bundle.paths,
            port: bundle.port,
            inputs: bundle.inputs.clone(),
            clock,
            break_glass: bundle.break_glass.clone(),
            version: bundle.revision.clone(),
            parts,
            action: entities::call(),
            resource: entities::service(&bundle.service.name),
            no_policies: Arc::new([]),
            no_places: "".into(),
            no_errors: Arc::new([]),
        })
    }

    /// The callee.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The callee's port, as callers name it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bundle's revision.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How paths of calls to the callee are to be normalised ([`crate::path::normalize`]).
    pub fn paths(&self) -> Paths {
        self.paths
    }

    /// No other engine of this process has it, not even one of the same bundle.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Every context attribute that policies about this caller mention, enforced ones and shadow policies. Two calls of one principal that
    /// agree in these get the same decision (and the same reason), so it may be kept as long as the engine is the same.
    pub(crate) fn reads(&self, caller: Principal<'_>) -> [&Reads; 2] {
        static NOTHING: Reads = Reads::nothing();
        self.caller(caller).map_or([&NOTHING; 2], |caller| [&caller.groups.reads, &caller.shadow.reads])
    }

    /// Whether policies about this caller read parameters of the query.
    fn reads_query(&self, caller: Principal<'_>) -> bool {
        self.reads(caller).iter().any(|reads| reads.has_query())
    }

    /// Whether a decision about a call of `caller` can be another one at another time; what shadow policies say of it does not count.
    pub fn reads_time(&self, caller: Principal<'_>) -> bool {
        self.caller(caller).is_some_and(|caller| caller.groups.reads.iter().any(Attribute::is_of_time))
    }

    /// Whether break-glass is on at `now`, as far as some policy asks.
    pub(crate) fn is_glass_broken(&self, now: SystemTime) -> bool {
        self.break_glass.as_ref().is_some_and(|glass| glass.is_on(now))
    }

    /// What policies about calls of `caller` read of a call, as they write it behind `context.`: calls that agree in these are decided alike.
    pub fn reads_of(&self, caller: Principal<'_>) -> Vec<String> {
        let reads = self.caller(caller).map(|caller| &caller.groups.reads);
        reads.into_iter().flat_map(Reads::iter).map(ToString::to_string).collect()
    }

    /// What policies about the caller read of this call beside method, path, host, protocol and address, by the name that stands behind
    /// `context.`; of a query all that any reader finds, as the decision went by that too, and then [`READ_OTHERWISE`]. Values that may be secrets are [`crate::REDACTED`].
    pub fn read_of(&self, request: &CallRequest<'_>) -> serde_json::Map<String, serde_json::Value> {
        let Some(caller) = self.caller(request.principal) else { return serde_json::Map::new() };
        let query = request.query.filter(|_| caller.groups.reads.has_query());
        let other = query.and_then(|query| query::read_as(query, &self.inputs.query, query::Reading::Loose));
        let request = &CallRequest { query: other.as_deref().or(request.query), ..*request };
        let mut shown = context::shown(request, &caller.groups.reads, &self.inputs, &self.surroundings(request.now));
        shown.extend(other.is_some().then(|| (READ_OTHERWISE.to_owned(), true.into())));
        shown
    }

    fn caller(&self, principal: Principal<'_>) -> Option<&Caller> {
        match principal {
            Principal::Id(id) => self.parts.callers.get(id.as_str()),
            Principal::PlainText => self.parts.plain_text.as_ref(),
            Principal::Unknown => None,
        }
    }

    fn surroundings(&self, now: SystemTime) -> Surroundings<'_> {
        Surroundings { port: self.port, clock: &self.clock, break_glass: self.is_glass_broken(now) }
    }

    /// The same of [`Decision::shadow`].
    pub(crate) fn shadow_reads_time(&self, caller: Principal<'_>) -> bool {
        self.caller(caller).is_some_and(|caller| caller.shadow.reads.iter().any(Attribute::is_of_time))
    }

    /// Decides on one call. Pure; a few microseconds, also among thousands of policies.
    ///
    /// A path is decided on in every way that an app may read it ([`path::readings`]), or `/admin;x/users` would pass the rule about
    /// `/admin/users` and be that to the app. Each of them must be allowed; but a [lenient](path::Reading::is_lenient) one must only not be
    /// forbidden. To an app that does not tell upper from lower case a path is what it is in lower case: that must be allowed, and the path
    /// as written not be forbidden.
    ///
    /// A query is decided on as forms are read and, where policies read parameters, as [other readers](query) find them; both must be allowed.
    ///
    /// Shadow policies change nothing of it; [`Decision::shadow`] says what they would.
    pub fn decide(&self, request: &CallRequest<'_>) -> Decision {
        let (mut decision, denied_as) = self.decide_on_readings(request, Which::Enforced);
        decision.shadow = self.shadow(request, decision.allowed, denied_as);
        decision
    }

    /// The other decision that there would be, were the shadow policies enforced. `denied_as` is the reading of the path in which the call is
    /// denied, if it is not the path as written.
    fn shadow(&self, request: &CallRequest<'_>, allowed: bool, denied_as: Option<String>) -> Option<Shadow> {
        self.parts.shadow.as_ref()?;
        let caller = self.caller(request.principal)?;
        if caller.shadow.is_empty() {
            return None;
        }
        let (mut other, _) = self.decide_on_readings(request, Which::All);
        if other.allowed == allowed {
            return None;
        }
        if let Some(path) = denied_as {
            // What permits this reading, rather than the path as written, makes the difference.
            other = self.decide_as_written(&CallRequest { path: &path, ..*request }, Which::All);
        }
        Some(Shadow { allowed: other.allowed, policies: other.policies, reason: other.reason })
    }

    /// The decision, and the reading of the path that it is about where that is not the path as written.
    fn decide_on_readings(&self, request: &CallRequest<'_>, which: Which) -> (Decision, Option<String>) {
        let (decision, denied_as) = self.decide_on_paths(request, which);
        let Some(query) = request.query.filter(|_| decision.allowed && self.reads_query(request.principal)) else {
            return (decision, denied_as);
        };
        for reading in [query::Reading::Loose, query::Reading::Plus] {
            let Some(other) = query::read_as(query, &self.inputs.query, reading) else { continue };
            let (otherwise, denied_as) = self.decide_on_paths(&CallRequest { query: Some(&other), ..*request }, which);
            if !(otherwise.allowed || is_default(&otherwise) && reading == query::Reading::Plus) {
                let reason = format!("{}; {}", otherwise.reason, reading.how()).into();
                return (Decision { reason, ..otherwise }, denied_as);
            }
        }
        (decision, None)
    }

    fn decide_on_paths(&self, request: &CallRequest<'_>, which: Which) -> (Decision, Option<String>) {
        let lower = match self.paths.case {
            Case::Ignore => path::lower_case(request.path),
            Case::Sensitive => Cow::Borrowed(request.path),
        };
        let (is_written, written) = (*lower == *request.path, request.path);
        let lower = CallRequest { path: &lower, ..*request };
        let decision = self.decide_as_written(&lower, which);
        if !decision.allowed {
            return match is_written {
                true => (decision, None),
                false => read_as(decision, lower.path, IGNORING_CASE),
            };
        }
        for reading in path::readings(lower.path) {
            let otherwise = self.decide_as_written(&CallRequest { path: &reading.path, ..*request }, which);
            if !(otherwise.allowed || is_default(&otherwise) && reading.is_lenient()) {
                return read_as(otherwise, &reading.path, &reading.how(request.path));
            }
        }
        if !is_written {
            // Rules on capitals count where they forbid.
            let otherwise = self.decide_as_written(request, which);
            if !otherwise.allowed && !is_default(&otherwise) {
                return (otherwise, None);
            }
            for reading in path::readings(written) {
                let otherwise = self.decide_as_written(&CallRequest { path: &reading.path, ..*request }, which);
                if !otherwise.allowed && !is_default(&otherwise) {
                    return read_as(otherwise, &reading.path, &reading.how(request.path));
                }
            }
        }
        (decision, None)
    }

    fn decide_as_written(&self, request: &CallRequest<'_>, which: Which) -> Decision {
        let Some(caller) = self.caller(request.principal) else {
            return self.refuse(match request.principal {
                Principal::Id(id) => self.why_unknown(id),
                Principal::PlainText | Principal::Unknown => NO_IDENTITY.into(),
            });
        };
        self.explain(request, caller, self.evaluate(request, caller, which))
    }

    /// Evaluates all that may apply, also what cannot change the decision any more: each error is reported.
    fn evaluate(&self, request: &CallRequest<'_>, caller: &Caller, which: Which) -> Found {
        let around = self.surroundings(request.now);
        let (mut found, call) = (Found::default(), Live::new(request, &self.inputs, around));
        let mut look_at = |Candidate { policy, code }| {
            let known = &self.parts.policies[policy as usize];
            let evaluate = || self.parts.program.evaluate(code, caller.entity, &call);
            let applies = bound::with_stack_for(code.depth(), evaluate)
                .map_or_else(|AskCedar| known.asked.applies(self.parties(caller, around), request), Ok);
            match applies {
                Ok(false) => {}
                Ok(true) if known.effect == Effect::Permit => found.permits.push(policy),
                Ok(true) => found.forbids.push(policy),
                Err(error) => found.errors.push((policy, error)),
            }
        };
        self.parts.index.candidates(&caller.groups, request, &mut look_at);
        if let Some(shadow) = self.parts.shadow.as_ref().filter(|_| which == Which::All) {
            shadow.candidates(&caller.shadow, request, &mut look_at);
        }
        found
    }

    /// Every permit that may apply to a call by this caller of this method, host and path, whatever else it says. What is not among them does
    /// not apply to it.
    pub fn permits_in_reach(&self, request: &CallRequest<'_>) -> Vec<PolicyRef> {
        let Some(caller) = self.caller(request.principal) else { return Vec::new() };
        let path = match self.paths.case {
            Case::Ignore => path::lower_case(request.path),
            Case::Sensitive => Cow::Borrowed(request.path),
        };
        let (request, mut found) = (CallRequest { path: &path, ..*request }, Vec::new());
        self.parts.index.candidates(&caller.groups, &request, |candidate| found.push(candidate.policy));
        let known = self.known(found).into_iter().filter(|known| known.effect == Effect::Permit);
        known.map(|known| known.place.clone()).collect()
    }

    fn parties<'a>(&'a self, caller: &'a Caller, around: Surroundings<'a>) -> Parties<'a> {
        let (action, resource, entities) = (&self.action, &self.resource, &self.parts.entities);
        Parties { principal: &caller.uid, action, resource, entities, inputs: &self.inputs, around }
    }

    /// `forbid` wins, and one that errors denies.
    fn explain(&self, request: &CallRequest<'_>, caller: &Caller, mut found: Found) -> Decision {
        found.errors.sort_by_key(|(policy, _)| *policy);
        found.errors.dedup_by_key(|(policy, _)| *policy);
        let allowed = found.forbids.is_empty() && !found.permits.is_empty();
        let determining = self.known(if found.forbids.is_empty() { found.permits } else { found.forbids });
        let (mut errors, mut broken) = (Vec::with_capacity(found.errors.len()), Vec::new());
        for (policy, error) in found.errors {
            let policy = &self.parts.policies[policy as usize];
            if policy.effect == Effect::Forbid {
                broken.push((policy, errors.len()));
            }
            errors.push(format!("{} could not be evaluated: {error}", policy.alone.2));
        }
        let errors: Arc<[String]> = if errors.is_empty() { self.no_errors.clone() } else { errors.into() };
        if !broken.is_empty() && (allowed || determining.is_empty()) {
            broken.sort_by(|a, b| a.0.place.cmp(&b.0.place));
            let reason = format!("{}, and a forbid that cannot be evaluated denies", errors[broken[0].1]).into();
            let policies: Arc<[PolicyRef]> = broken.iter().map(|(policy, _)| policy.place.clone()).collect();
            return Decision {
                allowed: false,
                places: places(&policies).into(),
                policies,
                reason,
                errors,
                shadow: None,
            };
        }
        match &determining[..] {
            [] => Decision {
                allowed: false,
                policies: self.no_policies.clone(),
                places: self.no_places.clone(),
                reason: self.why_default(request, caller, &errors),
                errors,
                shadow: None,
            },
            [one] => {
                let (policies, places, reason) = one.alone.clone();
                Decision { allowed, policies, places, reason, errors, shadow: None }
            }
            several => {
                let policies: Arc<[PolicyRef]> = several.iter().map(|policy| policy.place.clone()).collect();
                let places: Arc<str> = places(&policies).into();
                let reason = format!("{} {places}", several[0].effect).into();
                Decision { allowed, policies, places, reason, errors, shadow: None }
            }
        }
    }

    /// Each once, in the order of their places.
    fn known(&self, mut policies: Vec<u32>) -> Vec<&Known> {
        policies.sort_unstable();
        policies.dedup();
        let mut known: Vec<&Known> = policies.iter().map(|policy| &self.parts.policies[*policy as usize]).collect();
        known.sort_by(|a, b| a.place.cmp(&b.place));
        known
    }

    fn refuse(&self, reason: Arc<str>) -> Decision {
        let (policies, places, errors) = (self.no_policies.clone(), self.no_places.clone(), self.no_errors.clone());
        Decision { allowed: false, policies, places, reason, errors, shadow: None }
    }

    fn why_unknown(&self, principal: &SpiffeId) -> Arc<str> {
        let (service, access) = (&self.service, &self.access);
        if principal.trust_domain() != self.trust_domain {
            let domain = &self.trust_domain;
            let named = format!("no access rule of {service} ({access}) and no policy names it");
            return format!("the caller {principal} is not of the trust domain {domain}, and {named}").into();
        }
        match principal.service() {
            Some(caller) => {
                format!("no access rule of {service} ({access}) and no policy allows {caller} anything").into()
            }
            None => format!("the caller {principal} is no service of this mesh").into(),
        }
    }

    /// Says of the request only what the policies read, so that the sentence is as long-lived as the decision.
    fn why_default(&self, request: &CallRequest<'_>, caller: &Caller, errors: &[String]) -> Arc<str> {
        let reads = &caller.groups.reads;
        let mut reason =
            format!("no access rule of {} ({}) and no policy allows {}", self.service, self.access, caller.name);
        if reads.has(&Attribute::Method) {
            let _ = write!(reason, " {}", shorten(request.method));
        }
        if reads.has_path() {
            let _ = write!(reason, " {}", shorten(request.path));
        }
        errors.iter().for_each(|error| {
            let _ = write!(reason, "; {error}");
        });
        reason.into()
    }
}

/// Stands among what was read of a call whose query has other parameters to other readers.
pub const READ_OTHERWISE: &str = "queryReadOtherwise";
const NO_IDENTITY: &str = "the caller has shown no identity: no client certificate with a SPIFFE ID";
const IGNORING_CASE: &str = "no difference between upper and lower case";

/// A denial that names no policy is one by default: nothing permits the call.
fn is_default(denial: &Decision) -> bool {
    denial.policies.is_empty()
}

/// The denial of a path as somebody reads it, and that path.
fn read_as(denial: Decision, path: &str, how: &str) -> (Decision, Option<String>) {
    let reason = format!("{}; some read the path as {} ({how})", denial.reason, shorten(path)).into();
    (Decision { reason, ..denial }, Some(path.to_owned()))
}

/// At most 200 characters, for a sentence in a log.
fn shorten(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod inputs_tests;
#[cfg(test)]
mod plain_text_tests;
#[cfg(test)]
mod reading_tests;
#[cfg(test)]
mod shadow_tests;
#[cfg(test)]
mod tests;
