//! Files to intent: every mistake of a commit at once, each with its file, line, column and a hint.
//!
//! Three steps, top to bottom: YAML to trees that know their places (`yaml`), the names that the documents declare
//! (`declared`), then each document field by field (`mesh`, `service`, `role`, `operator`, `federation`, `test`, `local`) with those names at hand. Nothing
//! is ignored silently: what is not understood is a finding.

mod access;
mod attest;
mod authorization;
mod declared;
mod federation;
mod fields;
mod inputs;
mod local;
mod mesh;
mod nodes;
mod operator;
mod report;
mod role;
mod route;
mod service;
mod shadow;
mod suggest;
mod svid;
mod test;
#[cfg(test)]
mod tests;
mod values;
pub mod yaml;

use std::collections::BTreeMap;

pub use crate::source::{Content, SourceFile};

use crate::code;
use crate::finding::{Finding, Severity, Span};
use crate::intent::{Intent, PolicyFile};
use crate::source::{MAX_FILE_BYTES, MAX_FILES, is_cedar, is_yaml};
use declared::{Declared, Kind, Read};
use report::Report;

/// Most bytes of all files together.
const MAX_TOTAL_BYTES: usize = 64 << 20;

/// The intent of these files, if nothing in them is an error, and all that is to be said about them, sorted by place.
///
/// `.cedar` files are carried as text; the policy crate checks them.
pub fn parse(files: &[SourceFile]) -> (Option<Intent>, Vec<Finding>) {
    let Draft { intent, findings } = draft(files);
    let sound = findings.iter().all(|finding| finding.severity != Severity::Error);
    (intent.filter(|_| sound), findings)
}

/// An intent that further checks can look at even though it may have errors, so that they report theirs together with
/// those of the parser. Never apply it: what could not be read is simply not in it.
#[derive(Debug)]
pub struct Draft {
    /// What could be read; `None` without a readable `Mesh` document.
    pub intent: Option<Intent>,
    /// Everything found, sorted by place.
    pub findings: Vec<Finding>,
}

/// As [`parse`], but with what could be read when there are errors.
pub fn draft(files: &[SourceFile]) -> Draft {
    let mut report = Report::default();
    let mut files: Vec<&SourceFile> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if files.len() > MAX_FILES {
        report.nowhere(code::LIMIT, format!("more than {MAX_FILES} intent files"), "keep other files elsewhere");
        files.truncate(MAX_FILES);
    }

    let mut documents = Vec::new();
    let mut policies = Vec::new();
    let mut bytes = 0;
    for file in files {
        let Some(text) = text_of(file, &mut report) else { continue };
        bytes += text.len();
        if bytes > MAX_TOTAL_BYTES {
            let message = format!("the intent files are larger than {} MiB together", MAX_TOTAL_BYTES >> 20);
            report.nowhere(code::LIMIT, message, "keep other files elsewhere");
            break;
        }
        if is_yaml(&file.path) {
            documents.extend(yaml::documents(&file.path, text, &mut report));
        } else if is_cedar(&file.path) {
            policies.push(PolicyFile { path: file.path.clone(), text: text.into() });
        }
    }

    let reads: Vec<Read<'_>> = documents.iter().filter_map(|d| declared::kind_of(d, &mut report)).collect();
    let declared = Declared::collect(&reads, &mut report);
    let intent = read_all(&reads, &declared, policies, &mut report);
    Draft { intent, findings: report.finish() }
}

/// Every document, field by field.
fn read_all(reads: &[Read<'_>], declared: &Declared, policies: Vec<PolicyFile>, report: &mut Report) -> Option<Intent> {
    let (mut mesh, mut services, mut roles) = (None, BTreeMap::new(), BTreeMap::new());
    let (mut operators, mut trust_domains) = (BTreeMap::new(), BTreeMap::new());
    let (mut tests, mut local) = (Vec::new(), Vec::new());
    for read in reads {
        let root = &read.document.root;
        match read.kind {
            // A broken document is not walked: what it lacks may stand after the error. Its name still counts.
            Kind::Service if !read.document.whole => {
                if let Some(name) = declared::service_name(root) {
                    services.entry(name.clone()).or_insert_with(|| service::nameless(name, root.span.clone()));
                }
            }
            _ if !read.document.whole => {}
            Kind::Mesh => {
                let read = mesh::read(root, declared, report);
                mesh = mesh.or(read);
            }
            Kind::Service => {
                if let Some(service) = service::read(root, declared, report) {
                    services.entry(service.name.clone()).or_insert(service);
                }
            }
            Kind::Role => {
                if let Some(role) = role::read(root, declared, report) {
                    roles.entry(role.name.clone()).or_insert(role);
                }
            }
            Kind::Operator => {
                if let Some(operator) = operator::read(root, report) {
                    operators.entry(operator.name.clone()).or_insert(operator);
                }
            }
            Kind::TrustDomain => {
                if let Some(domain) = federation::read(root, declared, report) {
                    trust_domains.entry(domain.name.clone()).or_insert(domain);
                }
            }
            Kind::Test => tests.extend(test::read(root, declared, report)),
            Kind::Local => local.extend(local::read(root, declared, report)),
        }
    }
    role::untie(&mut roles, report);
    federation::distinct_hosts(&trust_domains, report);
    federation::without_rings(&trust_domains, report);
    Some(Intent { mesh: mesh?, services, roles, trust_domains, operators, policies, tests, local })
}

/// The text of a file, or the finding that says why there is none.
fn text_of<'a>(file: &'a SourceFile, report: &mut Report) -> Option<&'a str> {
    let mut span = Span { file: file.path.clone(), line: 1, column: 1 };
    let (code, message, hint) = match &file.content {
        Content::Bytes(bytes) if bytes.len() as u64 > MAX_FILE_BYTES => too_large(bytes.len() as u64),
        Content::TooLarge(bytes) => too_large(*bytes),
        Content::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => return Some(text),
            Err(error) => {
                let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                span.line = 1 + before.matches('\n').count() as u32;
                span.column = 1 + before.rsplit('\n').next().map_or(0, |line| line.chars().count()) as u32;
                let message = format!("byte {} of the file is not UTF-8", error.valid_up_to() + 1);
                (code::UNREADABLE, message, "save the file as UTF-8")
            }
        },
        Content::Symlink => (
            code::UNREADABLE,
            "this is a symbolic link, and links are not followed".to_owned(),
            "commit the file itself: a link could lead out of the repository",
        ),
        Content::Submodule => (
            code::UNREADABLE,
            "this is a submodule, and submodules are not read".to_owned(),
            "commit the files themselves: a commit must say all that it means",
        ),
        Content::Unreadable(why) => {
            (code::UNREADABLE, format!("the file cannot be read: {why}"), "repair the repository or the permissions")
        }
    };
    report.error(code, &span, message, hint);
    None
}

fn too_large(bytes: u64) -> (&'static str, String, &'static str) {
    let message = format!("the file has {bytes} bytes, more than {MAX_FILE_BYTES}");
    (code::LIMIT, message, "split the file; documents may be spread over files as you like")
}
