//! Istio's `AuthorizationPolicy` documents.
//!
//! Text to documents (`read`, `read_rule`, `policy`), what each is for (`target`), each rule as policies (`rule`, from `condition`,
//! from `principal`, `request`, `path` and `template`), and one file and one report a document (`carry`). `docs/reference/import-istio.md`
//! says what becomes of each field.

mod bounds;
mod carry;
mod condition;
mod default_allow;
mod fields;
mod known;
mod path;
mod pattern;
mod policy;
mod principal;
mod read;
mod read_rule;
mod request;
mod rule;
mod target;
mod template;
#[cfg(test)]
mod tests;
mod world;

use std::collections::{BTreeMap, HashMap, HashSet};

use weft_model::parse::yaml;
use weft_model::{Finding, Intent, Severity, code};

pub use world::Options;

use crate::cedar::print;
use crate::report::Report;
use crate::{CedarFile, Import, Input, verify};
use read::Reader;
use world::World;

/// The file of what is allowed by default.
const DEFAULT_ALLOW: &str = "default-allow.cedar";

/// Imports all policies of these files. `mesh` is what they are for, if it is known: then names are checked against it.
///
/// # Errors
/// Every reason for which the input cannot be read; nothing of it is imported then.
pub fn import(inputs: &[Input], options: &Options, mesh: Option<&Intent>) -> Result<Import, Vec<Finding>> {
    let reader = read(inputs, options)?;
    let world = World::new(options, mesh);
    let mut report = Report { passed_over: reader.passed_over, ..Report::default() };
    let (mut files, mut cedar) = (Vec::new(), Vec::new());
    let mut taken: HashSet<String> = HashSet::from([DEFAULT_ALLOW.to_owned()]);
    for policy in &reader.policies {
        let name = free_name(&format!("{}-{}", policy.namespace, policy.name), &mut taken);
        let carried = carry::carry(policy, &reader.policies, &name, &world);
        files.push(CedarFile { name: name.into(), text: carried.text });
        cedar.extend(carried.policies);
        report.policies.push(carried.report);
    }
    let open = default_allow::open(&reader.policies, &world);
    if !open.namespaces.is_empty() && options.default_allow {
        let policies = open.policies();
        let head = "// Istio lets everyone call a workload that no ALLOW policy is for, and Weft nobody: this is Istio's way.\n\n";
        let text = policies.iter().map(print::policy).collect::<Vec<_>>().join("\n");
        files.push(CedarFile { name: DEFAULT_ALLOW.into(), text: format!("{head}{text}") });
        cedar.extend(policies);
        report.notes.push(format!("everyone may call what no ALLOW policy is for ({DEFAULT_ALLOW}): {}", open.text()));
    } else if !open.namespaces.is_empty() {
        report.notes.push(format!(
            "no ALLOW policy is for the services of {}: Istio lets everyone call them, and Weft nobody; --default-allow writes Istio's way",
            open.text()
        ));
    }
    report.notes.extend(assumptions(&world));
    let wrong = verify::check(&files, &cedar, mesh);
    if wrong.is_empty() { Ok(Import { files, report }) } else { Err(wrong) }
}

fn read(inputs: &[Input], options: &Options) -> Result<Reader, Vec<Finding>> {
    let mut reader = Reader::default();
    for input in inputs {
        let (documents, findings) = yaml::read(&input.path, &input.text);
        reader.findings.0.extend(findings);
        for (at, document) in documents.iter().enumerate().filter(|(_, document)| document.whole) {
            reader.document(&document.root, at + 1, &options.namespace);
        }
    }
    let mut first = HashMap::new();
    let mut repeated = Vec::new();
    for policy in &reader.policies {
        let name = (&policy.namespace, &policy.name);
        let known = first.entry(name).or_insert(&policy.span);
        if *known != &policy.span {
            repeated.push(Finding {
                code: code::REPEATED,
                severity: Severity::Error,
                message: format!(
                    "the AuthorizationPolicy {}/{} stands here a second time",
                    policy.namespace, policy.name
                ),
                hint: format!("the first is at {known}; only one of them can be in force: give the one that is"),
                span: Some(policy.span.clone()),
            });
        }
    }
    let mut findings = std::mem::take(&mut reader.findings.0);
    findings.extend(repeated);
    if findings.is_empty() { Ok(reader) } else { Err(findings) }
}

/// What was assumed about names, if there is anything to assume about.
fn assumptions(world: &World<'_>) -> Option<String> {
    let renamed: BTreeMap<_, _> = world.options.renamed.iter().collect();
    let others = if renamed.is_empty() { "" } else { ", but for what --rename says" };
    Some(format!("a service account, and a workload's label, is taken for the service of that name{others}"))
}

/// `name.cedar`, or with a number where that is taken.
fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}.cedar"));
    let mut names = std::iter::once(format!("{name}.cedar")).chain(numbered);
    let free = names.find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(free.clone());
    free
}
