//! Fields of Kubernetes YAML, read by hand: what Kubernetes would refuse for its shape is a finding with its place.

use std::sync::Arc;

use weft_model::parse::yaml::{Node, Value};
use weft_model::{Finding, Severity, Span, code};

use super::policy::Text;
use crate::report::short;

/// What is wrong so far.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    /// The fields of a mapping that have a value; nothing, if nothing is there.
    pub(super) fn map<'a>(&mut self, node: Option<&'a Node>, what: &str) -> Vec<(&'a str, &'a Span, &'a Node)> {
        let Some(node) = node else { return Vec::new() };
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => return Vec::new(),
            _ => {
                self.wrong_type(node, what, "a mapping");
                return Vec::new();
            }
        };
        let mut fields: Vec<(&str, &Span, &Node)> = Vec::new();
        for (key, value) in entries {
            let Some(name) = key.as_text() else {
                self.error(code::YAML_FEATURE, &key.span, "a key must be text", "write `key: value`");
                continue;
            };
            if name == "<<" {
                let hint = "write the fields out, or give what `kubectl get -o yaml` prints";
                self.error(code::YAML_FEATURE, &key.span, "the merge key `<<` is not supported", hint);
            } else if fields.iter().any(|(known, ..)| *known == name) {
                let message = format!("`{}` stands here a second time", short(name));
                self.error(code::DUPLICATE_KEY, &key.span, message, "keep one");
            } else if !matches!(value.value, Value::Null) {
                fields.push((name, &key.span, value));
            }
        }
        fields
    }

    /// The items of a list.
    pub(super) fn list<'a>(&mut self, node: &'a Node, what: &str) -> Vec<&'a Node> {
        match &node.value {
            Value::List(items) => items.iter().collect(),
            _ => {
                self.wrong_type(node, what, "a list");
                Vec::new()
            }
        }
    }

    /// A scalar.
    pub(super) fn text(&mut self, node: &Node, what: &str) -> Option<Text> {
        let text = node.as_text();
        if text.is_none() {
            self.wrong_type(node, what, "text");
        }
        text.map(|text| Text { text: Arc::from(text), span: node.span.clone() })
    }

    fn wrong_type(&mut self, node: &Node, what: &str, expected: &str) {
        let message = format!("`{what}` must be {expected}, and here is {}", node.noun());
        self.error(code::WRONG_TYPE, &node.span, message, format!("write {expected}: Kubernetes refuses this"));
    }

    pub(super) fn error(
        &mut self,
        code: &'static str,
        span: &Span,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (message, hint) = (message.into(), hint.into());
        self.0.push(Finding { code, severity: Severity::Error, message, hint, span: Some(span.clone()) });
    }
}
