//! Cedar's own word on one policy: asked where our evaluator has none, which is mostly where the policy cannot be evaluated.

use std::sync::{Arc, OnceLock};

use cedar_policy::{
    AuthorizationError, Authorizer, Context, ContextCreationError, Entities, EntityUid, Policy, PolicyId, PolicySet,
    Request, RestrictedExpression,
};

use crate::bound;
use crate::context::{self, Reads};
use crate::request::CallRequest;

/// A policy as text; what Cedar needs is made when it is asked for the first time.
#[derive(Debug)]
pub(crate) struct Asked {
    text: Arc<str>,
    reads: Reads,
    parsed: OnceLock<Box<PolicySet>>,
}

/// What a call is about, but for its context.
#[derive(Clone, Copy)]
pub(crate) struct Parties<'a> {
    pub(crate) principal: &'a EntityUid,
    pub(crate) action: &'a EntityUid,
    pub(crate) resource: &'a EntityUid,
    pub(crate) entities: &'a Entities,
}

impl Asked {
    pub(crate) fn new(text: Arc<str>, reads: Reads) -> Self {
        Self { text, reads, parsed: OnceLock::new() }
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
        let context = context(request, self.reads).map_err(|error| undescribed(&error))?;
        let Parties { principal, action, resource, entities } = parties;
        let cedar = Request::new(principal.clone(), action.clone(), resource.clone(), context, None)
            .map_err(|error| undescribed(&error))?;
        let response = Authorizer::new().is_authorized(&cedar, self.policy()?, entities);
        match response.diagnostics().errors().next() {
            Some(AuthorizationError::PolicyEvaluationError(error)) => Err(error.inner().to_string()),
            None => Ok(response.diagnostics().reason().next().is_some()),
        }
    }

    /// Nobody waits for another worker that parses it too: whoever is first keeps it.
    fn policy(&self) -> Result<&PolicySet, String> {
        if self.parsed.get().is_none() {
            let policy = Policy::parse(Some(PolicyId::new("")), &self.text).map_err(|error| error.to_string())?;
            let set = PolicySet::from_policies([policy]).map_err(|error| error.to_string())?;
            let _ = self.parsed.set(Box::new(set));
        }
        self.parsed.get().map(|set| &**set).ok_or_else(|| "it was parsed, and is gone".to_owned())
    }
}

/// The request's context, with the attributes that are read and no others.
pub(crate) fn context(request: &CallRequest<'_>, reads: Reads) -> Result<Context, Box<ContextCreationError>> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let mut pairs: Vec<(String, RestrictedExpression)> = Vec::with_capacity(4);
    for (name, value) in
        [("method", request.method), ("path", request.path), ("host", request.host), ("protocol", request.protocol)]
    {
        if reads.has(name) {
            pairs.push((name.to_owned(), text(value)));
        }
    }
    for n in reads.firsts() {
        pairs.extend(context::first(request.path, n).map(|first| (format!("first{n}"), text(first))));
    }
    if reads.has("depth") {
        pairs.push(("depth".to_owned(), RestrictedExpression::new_long(context::depth(request.path) as i64)));
    }
    if let Some(ip) = request.source_ip.filter(|_| reads.has("sourceIp")) {
        pairs.push(("sourceIp".to_owned(), RestrictedExpression::new_ip(ip.to_string())));
    }
    Context::from_pairs(pairs).map_err(Box::new)
}
