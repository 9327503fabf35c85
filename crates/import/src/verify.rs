//! Every file is judged as `weft check` would judge it, before anybody sees it.

use std::collections::BTreeSet;
use std::fmt::Write;

use weft_model::intent::{Intent, PolicyFile};
use weft_model::{Finding, ServiceName, Severity, SourceFile, parse};

use crate::CedarFile;
use crate::cedar::expr::{Expr, Kind};
use crate::cedar::print::{Policy, Scope};

/// What is wrong with the files: nothing, or the importer is.
pub(crate) fn check(files: &[CedarFile], policies: &[Policy], mesh: Option<&Intent>) -> Vec<Finding> {
    let Some(mut intent) = mesh.cloned().or_else(|| some_mesh(policies)) else { return Vec::new() };
    let file = |file: &CedarFile| PolicyFile { path: file.name.clone(), text: file.text.as_str().into() };
    intent.policies = files.iter().map(file).collect();
    let mut findings = weft_policy::check(&intent);
    findings.retain(|finding| finding.severity == Severity::Error);
    findings
}

/// A mesh with the services and namespaces that the policies name.
fn some_mesh(policies: &[Policy]) -> Option<Intent> {
    let mut names = BTreeSet::new();
    for policy in policies {
        for scope in [&policy.principal, &policy.resource] {
            match scope {
                Scope::Any => {}
                Scope::Service(name) => named(Kind::Service, name, &mut names),
                Scope::Namespace(name) => named(Kind::Namespace, name, &mut names),
            }
        }
        in_condition(&policy.when, &mut names);
    }
    let mut text = "kind: Mesh\nname: any\ntrustDomain: any\n".to_owned();
    for name in names {
        let (namespace, name) = (name.namespace(), name.name());
        // Legal names need no quotes but where they look like something else.
        let _ = writeln!(
            text,
            "---\nkind: Service\nname: \"{name}\"\nnamespace: \"{namespace}\"\nport: 80\nprotocol: http"
        );
    }
    let (intent, findings) = parse::parse(&[SourceFile::new("mesh.yaml", text.into_bytes())]);
    debug_assert!(intent.is_some(), "{findings:?}");
    intent
}

fn in_condition(expr: &Expr, names: &mut BTreeSet<ServiceName>) {
    match expr {
        Expr::And(items) | Expr::Or(items) => items.iter().for_each(|item| in_condition(item, names)),
        Expr::Not(inner) => in_condition(inner, names),
        Expr::In(kind, all) => all.iter().for_each(|name| named(*kind, name, names)),
        _ => {}
    }
}

fn named(kind: Kind, name: &str, names: &mut BTreeSet<ServiceName>) {
    let service = match kind {
        Kind::Service => name.parse(),
        Kind::Namespace => ServiceName::new(name, "any"),
    };
    names.extend(service);
}
