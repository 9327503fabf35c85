//! A change, from a commit to what proxies are sent: read -> check -> compile -> publish. A bad commit stops here.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use weft_compile::CompiledMesh;
use weft_model::source::SourceFile;
use weft_model::{Finding, Severity, Span};

use crate::check::{Look, check, render};
use crate::git::Observed;
use crate::hub::Hub;
use crate::saved::{AGAIN, GoodCommit, Saved};
use crate::status::FindingStatus;
use crate::text::{millis, short};

/// The trust domain cannot change under identities that are issued.
const TRUST_DOMAIN_CHANGED: &str = "WEFT0301";

/// What became of a commit.
struct Judged {
    /// Ready to be published, or `None` for a bad commit.
    mesh: Option<CompiledMesh>,
    findings: Vec<Finding>,
}

/// Follows the repository until it is gone: applies good commits, reports bad ones.
pub(crate) async fn follow(hub: Arc<Hub>, mut observed: watch::Receiver<Observed>, saved: Saved) {
    let mut unsaved = None;
    let mut last = hub.state().mesh.as_ref().map(|mesh| mesh.revision().to_string());
    loop {
        let Observed { commit, error } = observed.borrow_and_update().clone();
        hub.state().git_error = error.map(|error| error.to_string());
        if let Some(commit) = commit.filter(|commit| last.as_deref() != Some(commit.id.as_str())) {
            last = Some(commit.id.to_string());
            let good = apply(&hub, commit.id.as_str(), &commit.subject, commit.files.clone()).await;
            if good {
                let commit = GoodCommit::new(commit.id.as_str(), &commit.subject, &commit.files);
                if let Err(error) = saved.save_commit(&commit) {
                    tracing::warn!(%error, "the commit was not saved, and is tried again; a restart would begin with an older one");
                    unsaved = Some(commit);
                } else {
                    unsaved = None;
                }
            }
        }
        let gone = match &unsaved {
            None => observed.changed().await.is_err(),
            Some(commit) => match tokio::time::timeout(AGAIN, observed.changed()).await {
                Ok(changed) => changed.is_err(),
                Err(_) => {
                    if saved.save_commit(commit).is_ok() {
                        tracing::info!(commit = short(&commit.commit), "the commit is saved");
                        unsaved = None;
                    }
                    false
                }
            },
        };
        if gone {
            return;
        }
    }
}

/// Judges a commit and publishes it, or reports it. Returns whether it was good.
pub(crate) async fn apply(hub: &Arc<Hub>, commit: &str, subject: &str, files: Vec<SourceFile>) -> bool {
    let started = Instant::now();
    let serving = hub.state().mesh.clone();
    let revision = commit.to_owned();
    // Checking a large repository takes a while, and streams must not wait for it.
    let work = move || {
        let judged = judge(&revision, &files, serving.as_deref());
        (judged, files)
    };
    let Ok((Judged { mesh, findings }, files)) = tokio::task::spawn_blocking(work).await else {
        tracing::error!(commit = short(commit), "the check of the commit broke down; the mesh stays as it is");
        return false;
    };
    let (took, shown) = (started.elapsed(), findings.iter().map(FindingStatus::from).collect());
    match mesh {
        Some(mesh) => {
            if !findings.is_empty() {
                tracing::warn!(
                    commit = short(commit),
                    "the commit has warnings\n{}",
                    render(&findings, &files, Look::default())
                );
            }
            tracing::info!(commit = short(commit), subject, took_ms = millis(took), "the commit is good; publishing");
            hub.commit(mesh, subject.to_owned(), took, shown);
            true
        }
        None => {
            tracing::error!(
                commit = short(commit),
                subject,
                "the commit is refused; the mesh stays as it is\n{}",
                render(&findings, &files, Look::default())
            );
            hub.refuse(commit, subject.to_owned(), took, shown);
            false
        }
    }
}

fn judge(revision: &str, files: &[SourceFile], serving: Option<&CompiledMesh>) -> Judged {
    let checked = check(files);
    let mut findings = checked.findings;
    let Some(intent) = checked.intent else { return Judged { mesh: None, findings } };
    if let Some(before) = serving.map(|mesh| &mesh.intent().mesh.trust_domain)
        && *before != intent.mesh.trust_domain
    {
        findings.push(Finding {
            code: TRUST_DOMAIN_CHANGED,
            severity: Severity::Error,
            message: format!("trustDomain changes from {before} to {}", intent.mesh.trust_domain),
            hint: format!(
                "every issued identity is in {before}: put it back, or start a new mesh with its own state folder"
            ),
            span: Some(place_of(files, &intent.mesh.span, "trustDomain")),
        });
        return Judged { mesh: None, findings };
    }
    match weft_policy::compile(&intent, revision) {
        Ok(policy) => Judged { mesh: Some(CompiledMesh::new(Arc::new(intent), Arc::new(policy), revision)), findings },
        Err(more) => {
            findings.extend(more);
            Judged { mesh: None, findings }
        }
    }
}

/// Where a document that starts at `start` has the field; its start if that cannot be told.
fn place_of(files: &[SourceFile], start: &Span, field: &str) -> Span {
    let text = files.iter().find(|file| file.path == start.file).and_then(SourceFile::text).unwrap_or_default();
    let lines = text.lines().enumerate().skip(start.line.saturating_sub(1) as usize);
    let mut found = lines.filter(|(_, line)| !line.trim_start().starts_with('#')).filter_map(|(number, line)| {
        let column = line[..line.find(field)?].chars().count() + 1;
        Some(Span { file: start.file.clone(), line: number as u32 + 1, column: column as u32 })
    });
    found.next().unwrap_or_else(|| start.clone())
}
