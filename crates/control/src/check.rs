//! One answer to "is this commit good?", for the control plane before it applies a commit and for `weft check` before one
//! is made: the same code, so the two never disagree.

use std::sync::Arc;

use weft_identity::Document;
use weft_model::finding::{Finding, Severity};
use weft_model::intent::{ForeignDomain, Intent, NodeEntry, Profile};
use weft_model::parse;
use weft_model::source::SourceFile;

use crate::routes;

pub use weft_model::render::{Look, render, summary, to_json};

/// What became of the files of a commit.
#[derive(Debug)]
pub struct Checked {
    /// The intent; `None` if there is any error, and then nothing of the commit may be applied.
    pub intent: Option<Intent>,
    /// All findings, sorted by place; warnings also stand beside an intent.
    pub findings: Vec<Finding>,
}

/// Parses the files and validates every policy. All errors are found together: a mistake in a YAML document does not hide
/// one in a Cedar policy.
pub fn check(files: &[SourceFile]) -> Checked {
    let parse::Draft { intent, mut findings } = parse::draft(files);
    if let Some(draft) = &intent {
        findings.extend(weft_policy::check(draft));
        findings.extend(draft.trust_domains.values().filter_map(first_bundle));
        findings.extend(draft.mesh.identity.nodes.iter().filter_map(node));
    }
    if let Some(intent) = &intent
        && findings.iter().all(|finding| finding.severity != Severity::Error)
    {
        findings.extend(failed_tests(intent));
    }
    findings.sort_by_cached_key(|finding| (finding.span.is_none(), finding.span.clone(), finding.code));
    findings.dedup();
    let sound = findings.iter().all(|finding| finding.severity != Severity::Error);
    Checked { intent: intent.filter(|_| sound), findings }
}

/// What is wrong with the bundle that a federation begins with.
fn first_bundle(domain: &ForeignDomain) -> Option<Finding> {
    let Profile::Spiffe { bundle: Some(bundle), span, .. } = &domain.profile else { return None };
    let read = Document::read(&domain.name, bundle.as_bytes());
    let problem = match read {
        Ok(document) if document.bundle.roots().is_empty() => "it has no certificate".to_owned(),
        Ok(_) => return None,
        Err(why) => why,
    };
    Some(Finding {
        code: weft_model::code::BAD_FEDERATION,
        severity: Severity::Error,
        message: format!("the bundle of {} cannot be used: {problem}", domain.name),
        hint: "write what `weft identity bundle` prints there, or what its bundle endpoint answers".to_owned(),
        span: Some(span.clone()),
    })
}

/// What is wrong with the certificates and keys by which machines prove who they are.
fn node(entry: &NodeEntry) -> Option<Finding> {
    let (span, message, hint) = weft_attestation::check::problem(entry)?;
    let (code, severity) = (weft_model::code::BAD_NODE, Severity::Error);
    Some(Finding { code, severity, message, hint: hint.to_owned(), span: Some(span) })
}

/// The mesh's own tests decide and route with what the same commit says, so they are run when nothing else is wrong.
fn failed_tests(intent: &Intent) -> Vec<Finding> {
    if intent.tests.is_empty() {
        return Vec::new();
    }
    let model = match weft_policy::compile(intent, "") {
        Ok(model) => Arc::new(model),
        Err(findings) => return findings,
    };
    let decisions = weft_policy::run_tests(intent, &model).into_iter().filter_map(|outcome| outcome.failure);
    let mut failed: Vec<Finding> = decisions.collect();
    failed.extend(routes::run(intent, model.clone()).into_iter().filter_map(|outcome| outcome.failure));
    failed
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use weft_policy::{CallRequest, Engine};

    use super::*;

    fn repository(name: &str) -> Vec<SourceFile> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name);
        crate::git::read_dir(&dir).expect("the folder is in this repository")
    }

    fn files(files: &[(&str, &str)]) -> Vec<SourceFile> {
        files.iter().map(|(path, text)| SourceFile::new(*path, text.as_bytes())).collect()
    }

    #[test]
    fn yaml_and_cedar_are_judged_together() {
        let files = files(&[
            (
                "mesh.yaml",
                "kind: Mesh\nname: acme\ntrustDomain: acme.internal\nattributes: {sensitivity: [low, high]}\n",
            ),
            (
                "services.yaml",
                "kind: Service\nname: web\nnamespace: prod\nport: 80\nprotocol: http\ncanary: {}\n---\nkind: Service\nname: board\n\
                 namespace: prod\nport: [80\n",
            ),
            (
                "policies/abac.cedar",
                "permit (principal == Service::\"prod/wbe\", action == Action::\"call\", resource == Service::\"prod/board\")\n\
                 when { principal has sensitivity && principal.sensitivity == \"hgih\" };\n\nforbid (principal, action, resource) when { 1 + };\n",
            ),
        ]);
        let checked = check(&files);
        assert!(checked.intent.is_none());
        insta::assert_snapshot!(render(&checked.findings, &files, Look::default()));
        assert_eq!(to_json(&checked.findings)["errors"], 4);
    }

    #[test]
    fn certificates_and_keys_of_machines_are_read_where_they_stand() {
        let node = |proof: &str| {
            let text = format!(
                "kind: Mesh\nname: acme\ntrustDomain: acme.internal\nidentity:\n  nodes:\n  - {proof}\n    agent: m1\n"
            );
            let checked = check(&files(&[("mesh.yaml", &text)]));
            assert!(checked.intent.is_none(), "{proof}");
            checked.findings
        };
        let oidc =
            |rest: &str| format!("oidc: {{issuer: https://i.example, audience: weft, claims: {{sub: x}}, {rest}}}");
        for (proof, why, hint) in [
            ("x509pop: {ca: x, match: {uri: x}}".to_owned(), "there is no certificate in it", "ca: |"),
            (oidc("ca: x"), "there is no certificate in it", "ca: |"),
            (oidc("jwks: x"), "no JWK Set", "JWK Set"),
            (oidc("jwks: '{\"keys\": []}'"), "no key of a kind", "JWK Set"),
        ] {
            let found = node(&proof);
            let [finding] = &found[..] else { panic!("{proof}: {found:?}") };
            assert_eq!(finding.code, weft_model::code::BAD_NODE, "{proof}");
            assert!(finding.message.contains(why) && finding.hint.contains(hint), "{finding:?}");
            assert_eq!(finding.span.as_ref().map(|span| span.line), Some(6), "{finding:?}");
        }
    }

    #[test]
    fn an_error_in_a_policy_stops_the_commit() {
        let sound = "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n";
        assert!(check(&files(&[("mesh.yaml", sound)])).intent.is_some());
        let checked = check(&files(&[("mesh.yaml", sound), ("x.cedar", "permit (principal, action, resource)")]));
        assert!(checked.intent.is_none() && checked.findings.len() == 1, "{:?}", checked.findings);
    }

    #[test]
    fn the_example_city_does_what_it_says() {
        let files = repository("examples/city");
        let checked = check(&files);
        assert_eq!(render(&checked.findings, &files, Look::default()), "");
        let intent = checked.intent.expect("a sound intent");
        let apps: Vec<_> = intent.local.iter().map(|app| app.service.as_str()).collect();
        assert_eq!(apps, ["prod/web", "prod/board", "prod/board", "shared/ledger"]);

        let model = weft_policy::compile(&intent, "c0ffee").expect("sound policies");
        let may = |caller: &str, callee: &str, method: &str, path: &str| {
            let caller = weft_model::SpiffeId::for_service(&intent.mesh.trust_domain, &caller.parse().expect("a name"));
            let engine = Engine::new(&model.bundle_for(&callee.parse().expect("a name"))).expect("a bundle");
            let request = CallRequest { method, path, ..weft_policy::testing::request(&caller) };
            engine.decide(&request).allowed
        };
        assert!(may("prod/web", "prod/board", "GET", "/"));
        assert!(may("prod/web", "prod/board", "POST", "/api/pins"));
        assert!(!may("prod/web", "prod/board", "DELETE", "/api/pins"));
        assert!(may("prod/board", "shared/ledger", "GET", "/entries"));
        assert!(!may("prod/board", "shared/ledger", "DELETE", "/entries"));
        assert!(!may("prod/web", "shared/ledger", "GET", "/entries"), "the forbid wins over the permit");
        assert!(!may("shared/ledger", "prod/board", "GET", "/"));
    }
}
