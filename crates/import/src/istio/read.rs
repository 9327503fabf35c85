//! Kubernetes YAML to policies: documents, their metadata, and what they are for. Rules are read in [`super::read_rule`].
//!
//! What Kubernetes would refuse for its shape is an error with a place. A field that is not known here is kept: it could be a newer
//! Istio's, and then the rule means less without it.

use weft_model::code;
use weft_model::parse::yaml::{Node, Value};

use super::fields::Findings;
use super::policy::{Action, Policy, Selection, TargetRef, Text};
use super::read_rule;
use crate::report::{PassedOver, short};

/// What reading collects.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) policies: Vec<Policy>,
    pub(super) passed_over: Vec<PassedOver>,
    pub(super) findings: Findings,
}

const GROUP: &str = "security.istio.io";
const KIND: &str = "AuthorizationPolicy";

impl Reader {
    /// One document; a `List` holds several. `namespace` is that of what names none.
    pub(super) fn document(&mut self, root: &Node, document: usize, namespace: &str) {
        let kind = text_of(root, "kind").unwrap_or_default().to_owned();
        let version = text_of(root, "apiVersion").unwrap_or_default();
        let is_list = kind == "List" || kind == format!("{KIND}List");
        if is_list && let Some(items) = root.get("items") {
            if let Value::List(items) = &items.value {
                items.iter().for_each(|item| self.document(item, document, namespace));
            }
            return;
        }
        if kind == KIND && version.is_empty() {
            let message = "this AuthorizationPolicy has no apiVersion";
            self.findings.error(code::MISSING_FIELD, &root.span, message, format!("write `apiVersion: {GROUP}/v1`"));
        } else if kind == KIND && version.split('/').next() == Some(GROUP) {
            if let Some(policy) = self.policy(root, document, namespace) {
                self.policies.push(policy);
            }
        } else {
            let note = match kind.as_str() {
                "RequestAuthentication" => "Weft does not verify tokens of users yet",
                "PeerAuthentication" => "between sidecars Weft always asks for mutual TLS",
                KIND => "of another API than security.istio.io",
                _ => "",
            };
            let kind = if kind.is_empty() { "document without a kind".to_owned() } else { kind };
            self.passed_over.push(PassedOver { kind, span: root.span.clone(), note });
        }
    }

    fn policy(&mut self, root: &Node, document: usize, default_namespace: &str) -> Option<Policy> {
        let before = self.findings.0.len();
        let metadata = self.findings.map(root.get("metadata"), "metadata");
        let meta = |key| metadata.iter().find(|(name, ..)| *name == key).map(|(.., node)| *node);
        let (name, namespace, annotations) = (meta("name"), meta("namespace"), meta("annotations"));
        let Some(name) = name.and_then(|name| self.findings.text(name, "metadata.name")) else {
            let message = "this AuthorizationPolicy has no name";
            self.findings.error(code::MISSING_FIELD, &root.span, message, "write `metadata: {name: …}`");
            return None;
        };
        let namespace = namespace.and_then(|namespace| self.findings.text(namespace, "metadata.namespace"));
        for (what, text) in [("name", Some(&name)), ("namespace", namespace.as_ref())] {
            if let Some(text) = text.filter(|text| !is_kubernetes_name(&text.text)) {
                let message = format!("`{}` is not a {what} of Kubernetes", short(&text.text));
                self.findings.error(code::BAD_VALUE, &text.span, message, "use small letters, digits, dashes and dots");
            }
        }
        let annotations = self.findings.map(annotations, "metadata.annotations");
        let dry_run = annotations.iter().find(|(key, ..)| *key == "istio.io/dry-run");
        let dry_run = dry_run.and_then(|(.., node)| node.as_text()).is_some_and(is_true);
        let mut policy = Policy {
            namespace: namespace.map_or_else(|| default_namespace.to_owned(), |text| text.text.to_string()),
            name: name.text.to_string(),
            action: Action::Allow,
            dry_run,
            selection: Selection::All,
            rules: Vec::new(),
            span: root.span.clone(),
            document,
            unknown: Vec::new(),
        };
        self.spec(root.get("spec"), &mut policy);
        (self.findings.0.len() == before).then_some(policy)
    }

    fn spec(&mut self, spec: Option<&Node>, policy: &mut Policy) {
        let mut selectors = Vec::new();
        for (key, key_span, node) in self.findings.map(spec, "spec") {
            match key {
                "action" => policy.action = self.action(node).unwrap_or(Action::Allow),
                "rules" => {
                    for (at, rule) in self.findings.list(node, "rules").into_iter().enumerate() {
                        let rule = read_rule::rule(&mut self.findings, rule, format!("rules[{at}]"));
                        policy.rules.extend(rule);
                    }
                }
                "selector" => {
                    selectors.push(key_span);
                    policy.selection = self.selector(node);
                }
                "targetRef" | "targetRefs" => {
                    selectors.push(key_span);
                    policy.selection = self.targets(node, key);
                }
                "provider" => {}
                _ => policy.unknown.push(read_rule::unknown(key, key_span, key.to_owned())),
            }
        }
        if let [_, second, ..] = &selectors[..] {
            let message = "an AuthorizationPolicy has one of selector and targetRefs";
            self.findings.error(code::BAD_VALUE, second, message, "keep the one that is meant: Istio refuses both");
        }
    }

    fn action(&mut self, node: &Node) -> Option<Action> {
        let text = self.findings.text(node, "action")?;
        let all = [Action::Allow, Action::Deny, Action::Audit, Action::Custom];
        let known = all.into_iter().find(|action| action.name() == &*text.text);
        if known.is_none() {
            let message = format!("`action` cannot be `{}`", short(&text.text));
            self.findings.error(code::BAD_VALUE, &text.span, message, "write ALLOW, DENY, AUDIT or CUSTOM");
        }
        known
    }

    fn selector(&mut self, node: &Node) -> Selection {
        let mut labels = Vec::new();
        for (key, span, node) in self.findings.map(Some(node), "selector") {
            if key != "matchLabels" {
                let message = format!("`{}` is not a field of a selector", short(key));
                self.findings.error(code::UNKNOWN_FIELD, span, message, "a policy's selector has only matchLabels");
                continue;
            }
            for (label, _, value) in self.findings.map(Some(node), "selector.matchLabels") {
                let empty = Text { text: "".into(), span: value.span.clone() };
                let value = match value.value {
                    Value::Null => Some(empty),
                    _ => self.findings.text(value, "selector.matchLabels"),
                };
                labels.extend(value.map(|value| (label.to_owned(), value)));
            }
        }
        if labels.is_empty() { Selection::All } else { Selection::Labels { labels, span: node.span.clone() } }
    }

    fn targets(&mut self, node: &Node, key: &str) -> Selection {
        let items = if key == "targetRef" { vec![node] } else { self.findings.list(node, key) };
        let mut targets = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            let path = if key == "targetRef" { key.to_owned() } else { format!("{key}[{at}]") };
            let mut target = TargetRef {
                kind: String::new(),
                group: String::new(),
                name: String::new(),
                path: path.clone(),
                span: item.span.clone(),
            };
            for (key, span, node) in self.findings.map(Some(item), &path) {
                let field = match key {
                    "kind" => &mut target.kind,
                    "group" => &mut target.group,
                    "name" => &mut target.name,
                    _ => {
                        let message = format!("`{}` is not a field of a target reference here", short(key));
                        self.findings.error(code::UNKNOWN_FIELD, span, message, "its fields are kind, group and name");
                        continue;
                    }
                };
                if !matches!(node.value, Value::Null) {
                    *field = self.findings.text(node, &path).map(|text| text.text.to_string()).unwrap_or_default();
                }
            }
            targets.push(target);
        }
        if targets.is_empty() { Selection::All } else { Selection::Targets(targets) }
    }
}

fn text_of<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.get(key).and_then(Node::as_text)
}

/// What Go's `strconv.ParseBool` takes for true, with which Istio reads the annotation.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// RFC 1123: a DNS subdomain, 1 to 253 characters.
fn is_kubernetes_name(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let ends = |end: Option<&u8>| end.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    text.len() <= 253 && bytes.iter().copied().all(legal) && ends(bytes.first()) && ends(bytes.last())
}
