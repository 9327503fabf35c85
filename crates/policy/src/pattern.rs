//! Path patterns of `access`: a segment `*` is exactly one non-empty segment, a final `**` is any rest, also none.
//!
//! Cedar's `like` knows only a `*` that also spans slashes. With the number of segments fixed it cannot span one, so a pattern
//! becomes a `like` on the whole path with its `depth`, or on its first segments.

use serde_json::{Value, json};
use weft_model::intent::Paths;

use crate::context::MAX_SEGMENTS;
use crate::path;

/// A checked pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The segments, without a final `**`.
    segments: Vec<Segment>,
    /// True if any rest may follow.
    open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    One,
}

/// Most segments `*` in a pattern: each is a level of the condition (see [`crate::bound`]).
const MAX_ONES: usize = 16;

/// Why a pattern was refused: the problem and the hint.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) String, pub(crate) &'static str);

impl Pattern {
    pub(crate) fn parse(text: &str, paths: Paths) -> Result<Self, Refused> {
        let refuse = |problem: &str, hint| Err(Refused(format!("the path pattern `{text}` {problem}"), hint));
        let Some(rest) = text.strip_prefix('/') else {
            return refuse("does not start with /", "write it like /api/**");
        };
        if text.contains('?') {
            return refuse("has a ?", "policies decide on the path; the query is not part of it");
        }
        match path::normalize(text, paths) {
            Ok(normal) if normal == text => {}
            Ok(normal) => {
                let problem = format!("can never match: requests are normalised, it would have to be `{normal}`");
                return refuse(&problem, "write the pattern as the normalised path");
            }
            Err(error) => {
                return refuse(&format!("can never match: {error}"), "such requests are refused before any policy");
            }
        }
        let mut words: Vec<&str> = rest.split('/').collect();
        let open = words.last() == Some(&"**");
        if open {
            words.pop();
        }
        let mut segments = Vec::with_capacity(words.len());
        for word in words {
            segments.push(match word {
                "*" => Segment::One,
                "**" => return refuse("has ** before its end", "** is any rest of the path and can only stand last"),
                _ if word.contains('*') => {
                    return refuse(
                        "has a * within a segment",
                        "a * stands for one whole segment; use a .cedar policy with `like` for less",
                    );
                }
                _ => Segment::Literal(word.to_owned()),
            });
        }
        if segments.iter().filter(|segment| **segment == Segment::One).count() > MAX_ONES {
            return refuse(
                "has more than 16 segments that are *",
                "use ** for the rest of the path, or a .cedar policy",
            );
        }
        if open && segments.len() > usize::from(MAX_SEGMENTS) && segments.contains(&Segment::One) {
            return refuse("has a * and more than 8 segments before **", "use a shorter pattern, or a .cedar policy");
        }
        Ok(Self { segments, open })
    }

    /// The condition on `context` in Cedar's JSON form; `None` if every path matches.
    pub(crate) fn condition(&self) -> Option<Value> {
        let segments = &self.segments[..];
        let fixed = !segments.contains(&Segment::One);
        match (self.open, fixed) {
            (true, true) if segments.is_empty() => None,
            (true, true) => {
                let whole = literal(segments);
                let below = like(context("path"), vec![json!({"Literal": format!("{whole}/")}), json!("Wildcard")]);
                Some(or(equal(context("path"), &whole), below))
            }
            (false, true) => Some(equal(context("path"), &literal(segments))),
            (false, false) => {
                let depth = json!({"==": {"left": context("depth"), "right": {"Value": segments.len()}}});
                Some(and(depth, one_segment_each(&context("path"), segments)))
            }
            (true, false) => {
                let attribute = format!("first{}", segments.len());
                let has = json!({"has": {"left": {"Var": "context"}, "attr": attribute}});
                Some(and(has, one_segment_each(&context(&attribute), segments)))
            }
        }
    }
}

/// `subject` is known to have as many segments as the pattern, so no wildcard spans a slash; what is left is that none is empty.
///
/// Where no literal is empty either, that is to say that there is no `//`, and no `/` at the end of a final wildcard. Else each
/// wildcard is looked at: it is empty if the pattern matches with nothing in its place.
fn one_segment_each(subject: &Value, segments: &[Segment]) -> Value {
    let mut condition = like(subject.clone(), elements(segments, None));
    let mut refuse = |elements| {
        let before = std::mem::take(&mut condition);
        condition = and(before, node("!", [("arg", like(subject.clone(), elements))]));
    };
    let (last, inner) = segments.split_last().expect("there is a wildcard");
    if inner.iter().any(|segment| *segment == Segment::Literal(String::new())) {
        let ones = segments.iter().enumerate().filter(|(_, segment)| **segment == Segment::One);
        ones.for_each(|(at, _)| refuse(elements(segments, Some(at))));
        return condition;
    }
    if inner.contains(&Segment::One) {
        refuse(vec![json!("Wildcard"), json!({"Literal": "//"}), json!("Wildcard")]);
    }
    if *last == Segment::One {
        refuse(vec![json!("Wildcard"), json!({"Literal": "/"})]);
    }
    condition
}

/// The pattern as elements of Cedar's `like`, with the segment `empty` (if any) left empty.
fn elements(segments: &[Segment], empty: Option<usize>) -> Vec<Value> {
    let mut out = Vec::new();
    let mut text = String::new();
    for (at, segment) in segments.iter().enumerate() {
        text.push('/');
        match segment {
            Segment::Literal(word) => text.push_str(word),
            Segment::One if empty == Some(at) => {}
            Segment::One => {
                out.push(json!({"Literal": std::mem::take(&mut text)}));
                out.push(json!("Wildcard"));
            }
        }
    }
    if !text.is_empty() {
        out.push(json!({"Literal": text}));
    }
    out
}

fn literal(segments: &[Segment]) -> String {
    segments.iter().fold(String::new(), |mut path, segment| {
        path.push('/');
        if let Segment::Literal(word) = segment {
            path.push_str(word);
        }
        path
    })
}

/// `context.<attribute>`.
pub(crate) fn context(attribute: &str) -> Value {
    json!({".": {"left": {"Var": "context"}, "attr": attribute}})
}

/// `left == "right"`.
pub(crate) fn equal(left: Value, right: &str) -> Value {
    node("==", [("left", left), ("right", json!({"Value": right}))])
}

pub(crate) fn and(left: Value, right: Value) -> Value {
    node("&&", [("left", left), ("right", right)])
}

pub(crate) fn or(left: Value, right: Value) -> Value {
    node("||", [("left", left), ("right", right)])
}

fn like(left: Value, pattern: Vec<Value>) -> Value {
    node("like", [("left", left), ("pattern", pattern.into())])
}

/// Moves the operands, where `json!` would copy them at each level of a tree.
fn node<const N: usize>(operator: &str, operands: [(&str, Value); N]) -> Value {
    let operands = operands.map(|(name, operand)| (name.to_owned(), operand));
    Value::Object([(operator.to_owned(), Value::Object(operands.into_iter().collect()))].into_iter().collect())
}

#[cfg(test)]
mod tests {
    use weft_model::intent::{Case, EscapedSlashes, Slashes};

    use super::*;

    const KEEP: Paths = Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Keep, case: Case::Sensitive };

    /// Three thousand patterns of sixteen wildcards took the check of a commit minutes, when each wildcard was a comparison.
    #[test]
    fn wildcards_cost_no_comparison_each() {
        let pattern = format!("/api{}", "/*".repeat(MAX_ONES));
        let condition =
            Pattern::parse(&pattern, Paths::default()).expect("within the bound").condition().expect("not every path");
        assert_eq!(condition.to_string().matches("\"like\"").count(), 3);
    }

    #[test]
    fn wrong_patterns_are_refused_with_a_hint() {
        for (text, problem) in [
            ("api", "does not start with /"),
            ("/api/**/x", "has ** before its end"),
            ("/api*", "has a * within a segment"),
            ("/a/***", "has a * within a segment"),
            ("/a?x=1", "has a ?"),
            ("/a/../b", "can never match: requests are normalised, it would have to be `/b`"),
            ("/a//b", "can never match: requests are normalised, it would have to be `/a/b`"),
            ("/;x", "can never match: the path has a segment that begins with ;"),
            ("/a%2fb", "can never match: the path has an encoded slash (%2F)"),
            ("/1/2/3/4/5/6/7/8/*/**", "has a * and more than 8 segments before **"),
        ] {
            let refused = Pattern::parse(text, Paths::default()).expect_err(text);
            assert_eq!(refused.0, format!("the path pattern `{text}` {problem}"));
        }
        for text in ["/", "/**", "/*", "/*/**", "/a/*/b/", "/1/2/3/4/5/6/7/8/9/**", "/.well-known/**"] {
            assert!(Pattern::parse(text, Paths::default()).is_ok(), "{text}");
        }
        assert!(Pattern::parse("/repos/a%2Fb/**", KEEP).is_ok());
        assert!(Pattern::parse("/a//b/*//**", KEEP).is_ok());
        assert!(Pattern::parse("/repos/..%2Fb", KEEP).is_err());
    }
}
