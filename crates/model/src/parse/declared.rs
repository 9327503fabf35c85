//! What the documents declare: kinds and names, gathered before any document is read, so that references can be checked
//! at the place where they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fields::{not_yet, short};
use super::report::Report;
use super::suggest;
use super::yaml::{Document, Node, Value};
use crate::code;
use crate::finding::Span;
use crate::id::{ServiceName, SpiffeId, TrustDomain, is_dns_label};

/// Kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Mesh,
    Service,
    Role,
    Operator,
    TrustDomain,
    Test,
    Local,
}

const KINDS: [(&str, Kind); 7] = [
    ("Mesh", Kind::Mesh),
    ("Service", Kind::Service),
    ("Role", Kind::Role),
    ("Operator", Kind::Operator),
    ("TrustDomain", Kind::TrustDomain),
    ("Test", Kind::Test),
    ("Local", Kind::Local),
];

/// Kinds that the design knows and this version refuses.
const LATER: [&str; 7] =
    ["ExternalService", "Gateway", "SecretEngine", "TokenClient", "Cluster", "HTTPRoute", "GRPCRoute"];

/// A document and its kind.
pub(super) struct Read<'a> {
    pub(super) kind: Kind,
    pub(super) document: &'a Document,
}

/// The kind of a document; reports those that have none.
pub(super) fn kind_of<'a>(document: &'a Document, report: &mut Report) -> Option<Read<'a>> {
    let root = &document.root;
    let all = || format!("write {}", suggest::either(KINDS.map(|(word, _)| word), "none"));
    if !matches!(root.value, Value::Map(_)) {
        if document.whole {
            let message = format!("a document must be a mapping with a `kind`, and here is {}", root.noun());
            report.error(code::KIND, &root.span, message, all());
        }
        return None;
    }
    let Some(kind) = root.get("kind").filter(|kind| !matches!(kind.value, Value::Null)) else {
        // The kind of a broken document may stand after the error.
        if document.whole {
            report.error(code::KIND, &root.span, "the document has no `kind`", all());
        }
        return None;
    };
    let Some(word) = kind.as_text() else {
        report.error(code::KIND, &kind.span, format!("`kind` must be text, and here is {}", kind.noun()), all());
        return None;
    };
    if LATER.contains(&word) {
        not_yet(&format!("`kind: {word}`"), &kind.span, report);
        return None;
    }
    if root.get("apiVersion").is_some() {
        let hint = "the mesh has its own kinds, without apiVersion; keep Kubernetes documents out of this repository";
        report.error(code::KIND, &root.span, format!("this is a Kubernetes document (`{}`)", short(word)), hint);
        return None;
    }
    if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == word) {
        return Some(Read { kind: *kind, document });
    }
    let hint = suggest::hint(word, KINDS.iter().map(|(known, _)| *known).chain(LATER), all);
    report.error(code::KIND, &kind.span, format!("there is no kind `{}`", short(word)), hint);
    None
}

/// The names that all documents declare together.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// Services and where their documents start.
    pub(super) services: BTreeMap<ServiceName, Span>,
    /// Namespaces of those.
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// Roles and where their documents start.
    pub(super) roles: BTreeMap<Arc<str>, Span>,
    /// Operators and where their documents start.
    operators: BTreeMap<Arc<str>, Span>,
    /// Other trust domains and where their documents start.
    pub(super) trust_domains: BTreeMap<TrustDomain, Span>,
    /// `Mesh.trustDomain`, where it can be read.
    pub(super) own_domain: Option<TrustDomain>,
    /// `Mesh.attributes`; `None` when there is no readable `Mesh`, and then attributes are not checked.
    pub(super) attributes: Option<BTreeMap<Arc<str>, Vec<Arc<str>>>>,
    /// Documents that end in a syntax error: what they declare may be unknown.
    broken: Vec<Span>,
}

impl Declared {
    /// Gathers the names; reports names that are declared twice and a missing `Mesh`.
    pub(super) fn collect(reads: &[Read<'_>], report: &mut Report) -> Self {
        let mut declared = Self::default();
        let mut mesh: Option<&Read<'_>> = None;
        for read in reads {
            let root = &read.document.root;
            if !read.document.whole {
                declared.broken.push(root.span.clone());
            }
            match read.kind {
                Kind::Mesh => match mesh {
                    None => mesh = Some(read),
                    Some(first) => {
                        let hint = format!(
                            "the first is at {}; merge them: all of a repository is one mesh",
                            first.document.root.span
                        );
                        report.error(code::SECOND_MESH, &root.span, "this is a second `Mesh` document", hint);
                    }
                },
                Kind::Service => {
                    let Some(name) = service_name(root) else { continue };
                    declared.namespaces.insert(name.namespace().into());
                    if let Some(first) = declared.services.get(&name) {
                        let hint = format!("the first is at {first}; merge the two or rename one");
                        let message = format!("the service {name} is declared a second time");
                        report.error(code::DUPLICATE_SERVICE, &root.span, message, hint);
                    } else {
                        declared.services.insert(name, root.span.clone());
                    }
                }
                Kind::Role => {
                    let Some(name) = label(root, "name") else { continue };
                    if let Some(first) = declared.roles.get(name) {
                        let hint = format!("the first is at {first}; merge the two or rename one");
                        report.error(
                            code::DUPLICATE_ROLE,
                            &root.span,
                            format!("the role {name} is declared a second time"),
                            hint,
                        );
                    } else {
                        declared.roles.insert(name.into(), root.span.clone());
                    }
                }
                Kind::Operator => {
                    let Some(name) = label(root, "name") else { continue };
                    if let Some(first) = declared.operators.get(name) {
                        let hint = format!("the first is at {first}; merge the two or rename one");
                        let message = format!("the operator {name} is declared a second time");
                        report.error(code::DUPLICATE_OPERATOR, &root.span, message, hint);
                    } else {
                        declared.operators.insert(name.into(), root.span.clone());
                    }
                }
                Kind::TrustDomain => {
                    let Some(name) = trust_domain(root, "name") else { continue };
                    if let Some(first) = declared.trust_domains.get(&name) {
                        let hint = format!("the first is at {first}; merge the two or remove one");
                        let message = format!("the trust domain {name} is declared a second time");
                        report.error(code::DUPLICATE_TRUST_DOMAIN, &root.span, message, hint);
                    } else {
                        declared.trust_domains.insert(name, root.span.clone());
                    }
                }
                Kind::Test | Kind::Local => {}
            }
        }
        declared.own_domain = mesh.and_then(|mesh| trust_domain(&mesh.document.root, "trustDomain"));
        match mesh {
            Some(mesh) if mesh.document.whole => declared.attributes = Some(attribute_names(&mesh.document.root)),
            Some(_) => {}
            None => {
                let hint = match declared.broken.first() {
                    Some(broken) => format!("it may be in the document at {broken}, which could not be read"),
                    None => "add a file mesh.yaml with `kind: Mesh`, `name: acme` and `trustDomain: acme.internal`"
                        .to_owned(),
                };
                report.nowhere(code::NO_MESH, "there is no `Mesh` document", hint);
            }
        }
        declared
    }

    /// Reports a service that no document declares. True if it is known.
    pub(super) fn check_service(&self, name: &ServiceName, span: &Span, report: &mut Report) -> bool {
        let known = self.services.contains_key(name);
        if !known {
            let hint = suggest::hint(name.as_str(), self.services.keys().map(ServiceName::as_str), || {
                self.or_broken(format!(
                    "declare it with `kind: Service`, `namespace: {}`, `name: {}`",
                    name.namespace(),
                    name.name()
                ))
            });
            report.error(code::UNKNOWN_SERVICE, span, format!("there is no service {name}"), hint);
        }
        known
    }

    /// Reports a namespace that has no service. True if it is known.
    pub(super) fn check_namespace(&self, namespace: &str, span: &Span, report: &mut Report) -> bool {
        let known = self.namespaces.contains(namespace);
        if !known {
            let names = || self.namespaces.iter().map(AsRef::as_ref);
            let hint = suggest::hint(namespace, names(), || {
                self.or_broken(format!("the namespaces are {}", suggest::listed(names(), "none")))
            });
            report.error(code::UNKNOWN_SERVICE, span, format!("no service is in the namespace {namespace}"), hint);
        }
        known
    }

    /// Reports a role that no document declares. True if it is known.
    pub(super) fn check_role(&self, role: &str, span: &Span, report: &mut Report) -> bool {
        let known = self.roles.contains_key(role);
        if !known {
            let names = || self.roles.keys().map(AsRef::as_ref);
            let hint = suggest::hint(role, names(), || {
                self.or_broken(format!(
                    "declare it with `kind: Role`, `name: {}`; the roles are {}",
                    short(role),
                    suggest::listed(names(), "none")
                ))
            });
            report.error(code::UNKNOWN_ROLE, span, format!("there is no role {}", short(role)), hint);
        }
        known
    }

    /// Reports an identity of a trust domain that no document declares. True if it is known.
    pub(super) fn check_foreign(&self, id: &SpiffeId, span: &Span, report: &mut Report) -> bool {
        let domain = id.trust_domain();
        let known = self.trust_domains.contains_key(&domain);
        if !known {
            let names = || self.trust_domains.keys().map(TrustDomain::as_str);
            let hint = suggest::hint(domain.as_str(), names(), || {
                self.or_broken(format!("declare it with `kind: TrustDomain`, `name: {domain}`"))
            });
            report.error(code::UNKNOWN_TRUST_DOMAIN, span, format!("there is no trust domain {domain} here"), hint);
        }
        known
    }

    fn or_broken(&self, hint: String) -> String {
        match self.broken.first() {
            Some(broken) => format!("{hint}; it may be in the document at {broken}, which could not be read"),
            None => hint,
        }
    }
}

/// The name of a `Service` document, if it is legal; no findings.
pub(super) fn service_name(root: &Node) -> Option<ServiceName> {
    ServiceName::new(label(root, "namespace")?, label(root, "name")?).ok()
}

fn trust_domain(root: &Node, key: &str) -> Option<TrustDomain> {
    root.get(key).and_then(Node::as_text)?.parse().ok()
}

fn label<'a>(root: &'a Node, key: &str) -> Option<&'a str> {
    root.get(key).and_then(Node::as_text).filter(|text| is_dns_label(text))
}

/// The declared attributes without findings, for documents that refer to them.
fn attribute_names(root: &Node) -> BTreeMap<Arc<str>, Vec<Arc<str>>> {
    let Some(Value::Map(entries)) = root.get("attributes").map(|node| &node.value) else { return BTreeMap::new() };
    let mut names = BTreeMap::new();
    for (key, values) in entries {
        let (Some(key), Value::List(values)) = (key.as_text(), &values.value) else { continue };
        names.insert(key.into(), values.iter().filter_map(Node::as_text).map(Into::into).collect());
    }
    names
}
