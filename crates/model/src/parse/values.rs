//! The small grammars inside of values: durations, names, labels, methods and paths.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::fields::{Field, short};
use super::report::Report;
use crate::code;
use crate::id::is_dns_label;
use crate::intent::{EscapedSlashes, Paths, Slashes};

/// A duration as the Gateway API writes it (GEP-2257): one to four numbers of at most five digits, each with `h`, `m`, `s`
/// or `ms`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(1..=5).contains(&digits) {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(unit);
        total += match unit {
            "h" => Duration::from_secs(number * 3_600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        if tail.is_empty() {
            return Some(total);
        }
        rest = tail;
    }
    None
}

impl<'a> Field<'a> {
    /// A duration.
    pub(super) fn duration(&self, report: &mut Report) -> Option<Duration> {
        let text = self.text(report)?;
        let parsed = duration(text);
        if parsed.is_none() {
            let message = format!("`{}` is not a duration: `{}`", self.key, short(text));
            let hint = if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
                format!("add the unit, like {}s or {}ms", short(text), short(text))
            } else {
                "write whole numbers with the units h, m, s and ms, like 1h30m, 10s or 500ms".to_owned()
            };
            report.error(code::DURATION, self.span(), message, hint);
        }
        parsed
    }

    /// A DNS label, as namespaces, services, subsets and roles are named.
    pub(super) fn dns_label(&self, report: &mut Report) -> Option<&'a str> {
        let text = self.text(report)?;
        if is_dns_label(text) {
            return Some(text);
        }
        bad_dns_label(self.key, text, self.span(), report);
        None
    }

    /// A mapping of label names to values.
    pub(super) fn labels(&self, report: &mut Report) -> Option<BTreeMap<Arc<str>, Arc<str>>> {
        let mut labels = BTreeMap::new();
        for entry in self.entries(report)? {
            let legal_name = label_name(entry.key);
            if !legal_name {
                let message = format!("`{}` is not a label name", short(entry.key));
                let hint = "use 1 to 63 letters, digits, `-`, `_`, `.` and `/`, a letter or digit at both ends";
                report.error(code::BAD_NAME, entry.key_span, message, hint);
            }
            if let (Some(value), true) = (entry.label_value(report), legal_name) {
                labels.insert(entry.key.into(), value.into());
            }
        }
        Some(labels)
    }

    /// The value of a label or an attribute.
    pub(super) fn label_value(&self, report: &mut Report) -> Option<&'a str> {
        let text = self.text(report)?;
        if label_value(text) {
            return Some(text);
        }
        let message = format!("`{}` is not a value for `{}`", short(text), short(self.key));
        let hint = "use 1 to 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends";
        report.error(code::BAD_NAME, self.span(), message, hint);
        None
    }
}

/// Reports a name that is not a DNS label.
pub(super) fn bad_dns_label(what: &str, text: &str, span: &crate::finding::Span, report: &mut Report) {
    let lower = text.to_lowercase().replace(['_', '.', ' '], "-");
    let hint = if lower != text && is_dns_label(&lower) {
        format!("write `{lower}`: lower-case letters, digits and dashes only")
    } else {
        "use 1 to 63 lower-case letters, digits and dashes, no dash at the ends".to_owned()
    };
    report.error(code::BAD_NAME, span, format!("`{}` is not a legal name for `{what}`", short(text)), hint);
}

fn label_value(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn label_name(text: &str) -> bool {
    text.len() <= 63 && text.split('/').count() <= 2 && text.split('/').all(label_value)
}

/// Whether a byte may stand in a method or header name (RFC 9110 s.5.6.2, `tchar`).
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// What is wrong with a method that a rule names, and what to write.
pub(super) fn method_problem(method: &str) -> Option<(String, String)> {
    if !is_token(method) || method.len() > 32 || method.contains('*') {
        let hint = format!("write one of {}", METHODS.join(", "));
        return Some((format!("`{}` is not an HTTP method", short(method)), hint));
    }
    let upper = method.to_ascii_uppercase();
    if upper != method {
        let problem = format!("`{method}` would never match: methods are case-sensitive (RFC 9110 s.9.1)");
        return Some((problem, format!("write {upper}")));
    }
    if METHODS.contains(&method) {
        return None;
    }
    let near = super::suggest::nearest(method, METHODS)?;
    // A method of one's own is legal, one letter beside a known one is a mistake.
    (strsim::damerau_levenshtein(method, near) == 1)
        .then(|| (format!("`{method}` is not an HTTP method"), format!("did you mean {near}?")))
}

/// What is wrong with a path that a rule names, and what to write.
///
/// Requests are compared after normalisation (RFC 3986 s.6.2.2), so a path that normalisation would change, or that it
/// refuses, could never match. Wildcards are the caller's business.
pub(super) fn path_problem(path: &str, paths: Paths) -> Option<(String, String)> {
    let says = |problem: &str, hint: &str| Some((format!("the path `{}` {problem}", short(path)), hint.to_owned()));
    if path.len() > 1024 {
        return says("is longer than 1024 bytes", "shorten it");
    }
    if !path.starts_with('/') {
        let hint = format!("write `/{}`", short(path));
        return says("does not start with `/`", &hint);
    }
    if path.contains(['?', '#']) {
        return says("has a query or fragment", "only the path is compared; cut it before `?` or `#`");
    }
    if path.contains('\\') {
        return says("has a backslash", "requests with one are refused by the mesh");
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b);
    if let Some(bad) = path.chars().find(|c| !u8::try_from(*c).is_ok_and(legal)) {
        let mut encoded = [0; 4];
        let encoded: String = bad.encode_utf8(&mut encoded).bytes().map(|b| format!("%{b:02X}")).collect();
        return says(
            &format!("has the character `{}`, which cannot stand in a path", bad.escape_debug()),
            &format!("write it as {encoded} (RFC 3986 s.2.1)"),
        );
    }
    for (at, _) in path.match_indices('%') {
        let Some(hex) = path.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) else {
            return says("has a `%` without two hexadecimal digits", "write %25 for a percent sign");
        };
        let byte = u8::from_str_radix(hex, 16).unwrap_or_default();
        if byte == b'/' && paths.escaped_slashes == EscapedSlashes::Reject {
            let hint = "leave it out, or write `paths: {escapedSlashes: keep}` if the app takes it for no slash";
            return says(&format!("has %{hex}, and requests with it are refused by the mesh"), hint);
        }
        if matches!(byte, b'\\' | 0..0x20 | 0x7f) {
            return says(&format!("has %{hex}, and requests with it are refused by the mesh"), "leave it out");
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            if is_dot_segment(path, at) {
                return says("has a dot segment", "write the path that it leads to (RFC 3986 s.5.2.4)");
            }
            let plain = char::from(byte);
            return says(&format!("has %{hex}, which requests are compared without"), &format!("write `{plain}`"));
        }
        if hex.bytes().any(|b| b.is_ascii_lowercase()) {
            let upper = hex.to_ascii_uppercase();
            return says(&format!("has %{hex} in lower case"), &format!("write %{upper} (RFC 3986 s.6.2.2.1)"));
        }
    }
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return says("has a dot segment", "write the path that it leads to (RFC 3986 s.5.2.4)");
    }
    if path.split('/').flat_map(|segment| segment.split("%2F")).any(|part| matches!(part, "." | "..")) {
        return says("has a dot segment beside %2F", "requests with one are refused by the mesh");
    }
    if path.contains("//") && paths.slashes == Slashes::Merge {
        let hint = "write one `/`, or `paths: {slashes: keep}` if the app tells them apart";
        return says("has an empty segment, and requests are compared without", hint);
    }
    if path.split('/').any(|segment| segment.starts_with(';')) {
        return says("has a segment that begins with `;`", "requests with one are refused by the mesh");
    }
    None
}

/// Whether the segment at a place is `.` or `..`, however its dots are written.
fn is_dot_segment(path: &str, at: usize) -> bool {
    let start = path[..at].rfind('/').map_or(0, |slash| slash + 1);
    let segment = path[start..].split('/').next().unwrap_or_default().to_ascii_lowercase().replace("%2e", ".");
    matches!(&*segment, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_the_gateway_apis() {
        for (text, millis) in [
            ("0s", 0),
            ("10s", 10_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("1h30m", 5_400_000),
            ("1m2s3ms", 62_003),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "1d", "1 s", "100000s", "1h1m1s1ms1h", "10S", "1s ", "1us", "٣s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn paths_that_normalisation_would_change_are_refused() {
        for good in ["/", "/api", "/api/", "/a%20b", "/%C3%A9", "/a:b@c", "/a...b", "/.well-known/x"] {
            assert_eq!(path_problem(good, Paths::default()), None, "{good}");
        }
        for bad in [
            "", "api", "/a b", "/é", "/a?b", "/a#b", "/a\\b", "/%", "/%2", "/%zz", "/%2F", "/%2f", "/%5C", "/%00",
            "/%41", "/%7e", "/%c3", "/.", "/..", "/a/./b", "/a/../b", "/a//b", "//", "/%0A", "/%7F", "/;x", "/a/;x/b",
        ] {
            assert!(path_problem(bad, Paths::default()).is_some(), "{bad}");
        }
        for dots in ["/%2e", "/a/%2E%2e/b", "/.%2e", "/%2E."] {
            let (problem, _) = path_problem(dots, Paths::default()).unwrap();
            assert!(problem.ends_with("has a dot segment"), "{problem}");
        }
        let keep = Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Keep, ..Paths::default() };
        for good in ["/a%2Fb", "/%2F", "/a%2F%2Fb/c", "/a%20b", "/a//b", "//"] {
            assert_eq!(path_problem(good, keep), None, "{good}");
        }
        for bad in ["/a%2fb", "/a%5Cb", "/a%2F..%2Fb", "/..%2Fb", "/a%2F.", "/a%00", "/;x"] {
            assert!(path_problem(bad, keep).is_some(), "{bad}");
        }
    }

    #[test]
    fn methods_are_tokens_in_upper_case() {
        for good in ["GET", "POST", "PURGE", "M-SEARCH", "PROPFIND"] {
            assert_eq!(method_problem(good), None, "{good}");
        }
        for bad in ["get", "Post", "GTE", "PSOT", "", "A B", "*", "GET,POST", "GÉT"] {
            assert!(method_problem(bad).is_some(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(text in "(?s).{0,40}") {
            duration(&text);
            path_problem(&text, Paths::default());
            path_problem(&format!("/{text}%"), Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Keep, ..Paths::default() });
            method_problem(&text);
        }

        #[test]
        fn durations_add_up(h in 0u64..100, m in 0u64..100, s in 0u64..100_000, ms in 0u64..1_000) {
            let want = Duration::from_millis(((h * 60 + m) * 60 + s) * 1_000 + ms);
            proptest::prop_assert_eq!(duration(&format!("{h}h{m}m{s}s{ms}ms")), Some(want));
        }
    }
}
