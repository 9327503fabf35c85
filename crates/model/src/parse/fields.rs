//! Reads the fields of a mapping by hand, so that every mistake is found with its place: unknown fields (and what was probably
//! meant), fields that this version does not do yet, missing fields, wrong types and repeated keys.

use super::report::Report;
use super::suggest;
use super::yaml::{Node, Value};
use crate::code;
use crate::finding::Span;

/// Which fields a mapping has.
pub(super) struct Shape {
    /// What a reader calls it, like `a Service`.
    pub(super) what: &'static str,
    /// Its fields.
    pub(super) fields: &'static [&'static str],
    /// Fields that the design knows and this version refuses, rather than ignoring them.
    pub(super) later: &'static [&'static str],
}

impl Shape {
    /// The fields of `node`, reporting those that should not be there. `None` if it is no mapping.
    pub(super) fn read<'a>(&self, node: &'a Node, report: &mut Report) -> Option<Fields<'a>> {
        let entries = entries(node, self.what, report)?;
        for entry in &entries {
            let key = entry.key;
            if self.fields.contains(&key) {
                continue;
            }
            if self.later.contains(&key) {
                not_yet(&format!("`{key}` of {}", self.what), entry.key_span, report);
            } else {
                let all = || format!("its fields are {}", suggest::listed(self.fields.iter().copied(), "none"));
                let hint = suggest::hint(key, self.fields.iter().chain(self.later).copied(), all);
                let message = format!("`{key}` is not a field of {}", self.what);
                report.error(code::UNKNOWN_FIELD, entry.key_span, message, hint);
            }
        }
        Some(Fields { what: self.what, span: &node.span, entries })
    }
}

/// Refuses what the design knows and this version does not do.
pub(super) fn not_yet(what: &str, span: &Span, report: &mut Report) {
    let hint = "remove it: it is refused rather than ignored, so that nobody relies on what does not happen";
    report.error(code::NOT_YET, span, format!("{what} is not supported yet"), hint);
}

/// The fields of one mapping.
pub(super) struct Fields<'a> {
    what: &'static str,
    /// Where the mapping starts.
    pub(super) span: &'a Span,
    entries: Vec<Field<'a>>,
}

impl<'a> Fields<'a> {
    /// A field that may be left out; one that is there without a value counts as left out.
    pub(super) fn optional(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        (!matches!(entry.node.value, Value::Null)).then_some(*entry)
    }

    /// A field that must be there; `example` goes into the hint.
    pub(super) fn required(&self, key: &str, example: &str, report: &mut Report) -> Option<Field<'a>> {
        let found = self.optional(key);
        if found.is_none() {
            let empty = self.entries.iter().find(|entry| entry.key == key);
            let span = empty.map_or(self.span, |entry| entry.key_span);
            let what = if empty.is_some() { "has no value in" } else { "is missing from" };
            report.error(
                code::MISSING_FIELD,
                span,
                format!("`{key}` {what} {}", self.what),
                format!("write `{key}: {example}`"),
            );
        }
        found
    }
}

/// One key and its value, or one item of a list under the list's key.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    /// The key.
    pub(super) key: &'a str,
    /// Where the key stands.
    pub(super) key_span: &'a Span,
    /// The value.
    pub(super) node: &'a Node,
}

impl<'a> Field<'a> {
    /// Where the value stands.
    pub(super) fn span(&self) -> &'a Span {
        &self.node.span
    }

    fn wrong_type(&self, expected: &str, report: &mut Report) {
        let message = format!("`{}` must be {expected}, and here is {}", self.key, self.node.noun());
        let hint = match (&self.node.value, expected) {
            (Value::Scalar { text, .. }, "a list") if text.len() <= 60 => format!("write `{}: [{text}]`", self.key),
            (Value::Null, _) => "give it a value or leave it out".to_owned(),
            _ => format!("write {expected}"),
        };
        report.error(code::WRONG_TYPE, &self.node.span, message, hint);
    }

    /// The text of the value.
    pub(super) fn text(&self, report: &mut Report) -> Option<&'a str> {
        let text = self.node.as_text();
        if text.is_none() {
            self.wrong_type("text", report);
        }
        text
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, from: u64, to: u64, report: &mut Report) -> Option<u64> {
        let Value::Scalar { text, quoted } = &self.node.value else {
            self.wrong_type("a number", report);
            return None;
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if *quoted && digits {
            let hint = format!("write {text} without quotes");
            report.error(
                code::WRONG_TYPE,
                self.span(),
                format!("`{}` must be a number, and here is text", self.key),
                hint,
            );
            return None;
        }
        match text.parse::<u64>() {
            Ok(number) if digits && (from..=to).contains(&number) => Some(number),
            _ => {
                let message =
                    format!("`{}` must be a whole number from {from} to {to}, not `{}`", self.key, short(text));
                report.error(code::BAD_VALUE, self.span(), message, format!("write a number from {from} to {to}"));
                None
            }
        }
    }

    /// The items of a list, each as a field of the same key.
    pub(super) fn items(&self, report: &mut Report) -> Option<impl Iterator<Item = Field<'a>> + use<'a>> {
        let Value::List(items) = &self.node.value else {
            self.wrong_type("a list", report);
            return None;
        };
        let (key, key_span) = (self.key, self.key_span);
        Some(items.iter().map(move |node| Field { key, key_span, node }))
    }

    /// Warns of a list without entries; `does` is what the document then does not do.
    pub(super) fn warn_if_empty(&self, does: &str, report: &mut Report) {
        if matches!(&self.node.value, Value::List(items) if items.is_empty()) {
            let message = format!("`{}` is empty: {does}", self.key);
            report.warning(code::EMPTY_LIST, self.span(), message, "fill it in, or remove the document");
        }
    }

    /// The entries of a mapping whose keys the writer chose.
    pub(super) fn entries(&self, report: &mut Report) -> Option<Vec<Field<'a>>> {
        if !matches!(self.node.value, Value::Map(_)) {
            self.wrong_type("a mapping", report);
            return None;
        }
        entries(self.node, self.key, report)
    }

    /// One of a few words. Words of `later` are refused as not supported yet.
    pub(super) fn choice<T: Copy>(
        &self,
        words: &[(&'static str, T)],
        later: &[&'static str],
        report: &mut Report,
    ) -> Option<T> {
        let text = self.text(report)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if later.contains(&text) {
            not_yet(&format!("`{}: {text}`", self.key), self.span(), report);
            return None;
        }
        let known = || words.iter().map(|(word, _)| *word);
        let hint = suggest::hint(text, known(), || format!("write {}", suggest::either(known(), "nothing")));
        let message = format!("`{}` cannot be `{}`", self.key, short(text));
        report.error(code::BAD_VALUE, self.span(), message, hint);
        None
    }
}

/// The entries of a mapping: keys are text and stand once.
fn entries<'a>(node: &'a Node, what: &str, report: &mut Report) -> Option<Vec<Field<'a>>> {
    let Value::Map(map) = &node.value else {
        let message = format!("{what} must be a mapping, and here is {}", node.noun());
        report.error(code::WRONG_TYPE, &node.span, message, "write `key: value` lines, or {key: value}");
        return None;
    };
    let mut entries: Vec<Field<'a>> = Vec::with_capacity(map.len());
    let mut seen = std::collections::HashMap::with_capacity(map.len());
    for (key, value) in map {
        let Some(text) = key.as_text() else {
            let message = format!("a key must be text, and here is {}", key.noun());
            report.error(code::YAML_FEATURE, &key.span, message, "write `key: value`");
            continue;
        };
        if text == "<<" {
            let hint = "write the fields out: YAML 1.2 has no merge keys";
            report.error(code::YAML_FEATURE, &key.span, "the merge key `<<` is not supported", hint);
            continue;
        }
        if let Some(first) = seen.insert(text, &key.span) {
            seen.insert(text, first);
            let message = format!("`{}` stands here a second time", short(text));
            report.error(code::DUPLICATE_KEY, &key.span, message, format!("the first is at {first}; keep one"));
            continue;
        }
        entries.push(Field { key: text, key_span: &key.span, node: value });
    }
    Some(entries)
}

/// A value for a message, cut if it is long.
pub(super) fn short(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown = String::new();
    for c in text.chars().take(SHOWN) {
        // Control and direction characters could make a terminal show something else.
        if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
        {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    if text.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}
