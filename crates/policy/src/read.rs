//! Every policy of an intent, read from `access` entries and `.cedar` files; and all that keeps one from being read.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use cedar_policy::{ParseErrors, Policy, PolicyId, Template};
use miette::Diagnostic;
use weft_model::intent::{Intent, PolicyFile};
use weft_model::{Finding, Severity};

use crate::parse::{TOGETHER, conditions, together};
use crate::source::{Place, Source};
use crate::{access, bound, split};

/// All policies that can be read: those of `access` entries by service, then those of the files in order.
pub(crate) fn policies(intent: &Intent, findings: &mut Vec<Finding>) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for service in intent.services.values() {
        sources.extend(access::policies(service, findings));
    }
    for file in &intent.policies {
        read_file(file, &mut sources, findings);
    }
    make_ids_unique(&mut sources);
    sources
}

fn read_file(file: &PolicyFile, sources: &mut Vec<Source>, findings: &mut Vec<Finding>) {
    let (mut line, mut counted, mut chunks) = (1, 0, Vec::new());
    for chunk in split::policies(&file.text) {
        line += file.text[counted..chunk.offset].bytes().filter(|byte| *byte == b'\n').count() as u32;
        counted = chunk.offset;
        let place = Place { file: &file.path, text: &file.text, start: chunk.offset, line };
        if let Err(too_deep) = bound::check(chunk.text) {
            findings.push(Finding {
                code: "WEFT0209",
                severity: Severity::Error,
                message: too_deep.message(),
                hint: too_deep.hint().to_owned(),
                span: Some(place.span(too_deep.offset)),
            });
            continue;
        }
        chunks.push((place, chunk.text));
    }
    for some in chunks.chunks(TOGETHER) {
        let texts: Vec<&str> = some.iter().map(|(_, text)| *text).collect();
        match together(&texts) {
            Some(parsed) => {
                let mut forms = conditions(&texts).into_iter();
                for ((place, text), (policy, parsed_at)) in some.iter().zip(parsed) {
                    let form = Arc::new(forms.next().map(OnceLock::from).unwrap_or_default());
                    sources.push(Source { parsed_at, form, ..source(*place, text, file, policy) });
                }
            }
            // Whichever is wrong says so itself.
            None => {
                for (place, text) in some {
                    match Policy::parse(None, text) {
                        Ok(policy) => sources.push(source(*place, text, file, policy)),
                        Err(errors) => report(*place, text, &errors, findings),
                    }
                }
            }
        }
    }
}

fn source(place: Place<'_>, text: &str, file: &PolicyFile, policy: Policy) -> Source {
    let id: Arc<str> = format!("{}:{}", place.file, place.line).into();
    Source {
        policy: policy.new_id(PolicyId::new(&id)),
        id,
        file: file.path.clone(),
        line: place.line,
        text: text.into(),
        parsed_at: 0,
        form: Arc::default(),
        origin: Some((file.text.clone(), place.start)),
    }
}

fn report(place: Place<'_>, text: &str, errors: &ParseErrors, findings: &mut Vec<Finding>) {
    let is_template = Template::parse(None, text).is_ok_and(|template| template.slots().next().is_some());
    for error in errors.iter() {
        findings.push(Finding {
            code: if is_template { "WEFT0203" } else { "WEFT0201" },
            severity: Severity::Error,
            message: if is_template {
                "this policy is a template".to_owned()
            } else {
                format!("the policy does not parse: {error}")
            },
            hint: match (is_template, error.help()) {
                (true, _) => "write the principal and the resource instead of ?principal and ?resource".to_owned(),
                (false, Some(help)) => help.to_string(),
                (false, None) => {
                    "a policy is permit or forbid, (principal, action, resource), conditions, and a ;".to_owned()
                }
            },
            span: Some(place.span(label(error).unwrap_or(0))),
        });
        if is_template {
            break;
        }
    }
}

/// The byte offset at which a diagnostic points.
pub(crate) fn label(diagnostic: &dyn Diagnostic) -> Option<usize> {
    diagnostic.labels()?.next().map(|label| label.offset())
}

/// Several policies on one line: from the second on they get their column (files) or a number (`access`) into their id.
fn make_ids_unique(sources: &mut [Source]) {
    let mut seen = HashSet::<Arc<str>>::new();
    for source in sources {
        let line_id = source.id.clone();
        let mut count = 1;
        while !seen.insert(source.id.clone()) {
            count += 1;
            source.id = match &source.origin {
                Some((text, start)) if count == 2 => format!("{line_id}:{}", split::position(text, *start).1).into(),
                _ => format!("{line_id}({count})").into(),
            };
        }
        if count > 1 {
            source.policy = source.policy.new_id(PolicyId::new(&source.id));
        }
    }
}
