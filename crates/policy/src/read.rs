//! Every policy of an intent, read from `access` entries and `.cedar` files; and all that keeps one from being read.

use std::collections::HashSet;
use std::sync::Arc;

use cedar_policy::{ParseErrors, Policy, PolicyId, Template};
use miette::Diagnostic;
use weft_model::intent::{Intent, PolicyFile};
use weft_model::{Finding, Severity};

use crate::source::{Source, place};
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
    let (mut line, mut counted) = (1, 0);
    for chunk in split::policies(&file.text) {
        line += file.text[counted..chunk.offset].bytes().filter(|byte| *byte == b'\n').count() as u32;
        counted = chunk.offset;
        let id: Arc<str> = format!("{}:{line}", file.path).into();
        if let Err(too_deep) = bound::check(chunk.text) {
            findings.push(Finding {
                code: "WEFT0209",
                severity: Severity::Error,
                message: too_deep.message(),
                hint: too_deep.hint().to_owned(),
                span: Some(place(&file.path, &file.text, chunk.offset + too_deep.offset)),
            });
            continue;
        }
        match Policy::parse(Some(PolicyId::new(&id)), chunk.text) {
            Ok(policy) => sources.push(Source {
                id,
                file: file.path.clone(),
                line,
                text: chunk.text.into(),
                policy,
                origin: Some((file.text.clone(), chunk.offset)),
            }),
            Err(errors) => report(file, &chunk, &errors, findings),
        }
    }
}

fn report(file: &PolicyFile, chunk: &split::Chunk<'_>, errors: &ParseErrors, findings: &mut Vec<Finding>) {
    let is_template = Template::parse(None, chunk.text).is_ok_and(|template| template.slots().next().is_some());
    for error in errors.iter() {
        let offset = chunk.offset + label(error).unwrap_or(0);
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
            span: Some(place(&file.path, &file.text, offset)),
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
