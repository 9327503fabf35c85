//! The decision on one call.
//!
//! Default is deny, `forbid` wins. Cedar skips a policy whose evaluation errors; here a `forbid` that errors denies, because a
//! rule that was written to stop something must not fail open. A `permit` that errors permits nothing and is reported.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use cedar_policy::{
    Authorizer, Context, ContextCreationError, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet, Request,
    Response,
};
use weft_model::intent::{Paths, PolicyInputs};
use weft_model::{ServiceName, SpiffeId, TrustDomain};

use crate::bound;
use crate::bundle::{Bundle, PolicyError, PolicyText};
use crate::context::{self, Attribute, Clock, Reads, Surroundings};
use crate::entities;
use crate::path;
use crate::request::CallRequest;
use crate::scope::{Bits, Universe};

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
}

impl Decision {
    /// What a log calls the policy: the places of those that determined it, or where a rule is missing.
    pub fn policy(&self) -> &Arc<str> {
        if self.policies.is_empty() { &self.reason } else { &self.places }
    }
}

fn places(policies: &[PolicyRef]) -> String {
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

/// The policies of one service, ready to decide.
pub struct Engine {
    number: u64,
    trust_domain: TrustDomain,
    service: ServiceName,
    access: Arc<str>,
    paths: Paths,
    port: u16,
    clock: Clock,
    version: String,
    authorizer: Authorizer,
    entities: Entities,
    action: EntityUid,
    resource: EntityUid,
    /// By SPIFFE ID.
    callers: HashMap<Box<str>, Caller>,
    policies: HashMap<PolicyId, PolicyInfo>,
    reads: Reads,
    no_policies: Arc<[PolicyRef]>,
    no_places: Arc<str>,
    no_errors: Arc<[String]>,
}

struct Caller {
    uid: EntityUid,
    name: ServiceName,
    slice: Arc<Slice>,
}

/// The policies whose scope fits a caller. Only these are evaluated; callers whom the same policies fit share them.
struct Slice {
    policies: PolicySet,
    reads: Reads,
    /// Some policy needs more stack than a worker thread may have.
    deep: bool,
}

struct PolicyInfo {
    effect: Effect,
    place: PolicyRef,
    /// Policies, places and reason of a decision that this policy alone determines, made once.
    alone: (Arc<[PolicyRef]>, Arc<str>, Arc<str>),
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
        let parsed = bundle.policies.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let callee = bundle.callers.iter().all(|caller| caller.name != bundle.service.name).then_some(&bundle.service);
        let made = bundle.callers.iter().chain(callee).map(|facts| facts.entity(&bundle.trust_domain));
        let made = made.collect::<Result<Vec<_>, _>>().map_err(PolicyError::Entities)?;
        let entities = Entities::from_entities(made, None).map_err(|error| PolicyError::Entities(error.to_string()))?;
        let callers = callers(bundle, &parsed)?;
        let reads = callers.values().fold(Reads::default(), |all, caller| all.union(&caller.slice.reads));
        let clock = Clock::new(&bundle.inputs).map_err(PolicyError::TimeZone)?;
        Ok(Self {
            number: MADE.fetch_add(1, Ordering::Relaxed),
            trust_domain: bundle.trust_domain.clone(),
            service: bundle.service.name.clone(),
            access: bundle.access.clone(),
            paths: bundle.paths,
            port: bundle.port,
            clock,
            version: bundle.revision.clone(),
            authorizer: Authorizer::new(),
            entities,
            action: entities::call(),
            resource: entities::service(&bundle.service.name),
            callers,
            policies: bundle
                .policies
                .iter()
                .zip(&parsed)
                .map(|(text, policy)| (policy.id().clone(), info(text, policy)))
                .collect(),
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
        self.callers.get(caller.as_str()).is_some_and(|caller| caller.slice.reads.iter().any(Attribute::is_of_time))
    }

    /// Whether break-glass is on.
    pub(crate) fn is_glass_broken(&self, _now: SystemTime) -> bool {
        false
    }

    /// Decides on one call. Pure; a few microseconds for a handful of policies.
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
        let Some(caller) = self.callers.get(principal.as_str()) else {
            return self.refuse(self.why_unknown(principal));
        };
        let context = match self.context(request, &caller.slice.reads) {
            Ok(context) => context,
            Err(error) => {
                return self.refuse(format!("the request cannot be described to the policies: {error}").into());
            }
        };
        let cedar = Request::new(caller.uid.clone(), self.action.clone(), self.resource.clone(), context, None);
        match cedar {
            Ok(cedar) => {
                let authorize = || self.authorizer.is_authorized(&cedar, &caller.slice.policies, &self.entities);
                let response = if caller.slice.deep { bound::with_stack(authorize) } else { authorize() };
                self.explain(request, caller, &response)
            }
            Err(error) => self.refuse(format!("the request cannot be described to the policies: {error}").into()),
        }
    }

    fn context(&self, request: &CallRequest<'_>, reads: &Reads) -> Result<Context, Box<ContextCreationError>> {
        let break_glass = self.is_glass_broken(request.now);
        context::build(request, reads, &Surroundings { port: self.port, clock: &self.clock, break_glass })
    }

    /// From Cedar's response to our rules: a `forbid` that errors denies.
    fn explain(&self, request: &CallRequest<'_>, caller: &Caller, response: &Response) -> Decision {
        let mut determining: Vec<&PolicyInfo> =
            response.diagnostics().reason().filter_map(|id| self.policies.get(id)).collect();
        let mut errors = Vec::new();
        let mut broken: Vec<(&PolicyInfo, usize)> = Vec::new();
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            let Some(policy) = self.policies.get(error.policy_id()) else { continue };
            if policy.effect == Effect::Forbid {
                broken.push((policy, errors.len()));
            }
            errors.push(format!("{} could not be evaluated: {}", policy.alone.2, error.inner()));
        }
        let errors: Arc<[String]> = if errors.is_empty() { self.no_errors.clone() } else { errors.into() };
        let allowed = response.decision() == cedar_policy::Decision::Allow;
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
            _ => {
                determining.sort_by(|a, b| a.place.cmp(&b.place));
                let policies: Arc<[PolicyRef]> = determining.iter().map(|policy| policy.place.clone()).collect();
                let places: Arc<str> = places(&policies).into();
                let reason = format!("{} {places}", determining[0].effect).into();
                Decision { allowed, policies, places, reason, errors }
            }
        }
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
        let reads = &caller.slice.reads;
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

fn parse(text: &PolicyText) -> Result<Policy, PolicyError> {
    let refuse = |why| PolicyError::Policy { id: text.id.clone(), why };
    bound::check(&text.text).map_err(|too_deep| refuse(too_deep.message()))?;
    Policy::parse(Some(PolicyId::new(&text.id)), &text.text).map_err(|error| refuse(error.to_string()))
}

fn info(text: &PolicyText, policy: &Policy) -> PolicyInfo {
    let place = PolicyRef { file: text.file.clone(), line: text.line, id: text.id.clone() };
    let effect = policy.effect();
    let places: Arc<str> = place.to_string().into();
    let reason = format!("{effect} {places}").into();
    PolicyInfo { effect, alone: (Arc::new([place.clone()]), places, reason), place }
}

/// Each caller with the policies whose scope fits it.
fn callers(bundle: &Bundle, parsed: &[Policy]) -> Result<HashMap<Box<str>, Caller>, PolicyError> {
    let universe = Universe::new(bundle.callers.iter().map(|facts| (&facts.name, &facts.roles[..])));
    let principals: Vec<Arc<Bits>> = parsed.iter().map(|policy| universe.principals(policy)).collect();
    let mut slices = HashMap::<Vec<usize>, Arc<Slice>>::new();
    let mut callers = HashMap::new();
    for (index, facts) in bundle.callers.iter().enumerate() {
        let fitting: Vec<usize> = (0..parsed.len()).filter(|at| principals[*at].contains(index)).collect();
        let slice = match slices.get(&fitting) {
            Some(slice) => slice.clone(),
            None => {
                let deep = fitting.iter().any(|at| bound::is_deep(&bundle.policies[*at].text));
                let slice = Arc::new(slice(fitting.iter().map(|at| &parsed[*at]), &bundle.inputs, deep)?);
                slices.insert(fitting, slice.clone());
                slice
            }
        };
        let id = SpiffeId::for_service(&bundle.trust_domain, &facts.name);
        callers.insert(
            id.as_str().into(),
            Caller { uid: entities::service(&facts.name), name: facts.name.clone(), slice },
        );
    }
    Ok(callers)
}

fn slice<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    inputs: &PolicyInputs,
    deep: bool,
) -> Result<Slice, PolicyError> {
    let reads = policies.clone().fold(Reads::default(), |all, policy| all.union(&reads_of(policy, inputs)));
    let policies =
        PolicySet::from_policies(policies.cloned()).map_err(|error| PolicyError::Format(error.to_string()))?;
    Ok(Slice { policies, reads, deep })
}

/// What a policy reads of a request.
pub(crate) fn reads_of(policy: &Policy, inputs: &PolicyInputs) -> Reads {
    policy.to_json().map_or_else(|_| Reads::all(inputs), |form| context::reads(&form["conditions"], inputs))
}

#[cfg(test)]
mod inputs_tests;
#[cfg(test)]
mod tests;
