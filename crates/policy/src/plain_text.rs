//! What is hardly meant of calls in plain text: a service that takes them and allows none, and a `permit` for a service that takes none.

use weft_model::intent::Intent;
use weft_model::{Finding, Mtls, PLAIN_TEXT, Severity};
use weft_policy_eval::Bits;

use crate::scope::{Universe, names_plain_text};
use crate::source::Source;

/// Adds the warnings.
pub(crate) fn warn(intent: &Intent, universe: &Universe, sources: &[Source], findings: &mut Vec<Finding>) {
    let mut permissive = universe.nobody();
    for (at, service) in intent.services.values().enumerate() {
        if service.mtls == Mtls::Permissive {
            permissive.insert(at);
        }
    }
    let permits: Vec<&Source> =
        sources.iter().filter(|source| source.is_permit() && names_plain_text(&source.policy)).collect();
    let mut permitted = universe.nobody();
    for permit in permits {
        let callees = universe.resources(&permit.policy);
        if !callees.is_empty() && !callees.intersects(&permissive) {
            findings.push(without_effect(permit));
        }
        if !permit.is_shadow() {
            permitted.union(&callees);
        }
    }
    findings.extend(closed(intent, &permissive, &permitted));
}

fn without_effect(permit: &Source) -> Finding {
    Finding {
        code: "WEFT0221",
        severity: Severity::Warning,
        message: format!("{} has no effect: no service that it is for takes plain text", permit.subject()),
        hint: "remove it, or write `mtls: permissive` in the service that still has such callers".to_owned(),
        span: Some(permit.span(0)),
    }
}

/// Services that take plain text and allow nothing of it.
fn closed(intent: &Intent, permissive: &Bits, permitted: &Bits) -> impl Iterator<Item = Finding> {
    let closed = intent.services.values().enumerate();
    let closed = closed.filter(|(at, _)| permissive.contains(*at) && !permitted.contains(*at));
    closed.map(|(_, service)| Finding {
        code: "WEFT0220",
        severity: Severity::Warning,
        message: format!("{} takes plain text, and nothing permits a caller in plain text anything", service.name),
        hint: format!(
            "allow what they still need, like `- {{from: [{PLAIN_TEXT}], allow: [\"GET /api/**\"]}}` in its `access` \
             (`*` does not mean them), or remove `mtls: permissive`"
        ),
        span: Some(service.span.clone()),
    })
}
