//! Cedar's own word on one policy: asked where our evaluator has none, which is mostly where the policy cannot be evaluated.

use std::sync::{Arc, OnceLock};

use cedar_policy::{AuthorizationError, Authorizer, Entities, EntityUid, Policy, PolicyId, PolicySet, Request};
use weft_model::intent::PolicyInputs;

use crate::bound;
use crate::context::{self, Reads, Surroundings};
use crate::request::CallRequest;

/// A policy as text; what Cedar needs is made when it is asked for the first time.
#[derive(Debug)]
pub(crate) struct Asked {
    text: Arc<str>,
    /// With what of a call it reads.
    parsed: OnceLock<Box<(PolicySet, Reads)>>,
}

/// What a call is about, but for its context.
#[derive(Clone, Copy)]
pub(crate) struct Parties<'a> {
    pub(crate) principal: &'a EntityUid,
    pub(crate) action: &'a EntityUid,
    pub(crate) resource: &'a EntityUid,
    pub(crate) entities: &'a Entities,
    pub(crate) inputs: &'a PolicyInputs,
    pub(crate) around: Surroundings<'a>,
}

impl Asked {
    pub(crate) fn new(text: Arc<str>) -> Self {
        Self { text, parsed: OnceLock::new() }
    }

    /// Whether the policy applies.
    ///
    /// # Errors
    /// Why it cannot be evaluated, in Cedar's words.
    pub(crate) fn applies(&self, parties: Parties<'_>, request: &CallRequest<'_>) -> Result<bool, String> {
        if bound::is_deep(&self.text) {
            return bound::with_stack(|| self.applies_here(parties, request));
        }
        self.applies_here(parties, request)
    }

    fn applies_here(&self, parties: Parties<'_>, request: &CallRequest<'_>) -> Result<bool, String> {
        let undescribed = |error: &dyn std::fmt::Display| format!("the request cannot be described to it: {error}");
        let Parties { principal, action, resource, entities, inputs, around } = parties;
        let (policy, reads) = self.policy(inputs)?;
        let context = context::build(request, reads, &around).map_err(|error| undescribed(&error))?;
        let cedar = Request::new(principal.clone(), action.clone(), resource.clone(), context, None)
            .map_err(|error| undescribed(&error))?;
        let response = Authorizer::new().is_authorized(&cedar, policy, entities);
        match response.diagnostics().errors().next() {
            Some(AuthorizationError::PolicyEvaluationError(error)) => Err(error.inner().to_string()),
            None => Ok(response.diagnostics().reason().next().is_some()),
        }
    }

    /// Nobody waits for another worker that parses it too: whoever is first keeps it.
    fn policy(&self, inputs: &PolicyInputs) -> Result<(&PolicySet, &Reads), String> {
        if self.parsed.get().is_none() {
            let policy = Policy::parse(Some(PolicyId::new("")), &self.text).map_err(|error| error.to_string())?;
            let reads = context::reads(&policy, inputs);
            let set = PolicySet::from_policies([policy]).map_err(|error| error.to_string())?;
            let _ = self.parsed.set(Box::new((set, reads)));
        }
        self.parsed.get().map(|parsed| (&parsed.0, &parsed.1)).ok_or_else(|| "it was parsed, and is gone".to_owned())
    }
}
