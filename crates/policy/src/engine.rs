//! The decision on one call.
//!
//! Default is deny, `forbid` wins. Cedar skips a policy whose evaluation errors; here a `forbid` that errors denies, because a
//! rule that was written to stop something must not fail open. A `permit` that errors permits nothing and is reported.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use cedar_policy::{Effect, EntityUid};
use weft_model::intent::{Paths, PolicyInputs};
use weft_model::{ServiceName, SpiffeId, TrustDomain};
use weft_policy_eval::AskCedar;

use crate::ask::Parties;
use crate::bound;
use crate::break_glass::BreakGlass;
use crate::bundle::{Bundle, PolicyError};
use crate::context::{self, Attribute, Clock, Live, Reads, Surroundings};
use crate::decision::{Decision, PolicyRef, places};
use crate::entities;
use crate::index::Candidate;
use crate::load::{self, Caller, Known, Parts};
use crate::path;
use crate::request::CallRequest;

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
    reads: Reads,
    no_policies: Arc<[PolicyRef]>,
    no_places: Arc<str>,
    no_errors: Arc<[String]>,
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
        let reads = parts.callers.values().fold(Reads::default(), |all, caller| all.union(&caller.groups.reads));
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
            reads,
            no_policies: Arc::new([]),
            no_places: "".into(),
            no_errors: Arc::new([]),
        })
    }

    /// The callee.
    pub fn service(&self) -> &ServiceName {
        &self.service
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

    /// Every context attribute that some policy mentions. Two calls of one principal that agree in these get the same decision
    /// (and the same reason), so a caller may keep it as long as the engine is the same.
    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Whether a decision about a call of `caller` can be another one at another time.
    pub fn reads_time(&self, caller: &SpiffeId) -> bool {
        let caller = self.parts.callers.get(caller.as_str());
        caller.is_some_and(|caller| caller.groups.reads.iter().any(Attribute::is_of_time))
    }

    /// Whether break-glass is on at `now`, as far as some policy asks.
    pub(crate) fn is_glass_broken(&self, now: SystemTime) -> bool {
        self.break_glass.as_ref().is_some_and(|glass| glass.is_on(now))
    }

    /// What policies about calls of `caller` read of a call, as they write it behind `context.`: calls that agree in these are decided alike.
    pub fn reads_of(&self, caller: Option<&SpiffeId>) -> Vec<String> {
        let reads = self.caller(caller).map(|caller| &caller.groups.reads);
        reads.into_iter().flat_map(Reads::iter).map(ToString::to_string).collect()
    }

    /// What policies about the caller read of this call beside method, path, host, protocol and address, by the name that stands behind
    /// `context.`. Values that may be secrets are [`crate::REDACTED`].
    pub fn read_of(&self, request: &CallRequest<'_>) -> serde_json::Map<String, serde_json::Value> {
        let Some(caller) = self.caller(request.principal) else { return serde_json::Map::new() };
        context::shown(request, &caller.groups.reads, &self.inputs, &self.surroundings(request.now))
    }

    fn caller(&self, id: Option<&SpiffeId>) -> Option<&Caller> {
        self.parts.callers.get(id?.as_str())
    }

    fn surroundings(&self, now: SystemTime) -> Surroundings<'_> {
        Surroundings { port: self.port, clock: &self.clock, break_glass: self.is_glass_broken(now) }
    }

    /// Decides on one call. Pure; a few microseconds, also among thousands of policies.
    ///
    /// A path is decided on in every way that an app may read it ([`path::readings`]), or `/admin;x/users` would pass the rule about
    /// `/admin/users` and be that to the app. Each of them must be allowed; but where the app is said to take `%2F` for no slash,
    /// the reading in which it is one must only not be forbidden.
    pub fn decide(&self, request: &CallRequest<'_>) -> Decision {
        let decision = self.decide_as_written(request);
        if !decision.allowed {
            return decision;
        }
        for reading in path::readings(request.path) {
            let otherwise = self.decide_as_written(&CallRequest { path: &reading.path, ..*request });
            // A denial that names no policy is one by default: nothing permits that path.
            let is_default = otherwise.policies.is_empty();
            if otherwise.allowed || is_default && reading.decoded {
                continue;
            }
            let reason = format!("{}; some read the path as {}", otherwise.reason, shorten(&reading.path));
            return Decision { reason: format!("{reason} ({})", how(&reading)).into(), ..otherwise };
        }
        decision
    }

    fn decide_as_written(&self, request: &CallRequest<'_>) -> Decision {
        let Some(principal) = request.principal else {
            return self.refuse("the caller has shown no identity: no client certificate with a SPIFFE ID".into());
        };
        let Some(caller) = self.parts.callers.get(principal.as_str()) else {
            return self.refuse(self.why_unknown(principal));
        };
        self.explain(request, caller, self.evaluate(request, caller))
    }

    /// Evaluates all that may apply, also what cannot change the decision any more: each error is reported.
    fn evaluate(&self, request: &CallRequest<'_>, caller: &Caller) -> Found {
        let around = self.surroundings(request.now);
        let (mut found, call) = (Found::default(), Live::new(request, &self.inputs, around));
        self.parts.index.candidates(&caller.groups, request.method, request.path, |Candidate { policy, code }| {
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
        });
        found
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
            return Decision { allowed: false, places: places(&policies).into(), policies, reason, errors };
        }
        match &determining[..] {
            [] => Decision {
                allowed: false,
                policies: self.no_policies.clone(),
                places: self.no_places.clone(),
                reason: self.why_default(request, caller, &errors),
                errors,
            },
            [one] => {
                let (policies, places, reason) = one.alone.clone();
                Decision { allowed, policies, places, reason, errors }
            }
            several => {
                let policies: Arc<[PolicyRef]> = several.iter().map(|policy| policy.place.clone()).collect();
                let places: Arc<str> = places(&policies).into();
                let reason = format!("{} {places}", several[0].effect).into();
                Decision { allowed, policies, places, reason, errors }
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
        Decision { allowed: false, policies, places, reason, errors }
    }

    fn why_unknown(&self, principal: &SpiffeId) -> Arc<str> {
        let (service, access) = (&self.service, &self.access);
        if principal.trust_domain() != self.trust_domain {
            return format!("the caller {principal} is not of the trust domain {}", self.trust_domain).into();
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

/// What whoever reads a path so takes for what.
fn how(reading: &path::Reading) -> String {
    let ways = [
        (reading.decoded, "%2F as a slash"),
        (reading.cut, "no parameters after ;"),
        (reading.merged, "several slashes as one"),
    ];
    let ways: Vec<&str> = ways.into_iter().filter(|(used, _)| *used).map(|(_, way)| way).collect();
    ways.join(", ")
}

/// At most 200 characters, for a sentence in a log.
fn shorten(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod inputs_tests;
#[cfg(test)]
mod tests;
