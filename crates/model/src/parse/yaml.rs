//! YAML text to trees in which every node knows its place.
//!
//! Scalars stay the text that was written: what `8080` or `no` means is for the field that reads it to say, so there is no
//! guessing of types. A broken document does not hide the ones after it in the file. All work is bounded.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Tag};

use super::report::Report;
use crate::code;
use crate::finding::{Finding, Span};

/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 64;
/// Most nodes of one file, aliases expanded: what keeps an alias bomb from growing.
const MAX_NODES: usize = 200_000;
/// Most documents of one file.
const MAX_DOCUMENTS: usize = 20_000;

/// One `---` document.
#[derive(Debug)]
pub struct Document {
    /// Its content; of a broken document what stands before the error.
    pub root: Node,
    /// Whether it could be read to its end.
    pub whole: bool,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it holds.
    pub value: Value,
    /// Where it starts.
    pub span: Span,
    /// Nodes in it, itself included.
    size: usize,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text as written, escapes resolved.
    Scalar {
        /// The text.
        text: String,
        /// Whether it stood in quotes or as a block, and so cannot be a number.
        quoted: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order written; keys may repeat here.
    Map(Vec<(Node, Node)>),
}

impl Node {
    fn new(value: Value, span: Span) -> Self {
        let size = match &value {
            Value::Null | Value::Scalar { .. } => 1,
            Value::List(items) => 1 + items.iter().map(|n| n.size).sum::<usize>(),
            Value::Map(entries) => 1 + entries.iter().map(|(k, v)| k.size + v.size).sum::<usize>(),
        };
        Self { value, span, size }
    }

    /// What a reader would call it.
    pub fn noun(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The value of a key of a mapping; the first, should it repeat.
    pub fn get(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(k, _)| matches!(&k.value, Value::Scalar { text, .. } if text == key)).map(|(_, v)| v)
    }

    /// The text of a scalar.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }
}

/// All documents of a file that is no part of an intent, and what is wrong with them as YAML.
pub fn read(file: &Arc<str>, text: &str) -> (Vec<Document>, Vec<Finding>) {
    let mut report = Report::default();
    let documents = documents(file, text, &mut report);
    (documents, report.finish())
}

/// All documents of a file. Empty documents are left out.
pub(super) fn documents(file: &Arc<str>, text: &str, report: &mut Report) -> Vec<Document> {
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::new(file, text, report);
    let mut documents = Vec::new();
    loop {
        let broken = match parser.next_event() {
            None => break,
            Some(Ok((Event::DocumentEnd, _))) => {
                documents.extend(builder.finish(true));
                false
            }
            Some(Ok((event, span))) => !builder.take(event, span.start),
            Some(Err(error)) => {
                builder.syntax(&error);
                true
            }
        };
        if broken {
            documents.extend(builder.finish(false));
            if builder.nodes > MAX_NODES || !matches!(parser.proceed_next_document(), Ok(true)) {
                break;
            }
        }
        if documents.len() > MAX_DOCUMENTS {
            let span = Span { file: file.clone(), line: 1, column: 1 };
            let message = format!("the file holds more than {MAX_DOCUMENTS} documents");
            builder.report.error(code::LIMIT, &span, message, "split it");
            break;
        }
    }
    documents
}

/// Builds one document at a time from the parser's events.
struct Builder<'a> {
    file: &'a Arc<str>,
    report: &'a mut Report,
    open: Vec<Open>,
    root: Option<Node>,
    /// Finished nodes that carry an anchor.
    anchors: HashMap<usize, Node>,
    /// Nodes of the file so far.
    nodes: usize,
    /// Where each line starts, in characters. YAML ends a line at a lone carriage return as well, and editors do not.
    lines: Vec<usize>,
}

/// A list or mapping whose end has not come yet.
struct Open {
    span: Span,
    anchor: usize,
    content: OpenContent,
}

enum OpenContent {
    List(Vec<Node>),
    Map { entries: Vec<(Node, Node)>, key: Option<Node> },
}

impl<'a> Builder<'a> {
    fn new(file: &'a Arc<str>, text: &str, report: &'a mut Report) -> Self {
        let ends = text.chars().enumerate().filter(|(_, c)| *c == '\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        Self { file, report, open: Vec::new(), root: None, anchors: HashMap::new(), nodes: 0, lines }
    }

    /// Takes one event in. False means that the document must be given up.
    fn take(&mut self, event: Event<'_>, at: granit_parser::Marker) -> bool {
        let span = self.span(at);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = self.tagged(tag.as_deref(), &span) || style != ScalarStyle::Plain;
                let null = !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar { text: text.into_owned(), quoted } };
                self.place(Node::new(value, span), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tagged(tag.as_deref(), &span);
                self.open(Open { span, anchor, content: OpenContent::List(Vec::new()) })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tagged(tag.as_deref(), &span);
                self.open(Open { span, anchor, content: OpenContent::Map { entries: Vec::new(), key: None } })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => {
                    // Counted before it is copied, so that a bomb is never built.
                    if self.nodes + node.size > MAX_NODES {
                        return self.too_many(&span);
                    }
                    let node = node.clone();
                    self.place(node, 0)
                }
                None => {
                    let hint = "write the value out instead of pointing to what contains it";
                    self.report.error(
                        code::YAML_FEATURE,
                        &span,
                        "this alias is inside of the node that it names",
                        hint,
                    );
                    self.place(Node::new(Value::Null, span), 0)
                }
            },
            Event::UnresolvedAlias(name) => {
                let hint = format!("quote it if `*{name}` is meant as text");
                let message = format!("there is no anchor `&{name}` for this alias");
                self.report.error(code::YAML_FEATURE, &span, message, hint);
                self.place(Node::new(Value::Null, span), 0)
            }
            _ => true,
        }
    }

    fn span(&self, at: granit_parser::Marker) -> Span {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // The first line starts at 0, so there is always one before the place.
        let line = self.lines.partition_point(|start| *start <= at.index());
        let start = self.lines.get(line.wrapping_sub(1)).copied().unwrap_or_default();
        Span { file: self.file.clone(), line: number(line), column: number(at.index() - start).saturating_add(1) }
    }

    /// Whether a tag makes the scalar text. Other tags are refused: no field needs one.
    fn tagged(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        let Some(tag) = tag else { return false };
        if tag.is_yaml_core_schema_tag("str") {
            return true;
        }
        if !["map", "seq", "int", "bool", "null"].iter().any(|known| tag.is_yaml_core_schema_tag(known)) {
            let message = format!("the tag `{}` means nothing here", tag.original());
            self.report.error(code::YAML_FEATURE, span, message, "write the value without a tag");
        }
        false
    }

    fn open(&mut self, open: Open) -> bool {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("nested deeper than {MAX_DEPTH} levels");
            self.report.error(
                code::LIMIT,
                &open.span,
                message,
                "no document of the mesh needs that; look for a bracket too many",
            );
            return false;
        }
        self.open.push(open);
        true
    }

    fn close(&mut self) -> bool {
        let Some(open) = self.open.pop() else { return true };
        let anchor = open.anchor;
        let span = open.span;
        let value = match open.content {
            OpenContent::List(items) => Value::List(items),
            OpenContent::Map { mut entries, key } => {
                // Only a document that ends in the middle leaves a key without its value.
                entries.extend(key.map(|key| {
                    let span = key.span.clone();
                    (key, Node::new(Value::Null, span))
                }));
                Value::Map(entries)
            }
        };
        // Its children are counted already.
        let node = Node::new(value, span);
        self.nodes = self.nodes.saturating_sub(node.size - 1);
        self.place(node, anchor)
    }

    fn place(&mut self, node: Node, anchor: usize) -> bool {
        self.nodes += node.size;
        if self.nodes > MAX_NODES {
            return self.too_many(&node.span);
        }
        if anchor > 0 {
            // The copy counts as well: nested anchors would otherwise hold the same nodes many times over.
            self.nodes += node.size;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(OpenContent::List(items)) => items.push(node),
            Some(OpenContent::Map { entries, key }) => match key.take() {
                None => *key = Some(node),
                Some(key) => entries.push((key, node)),
            },
        }
        true
    }

    fn too_many(&mut self, span: &Span) -> bool {
        self.nodes = MAX_NODES + 1;
        let message = format!("the file has more than {MAX_NODES} values, aliases written out");
        self.report.error(code::LIMIT, span, message, "split the file, or use fewer aliases of aliases");
        false
    }

    fn syntax(&mut self, error: &ScanError) {
        let span = self.span(*error.marker());
        if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
            let hint = "no document of the mesh needs that; look for a bracket too many";
            self.report.error(code::LIMIT, &span, format!("nested deeper than {MAX_DEPTH} levels"), hint);
            return;
        }
        self.report.error(code::YAML_SYNTAX, &span, format!("not valid YAML: {}", error.kind()), advice(error.kind()));
    }

    /// Ends the document, closing what is still open.
    fn finish(&mut self, whole: bool) -> Option<Document> {
        let nodes = std::mem::take(&mut self.nodes);
        while !self.open.is_empty() {
            self.close();
        }
        self.nodes = nodes;
        self.anchors.clear();
        let root = self.root.take()?;
        (!matches!(root.value, Value::Null)).then_some(Document { root, whole })
    }
}

/// What usually is behind a syntax error.
fn advice(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar
        | ErrorKind::TabAtBlockScalarStart => "indent with spaces; YAML allows no tabs there",
        ErrorKind::MappingValueNotAllowed | ErrorKind::InvalidColonPlacement | ErrorKind::InvalidSimpleKey => {
            "quote a text that contains `: `, and check that this line is indented like its neighbours"
        }
        ErrorKind::SimpleKeyExpected | ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation => {
            "a key needs `: ` after it; check that this line is indented like its neighbours"
        }
        ErrorKind::MissingAnchorOrAliasName => "quote a text that starts with `*` or `&`, like \"*\" or \"* /api/**\"",
        ErrorKind::UnclosedFlowCollection { .. }
        | ErrorKind::UnexpectedEofFlowSequence
        | ErrorKind::UnexpectedEofFlowMapping
        | ErrorKind::UnexpectedEofImplicitFlowMapping
        | ErrorKind::ExpectedFlowMappingSeparator
        | ErrorKind::ExpectedFlowSequenceSeparator
        | ErrorKind::MismatchedFlowCollectionEnd { .. }
        | ErrorKind::MisplacedFlowCollectionEnd => {
            "look for a missing `,`, `]` or `}` above, and quote texts with brackets, like \"${PORT}\""
        }
        ErrorKind::UnclosedQuotedScalar => "look for the quote that has no partner",
        ErrorKind::UnexpectedCharacter { character: '@' | '`' | '%' } => "quote a text that starts with this character",
        _ => "check quotes, indentation and `: ` around here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Document>, Vec<String>) {
        let mut report = Report::default();
        let documents = documents(&"f.yaml".into(), text, &mut report);
        (documents, report.finish().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn places_are_right_in_the_second_document_and_after_wide_characters() {
        let (documents, findings) = read("a: 1\n---\n# ü\nb:\n  - \"äöü\": [x, yy]\n    c: é\n");
        assert!(findings.is_empty(), "{findings:?}");
        let list = documents[1].root.get("b").expect("b");
        let Value::List(items) = &list.value else { panic!("{list:?}") };
        let xs = items[0].get("äöü").expect("key");
        assert_eq!((xs.span.line, xs.span.column), (5, 12));
        let Value::List(inner) = &xs.value else { panic!("{xs:?}") };
        assert_eq!((inner[1].span.line, inner[1].span.column), (5, 16));
        let c = items[0].get("c").expect("c");
        assert_eq!((c.span.line, c.span.column), (6, 8));
    }

    #[test]
    fn windows_line_ends_count_once() {
        let (documents, _) = read("a: 1\r\nb: 2\r\n");
        assert_eq!(documents[0].root.get("b").expect("b").span.line, 2);
    }

    #[test]
    fn a_broken_document_hides_neither_its_beginning_nor_the_next() {
        let (documents, findings) = read("kind: Service\nname: board\nx: [1, 2\n---\nkind: Mesh\n---\ny: ]\n");
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert!(!documents[0].whole);
        assert_eq!(documents[0].root.get("name").and_then(Node::as_text), Some("board"));
        assert!(documents[1].whole);
        assert_eq!(documents[1].root.get("kind").and_then(Node::as_text), Some("Mesh"));
    }

    #[test]
    fn nothing_is_guessed_from_the_looks_of_a_value() {
        let (documents, _) = read("a: no\nb: 1.10\nc: ~\nd: '~'\ne: !!str null\n");
        let root = &documents[0].root;
        assert_eq!(root.get("a").and_then(Node::as_text), Some("no"));
        assert_eq!(root.get("b").and_then(Node::as_text), Some("1.10"));
        assert!(matches!(root.get("c").expect("c").value, Value::Null));
        assert_eq!(root.get("d").and_then(Node::as_text), Some("~"));
        assert_eq!(root.get("e").and_then(Node::as_text), Some("null"));
    }

    #[test]
    fn aliases_are_written_out_but_bombs_are_not_built() {
        let (documents, findings) = read("a: &x [1, 2]\nb: *x\n");
        assert!(findings.is_empty(), "{findings:?}");
        assert!(matches!(&documents[0].root.get("b").expect("b").value, Value::List(items) if items.len() == 2));

        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{inner}]\n"));
        }
        let (_, findings) = read(&bomb);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains("more than 200000 values"), "{findings:?}");

        let (_, findings) = read("a: &a [*a]\nb: *nowhere\n");
        assert_eq!(findings.len(), 2, "{findings:?}");
    }

    #[test]
    fn depth_is_bounded() {
        for deep in ["[".repeat(5_000), "- ".repeat(5_000), "{a: ".repeat(5_000)] {
            let (_, findings) = read(&deep);
            assert!(findings.iter().any(|f| f.contains("nested deeper than 64 levels")), "{findings:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(?s)\u{feff}?([ \\-a-c:\\[\\]{}&*!|>'\"%#,?\n\t\r]|---\n|\\.\\.\\.\n|\\PC){0,200}") {
            let mut report = Report::default();
            for document in documents(&"f.yaml".into(), &text, &mut report) {
                in_place(&document.root, &text);
            }
        }
    }

    /// The text at a scalar's place is the scalar, wherever it is simple enough to compare.
    fn in_place(node: &Node, text: &str) {
        match &node.value {
            Value::Null => {}
            Value::List(items) => items.iter().for_each(|item| in_place(item, text)),
            Value::Map(entries) => entries.iter().for_each(|(key, value)| {
                in_place(key, text);
                in_place(value, text);
            }),
            Value::Scalar { text: scalar, quoted } => {
                let line = text.split('\n').nth(node.span.line as usize - 1).expect("a line of the text");
                let rest: String = line.chars().skip(node.span.column as usize - 1).collect();
                if !quoted && !scalar.contains(char::is_whitespace) {
                    assert!(rest.starts_with(&**scalar), "`{scalar}` is not at {} of {text:?}", node.span);
                }
            }
        }
    }
}
