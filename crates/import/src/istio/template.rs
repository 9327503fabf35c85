//! Path templates: `{*}` is one segment, `{**}` is any rest, and text may follow it. Envoy's `uri_template` is what Istio makes of them.
//!
//! Cedar's `*` also spans slashes. With the number of slashes fixed it cannot, so a template becomes a `like` on the whole path
//! with its `depth`, or on its first segments.

use super::bounds::Bounds;
use crate::cedar::expr::{Compare, Expr, Piece, and, context, like, not};

/// `context.first1` .. `first8` are all that there are.
const MOST_SEGMENTS: usize = 8;

/// The condition of a template, or why it is none that Istio and Envoy take.
pub(super) fn template(value: &str) -> Result<Bounds, &'static str> {
    let Some(rest) = value.strip_prefix('/') else { return Err("a template starts with /") };
    let (rest, slash_at_end) = rest.strip_suffix('/').map_or((rest, false), |rest| (rest, true));
    let words: Vec<&str> = rest.split('/').collect();
    let globs = words.iter().position(|word| *word == "{**}");
    let (head, tail) = words.split_at(globs.unwrap_or(words.len()));
    let tail = tail.get(1..).unwrap_or_default();
    if tail.iter().any(|word| matches!(*word, "{*}" | "{**}")) {
        return Err("{**} is the last operator of a template");
    }
    for word in head.iter().chain(tail).filter(|word| **word != "{*}") {
        if word.contains(['{', '}']) {
            return Err("only {*} and {**} stand in braces, each as a whole segment");
        }
        if word.is_empty() || !word.bytes().all(is_literal) {
            return Err("a segment of a template is not empty, and has only characters of a path, without *");
        }
    }
    let end: String = tail.iter().map(|word| format!("/{word}")).chain(slash_at_end.then(|| "/".to_owned())).collect();
    let condition = match globs {
        None => fixed(head, slash_at_end),
        Some(_) => open(head, &end),
    };
    let Some(condition) = condition else {
        let pieces = like(
            context("path"),
            segments(head).into_iter().chain([Piece::Text("/".to_owned()), Piece::Any]).collect(),
        );
        let problem = "a template with {*} and more than 8 segments before {**} cannot be said";
        return Ok(Bounds::between(Expr::False, pieces, problem, "write the rule by hand for a shorter path"));
    };
    Ok(Bounds::exact(condition))
}

/// What Istio takes for a character of a template's segment: RFC 3986's pchar without `*`.
fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&byte)
}

/// As many segments as the template has.
fn fixed(words: &[&str], slash_at_end: bool) -> Option<Expr> {
    let mut pieces = segments(words);
    if slash_at_end {
        text(&mut pieces, "/");
    }
    let depth = Expr::Number(context("depth"), Compare::Equal, (words.len() + usize::from(slash_at_end)) as u64);
    let path = || context("path");
    let ends_empty = words.last() == Some(&"{*}") && !slash_at_end;
    Some(and([
        depth,
        like(path(), pieces),
        not(like(path(), vec![Piece::Any, Piece::Text("//".to_owned()), Piece::Any])),
        if ends_empty { not(like(path(), vec![Piece::Any, Piece::Text("/".to_owned())])) } else { Expr::True },
    ]))
}

/// The first segments, anything, and an end; `None` if there are too many before `{**}`.
fn open(head: &[&str], end: &str) -> Option<Expr> {
    if !head.contains(&"{*}") {
        let mut pieces = segments(head);
        text(&mut pieces, "/");
        pieces.push(Piece::Any);
        text(&mut pieces, end);
        return Some(like(context("path"), pieces));
    }
    if head.len() > MOST_SEGMENTS {
        return None;
    }
    let first = || context(&format!("first{}", head.len()));
    let slashes = head.len() + 1 + end.matches('/').count();
    let ends_with =
        if end.is_empty() { Expr::True } else { like(context("path"), vec![Piece::Any, Piece::Text(end.to_owned())]) };
    Some(and([
        Expr::Has(first()),
        like(first(), segments(head)),
        not(like(first(), vec![Piece::Any, Piece::Text("//".to_owned()), Piece::Any])),
        if head.last() == Some(&"{*}") {
            not(like(first(), vec![Piece::Any, Piece::Text("/".to_owned())]))
        } else {
            Expr::True
        },
        Expr::Number(context("depth"), Compare::AtLeast, slashes as u64),
        ends_with,
    ]))
}

/// `/a/*/b`.
fn segments(words: &[&str]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for word in words {
        text(&mut pieces, "/");
        match *word {
            "{*}" => pieces.push(Piece::Any),
            word => text(&mut pieces, word),
        }
    }
    pieces
}

fn text(pieces: &mut Vec<Piece>, more: &str) {
    match pieces.last_mut() {
        _ if more.is_empty() => {}
        Some(Piece::Text(before)) => before.push_str(more),
        _ => pieces.push(Piece::Text(more.to_owned())),
    }
}
