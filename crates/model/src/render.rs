//! Findings for people (source excerpt, caret, code, hint) and for programs (JSON).

use std::collections::HashMap;
use std::fmt;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteError, MietteSpanContents, SourceCode,
    SourceSpan, SpanContents, ThemeCharacters, ThemeStyles,
};

use crate::finding::{Finding, Severity, Span};
use crate::source::SourceFile;

/// Longest line that is shown as an excerpt, in bytes.
const MAX_LINE: usize = 500;
/// Lines that are shown before the one that is meant, and after it.
const CONTEXT: usize = 1;

/// All findings with their source, and a line with their number. Empty if there are none.
///
/// `files` are those that the findings are about; a finding whose file is not among them is shown without an excerpt.
pub fn render(findings: &[Finding], files: &[SourceFile], look: Look) -> String {
    let theme = GraphicalTheme {
        characters: if look.unicode { ThemeCharacters::unicode() } else { ThemeCharacters::ascii() },
        styles: if look.color { ThemeStyles::ansi() } else { ThemeStyles::none() },
    };
    let handler =
        GraphicalReportHandler::new_themed(theme).with_links(false).with_width(look.width).with_context_lines(CONTEXT);
    let files: HashMap<&str, &SourceFile> = files.iter().map(|file| (&*file.path, file)).collect();
    let mut texts: HashMap<&str, Option<Lines<'_>>> = HashMap::new();
    let mut out = String::new();
    for finding in findings {
        let name = finding.span.as_ref().map_or("", |span| &*span.file);
        let text = texts.entry(name).or_insert_with(|| files.get(name)?.text().map(Lines::of));
        let shown = Shown::new(finding, text.as_ref());
        // Only a writer that fails makes it fail, and a String never does; the finding itself is the fallback.
        if handler.render_report(&mut out, &shown).is_err() {
            out.push_str(&finding.to_string());
        }
        out.push('\n');
    }
    out.push_str(&summary(findings));
    out
}

/// How findings are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// ANSI colours.
    pub color: bool,
    /// Lines drawn with box characters rather than ASCII.
    pub unicode: bool,
    /// Columns before texts are wrapped.
    pub width: usize,
}

impl Default for Look {
    /// No colours: for logs, files and tests.
    fn default() -> Self {
        Self { color: false, unicode: true, width: 110 }
    }
}

/// `2 errors, 1 warning` and a line end; empty without findings.
pub fn summary(findings: &[Finding]) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let said = |number, word| match number {
        0 => None,
        1 => Some(format!("1 {word}")),
        n => Some(format!("{n} {word}s")),
    };
    let parts: Vec<String> = [said(count(Severity::Error), "error"), said(count(Severity::Warning), "warning")]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() { String::new() } else { parts.join(", ") + "\n" }
}

/// `{"errors": 2, "warnings": 1, "findings": [{"code", "severity", "message", "hint", "span": {"file", "line", "column"}}]}`.
pub fn to_json(findings: &[Finding]) -> serde_json::Value {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    serde_json::json!({
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warning),
        "findings": findings,
    })
}

/// A text, and where its lines start: there may be thousands of findings in one.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Lines from `first` to `last`, from 0, with their ends; as far as they are there.
    fn between(&self, first: usize, last: usize) -> &'a str {
        let start = |line: usize| self.starts.get(line).copied().unwrap_or(self.text.len());
        &self.text[start(first)..start(last + 1)]
    }
}

/// A finding as miette wants it.
#[derive(Debug)]
struct Shown<'a> {
    finding: &'a Finding,
    source: Option<Excerpt>,
    label: Option<SourceSpan>,
}

impl<'a> Shown<'a> {
    fn new(finding: &'a Finding, lines: Option<&Lines<'_>>) -> Self {
        let (source, label) = finding.span.as_ref().zip(lines).and_then(|(span, lines)| excerpt(span, lines)).unzip();
        Self { finding, source, label }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.finding.span, &self.label) {
            (Some(span), None) => write!(f, "{span}: {}", self.finding.message),
            _ => f.write_str(&self.finding.message),
        }
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn code<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(self.finding.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.finding.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        (!self.finding.hint.is_empty()).then(|| Box::new(&self.finding.hint) as Box<dyn fmt::Display + 'b>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.label.map(|at| Box::new(std::iter::once(LabeledSpan::new_with_span(None, at))) as Box<_>)
    }
}

/// The lines around a finding.
#[derive(Debug)]
struct Excerpt {
    file: String,
    text: String,
    /// How many lines stand before it in the file.
    first: usize,
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let found = self.text.read_span(span, before, after)?;
        let (line, column) = (self.first + found.line(), found.column());
        let (file, data) = (self.file.clone(), found.data());
        Ok(Box::new(MietteSpanContents::new_named(file, data, *found.span(), line, column, found.line_count())))
    }
}

/// The lines around a finding and what to underline in them. Control characters are shown as `?`, so that a file cannot write to the terminal.
fn excerpt(span: &Span, lines: &Lines<'_>) -> Option<(Excerpt, SourceSpan)> {
    let at = span.line.saturating_sub(1) as usize;
    lines.starts.get(at)?;
    let line = lines.between(at, at).lines().next().unwrap_or_default();
    if line.len() > MAX_LINE {
        return None;
    }
    let first = at.saturating_sub(CONTEXT);
    let column = span.column.saturating_sub(1) as usize;
    let in_line = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
    let length = token(&line[in_line..], span.file.ends_with(".cedar"));
    let start = lines.starts[at] - lines.starts[first] + in_line;
    let shown = lines.between(first, at + CONTEXT).chars().flat_map(|c| {
        // As many bytes as before, so that places stay right.
        let hidden = c.is_control() && !matches!(c, '\n' | '\t' | '\r');
        let (c, n) = if hidden { ('?', c.len_utf8()) } else { (c, 1) };
        std::iter::repeat_n(c, n)
    });
    Some((Excerpt { file: span.file.to_string(), text: shown.collect(), first }, (start, length).into()))
}

/// How many bytes of `rest` the reader would call the thing that is meant.
fn token(rest: &str, cedar: bool) -> usize {
    let trimmed = |end: usize| rest[..end].trim_end().len();
    if cedar {
        return cedar_token(rest);
    }
    match rest.chars().next() {
        None => 0,
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(trimmed(rest.len()), |end| end + 2),
        Some(open @ ('[' | '{')) => {
            let close = if open == '[' { ']' } else { '}' };
            let mut depth = 0;
            for (at, c) in rest.char_indices() {
                if c == open {
                    depth += 1;
                } else if c == close {
                    depth -= 1;
                    if depth == 0 {
                        return at + 1;
                    }
                }
            }
            trimmed(rest.len())
        }
        Some(_) => {
            let ends = [rest.find(": "), rest.find(" #"), rest.find(", "), rest.find([']', '}'])];
            let colon = rest.trim_end().strip_suffix(':').map(str::len);
            let end = ends.into_iter().chain([colon]).flatten().min().unwrap_or(rest.len());
            trimmed(end).max(rest.chars().next().map_or(0, char::len_utf8))
        }
    }
}

/// A name with its path and quoted id, like `Action::"call"` or `principal.sensitivity`.
fn cedar_token(rest: &str) -> usize {
    let mut end = 0;
    while let Some(c) = rest[end..].chars().next() {
        match c {
            '"' => return rest[end + 1..].find('"').map_or(rest.len(), |close| end + close + 2),
            c if c.is_alphanumeric() || matches!(c, '_' | '.' | ':') => end += c.len_utf8(),
            _ => break,
        }
    }
    end.max(rest.chars().next().map_or(0, char::len_utf8))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(line: u32, column: u32) -> Finding {
        Finding {
            code: "WEFT0106",
            severity: Severity::Error,
            message: "`prot` is not a field of a Service".to_owned(),
            hint: "did you mean `port`?".to_owned(),
            span: Some(Span { file: "services/board.yaml".into(), line, column }),
        }
    }

    fn files(text: &str) -> [SourceFile; 1] {
        [SourceFile::new("services/board.yaml", text.as_bytes())]
    }

    #[test]
    fn a_finding_shows_its_source() {
        let mut second = finding(4, 11);
        second.severity = Severity::Warning;
        let text = "kind: Service\nname: böard\nprot: 8080\nsubsets: {v1: {version: v1}}\n";
        let shown = render(&[finding(3, 1), second], &files(text), Look::default());
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn a_finding_without_a_readable_place_is_shown_too() {
        let mut nowhere = finding(1, 1);
        nowhere.span = None;
        let shown = render(&[finding(99, 1), nowhere], &files("a: 1\n"), Look::default());
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn json_has_the_place() {
        let json = to_json(&[finding(3, 1)]);
        assert_eq!(json["errors"], 1);
        assert_eq!(json["findings"][0]["span"]["line"], 3);
        assert_eq!(json["findings"][0]["severity"], "error");
    }

    #[test]
    fn what_is_meant_is_underlined() {
        for (rest, meant) in [
            ("prot: 8080", "prot"),
            ("[a, [b], c], x", "[a, [b], c]"),
            ("'it: is', b", "'it: is'"),
            ("a b # c", "a b"),
            ("GET /api, POST", "GET /api"),
            ("x]", "x"),
            ("spec:", "spec"),
            ("", ""),
            ("é", "é"),
            ("{a: [", "{a: ["),
            (": x", ":"),
        ] {
            assert_eq!(&rest[..token(rest, false)], meant);
        }
        for (rest, meant) in [
            ("permit(principal", "permit"),
            ("Action::\"cal\", resource)", "Action::\"cal\""),
            ("\"prod/x\",", "\"prod/x\""),
            ("principal.sens == 1", "principal.sens"),
            ("}", "}"),
            ("\"open", "\"open"),
            ("", ""),
        ] {
            assert_eq!(&rest[..token(rest, true)], meant);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_place_and_no_text_panics(text in "(?s).{0,80}", line in 0u32..6, column in 0u32..90) {
            render(&[finding(line, column)], &files(&text), Look { color: true, unicode: false, width: 20 });
        }
    }
}
