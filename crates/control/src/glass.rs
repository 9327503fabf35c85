//! Break-glass: who asks is known by a signature, the policies decide, everybody is told, and it is over by itself.

pub mod signed;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use serde::{Deserialize, Serialize};
use weft_compile::CompiledMesh;
use weft_decision_log::{DecisionLog, Entry, Outcome, Place};
use weft_model::Intent;
use weft_model::intent::SshKey;
use weft_policy::{BreakGlass, Breaking, Decision};

use crate::hub::Hub;
use crate::saved::{GlassState, Saved};
use signed::GlassRequest;

/// A signature is good for so long, before and after.
const FRESH: Duration = Duration::from_secs(120);
/// The longest break.
const LONGEST: u64 = 24 * 3600;
/// The longest reason, in bytes.
const REASON_MAX: usize = 500;

/// `POST /api/break-glass`, the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GlassAnswer {
    /// Until when, in seconds since 1970; 0 if it was ended.
    pub until: u64,
    /// The policy that allowed it.
    pub reason: String,
    /// How many services have policies that ask.
    pub services: usize,
}

/// Why it was not done.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) what: String,
    pub(crate) hint: String,
}

/// The way to break it.
pub(crate) struct Glass {
    hub: Arc<Hub>,
    saved: Saved,
    last: Mutex<BTreeMap<String, u64>>,
    log: OnceLock<DecisionLog>,
}

impl Glass {
    /// Takes up what was saved.
    pub(crate) fn restore(hub: Arc<Hub>, saved: Saved) -> Arc<Self> {
        let GlassState { broken, last } = saved.glass();
        if let Some(broken) = broken.filter(|broken| broken.is_on(SystemTime::now())) {
            tracing::warn!(
                operator = &*broken.operator,
                reason = &*broken.reason,
                until = broken.until,
                "break-glass is on"
            );
            hub.break_glass(Some(broken));
        }
        Arc::new(Self { hub, saved, last: Mutex::new(last), log: OnceLock::new() })
    }

    /// From now on what is decided here is logged.
    pub(crate) fn log_to(&self, log: DecisionLog) {
        let _ = self.log.set(log); // set once, at the start
    }

    /// Does what is asked, if it may be.
    pub(crate) fn ask(&self, asked: &GlassRequest, now: SystemTime) -> Result<GlassAnswer, Refused> {
        let mesh = self
            .hub
            .state()
            .mesh
            .clone()
            .ok_or_else(|| refused(StatusCode::SERVICE_UNAVAILABLE, "no commit has passed the check yet", ""))?;
        check(asked, &mesh)?;
        // Whoever guesses at a key, or sends again what was obeyed, is seen.
        let tell = |refused: &Refused| {
            let operator = asked.operator.chars().take(64).collect::<String>();
            tracing::warn!(?operator, why = refused.what, "break-glass is refused");
        };
        let key = signer(asked, mesh.intent()).inspect_err(tell)?;
        // One after the other from here on: no request is obeyed twice.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        fresh(asked, last.get(&asked.operator).copied(), now).inspect_err(tell)?;
        let minutes = asked.seconds.div_ceil(60);
        let (operator, reason) = (asked.operator.as_str(), asked.reason.as_str());
        let decision = mesh.policy().may_break_glass(&Breaking { operator, minutes, reason, now });
        self.record(asked, &decision, &mesh, now);
        if !decision.allowed {
            tracing::warn!(
                operator,
                reason,
                minutes,
                key = &*key.comment,
                why = &*decision.reason,
                "break-glass is denied"
            );
            let hint = "a policy must permit it: permit (principal == Operator::\"…\", action == Action::\"breakGlass\", resource);";
            return Err(refused(StatusCode::FORBIDDEN, decision.reason.to_string(), hint));
        }
        last.insert(asked.operator.clone(), asked.at);
        let broken = (asked.seconds > 0).then(|| {
            let began = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            // Whole seconds, and not less than was asked for.
            let (from, until) =
                (began.as_secs(), (began + Duration::from_secs(asked.seconds)).as_secs_f64().ceil() as u64);
            BreakGlass { from, until, operator: operator.into(), reason: reason.into() }
        });
        match &broken {
            Some(broken) => {
                tracing::warn!(
                    operator,
                    reason,
                    minutes,
                    key = &*key.comment,
                    until = broken.until,
                    why = &*decision.reason,
                    "break-glass is on"
                );
            }
            None => tracing::warn!(operator, reason, key = &*key.comment, "break-glass is ended"),
        }
        let state = GlassState { broken: broken.clone(), last: last.clone() };
        if let Err(error) = self.saved.save_glass(&state) {
            tracing::warn!(%error, "break-glass was not saved; a restart would begin without it");
        }
        let until = broken.as_ref().map_or(0, |broken| broken.until);
        let services = self.hub.break_glass(broken);
        Ok(GlassAnswer { until, reason: decision.reason.to_string(), services })
    }

    fn record(&self, asked: &GlassRequest, decision: &Decision, mesh: &CompiledMesh, now: SystemTime) {
        let Some(log) = self.log.get() else { return };
        let id = weft_telemetry::trace::decision_id(&mut rand::rng());
        let attributes = [("seconds", asked.seconds.into()), ("reason", asked.reason.clone().into())];
        log.write(&Entry {
            decision_id: String::from_utf8_lossy(&id),
            policy_version: mesh.revision().as_ref().into(),
            principal: Some(format!("operator:{}", asked.operator).into()),
            action: "breakGlass".into(),
            resource: asked.mesh.as_str().into(),
            attributes: attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            policies: decision.policies.iter().map(Place::of).collect(),
            errors: decision.errors.iter().map(|error| error.as_str().into()).collect(),
            ..Entry::new(now, Outcome::of(decision.allowed), &decision.reason, mesh.revision())
        });
    }
}

fn refused(status: StatusCode, what: impl Into<String>, hint: impl Into<String>) -> Refused {
    Refused { status, what: what.into(), hint: hint.into() }
}

/// What is asked makes sense.
fn check(asked: &GlassRequest, mesh: &CompiledMesh) -> Result<(), Refused> {
    let bad = |what: String, hint: &str| Err(refused(StatusCode::BAD_REQUEST, what, hint));
    let name = &mesh.intent().mesh.name;
    if *asked.mesh != **name {
        return bad(format!("this is the mesh {name}, not {}", asked.mesh), "is --server the right one?");
    }
    if asked.seconds > LONGEST {
        return bad(format!("{} s is longer than a day", asked.seconds), "break it again tomorrow");
    }
    let reason = asked.reason.trim();
    if reason.is_empty() || reason.len() > REASON_MAX || asked.reason.contains(char::is_control) {
        return bad(format!("a reason is one line of 1 to {REASON_MAX} bytes"), "say why, for those who read the log");
    }
    Ok(())
}

/// Which of the operator's keys has signed.
fn signer<'a>(asked: &GlassRequest, intent: &'a Intent) -> Result<&'a SshKey, Refused> {
    let unknown = || {
        let what = format!("there is no operator {} in the serving commit", asked.operator);
        let hint = "commit an Operator document with the public key, and a policy that permits it";
        refused(StatusCode::FORBIDDEN, what, hint)
    };
    let operator = intent.operators.get(asked.operator.as_str()).ok_or_else(unknown)?;
    asked.signer(&operator.ssh_keys).map_err(|why| {
        let hint = format!("sign with a key that the document of {} names ({})", asked.operator, operator.span);
        refused(StatusCode::UNAUTHORIZED, why, hint)
    })
}

/// It was signed just now, and after what was obeyed last.
fn fresh(asked: &GlassRequest, last: Option<u64>, now: SystemTime) -> Result<(), Refused> {
    let at = UNIX_EPOCH + Duration::from_millis(asked.at);
    let off = now.duration_since(at).unwrap_or_else(|error| error.duration());
    if off > FRESH {
        let what = format!("the request was signed {} s from now by the clock of the control plane", off.as_secs());
        return Err(refused(StatusCode::UNAUTHORIZED, what, "set the clocks, and ask again"));
    }
    if last.is_some_and(|last| asked.at <= last) {
        return Err(refused(StatusCode::UNAUTHORIZED, "this request, or a later one, was obeyed already", "ask again"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
