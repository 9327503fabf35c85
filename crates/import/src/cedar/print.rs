//! The text of a policy, for people: the scope on a line where it fits, then one condition a line.
//!
//! All that comes from outside stands in quotes, escaped here and nowhere else.

use std::fmt::Write;

use super::expr::{Attr, Compare, Expr, Kind, Piece};

/// Longest line, in characters; only what has no joint is longer.
const WIDTH: usize = 110;

/// Whether a policy allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Permit,
    Forbid,
}

/// Whom a policy concerns at one end, where its scope can say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Any,
    Service(String),
    Namespace(String),
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) effect: Effect,
    pub(crate) principal: Scope,
    pub(crate) resource: Scope,
    pub(crate) when: Expr,
}

/// The policy with its `;` and a line end.
pub(crate) fn policy(policy: &Policy) -> String {
    let effect = match policy.effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    let parts = [
        scope("principal", &policy.principal),
        "action == Action::\"call\"".to_owned(),
        scope("resource", &policy.resource),
    ];
    let line = format!("{effect} ({})", parts.join(", "));
    let mut text =
        if line.chars().count() <= WIDTH { line } else { format!("{effect} (\n  {}\n)", parts.join(",\n  ")) };
    match &policy.when {
        Expr::True => {}
        condition => {
            text.push_str("\nwhen {\n");
            let (conditions, joint) = match condition {
                Expr::And(items) => (&items[..], " &&"),
                Expr::Or(items) if 2 + whole(condition).chars().count() > WIDTH => (&items[..], " ||"),
                one => (std::slice::from_ref(one), ""),
            };
            for (at, condition) in conditions.iter().enumerate() {
                let end = if at + 1 < conditions.len() { joint } else { "" };
                lines(condition, conditions.len() > 1, 2, end, &mut text);
            }
            text.push('}');
        }
    }
    text.push_str(";\n");
    text
}

fn scope(end: &str, scope: &Scope) -> String {
    match scope {
        Scope::Any => end.to_owned(),
        Scope::Service(name) => format!("{end} == {}", entity(Kind::Service, name)),
        Scope::Namespace(name) => format!("{end} in {}", entity(Kind::Namespace, name)),
    }
}

/// `Service::"prod/web"`.
pub(crate) fn entity(kind: Kind, name: &str) -> String {
    format!("{}::{}", kind.name(), quoted(name))
}

/// One condition on a line of its own, or broken where it is too long for one.
fn lines(expr: &Expr, is_part: bool, indent: usize, end: &str, out: &mut String) {
    let on_one_line = if is_part { part(expr) } else { whole(expr) };
    let pad = " ".repeat(indent);
    if indent + on_one_line.chars().count() + end.len() <= WIDTH {
        let _ = writeln!(out, "{pad}{on_one_line}{end}");
        return;
    }
    let (open, close, items, joint): (_, _, &[Expr], _) = match expr {
        Expr::Or(items) => ("(", ")", items, " ||"),
        Expr::And(items) => ("(", ")", items, " &&"),
        Expr::Not(inner) => match &**inner {
            Expr::OneOf(attr, texts) if texts.len() > 1 => return list("!", texts, attr, &pad, end, out),
            inner => ("!(", ")", std::slice::from_ref(inner), ""),
        },
        Expr::OneOf(attr, texts) if texts.len() > 1 => return list("", texts, attr, &pad, end, out),
        Expr::In(kind, names) if names.len() > 1 => {
            let names: Vec<String> = names.iter().map(|name| entity(*kind, name)).collect();
            let _ = writeln!(out, "{pad}principal in [");
            items_of(&names, &pad, out);
            let _ = writeln!(out, "{pad}]{end}");
            return;
        }
        _ => {
            let _ = writeln!(out, "{pad}{on_one_line}{end}");
            return;
        }
    };
    let _ = writeln!(out, "{pad}{open}");
    for (at, item) in items.iter().enumerate() {
        let joint = if at + 1 < items.len() { joint } else { "" };
        lines(item, items.len() > 1, indent + 2, joint, out);
    }
    let _ = writeln!(out, "{pad}{close}{end}");
}

fn list(not: &str, texts: &[String], attr: &Attr, pad: &str, end: &str, out: &mut String) {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    let _ = writeln!(out, "{pad}{not}[");
    items_of(&texts, pad, out);
    let _ = writeln!(out, "{pad}].contains({}){end}", attribute(attr));
}

fn items_of(items: &[String], pad: &str, out: &mut String) {
    for (at, item) in items.iter().enumerate() {
        let comma = if at + 1 < items.len() { "," } else { "" };
        let _ = writeln!(out, "{pad}  {item}{comma}");
    }
}

/// As an operand of `&&` or `||`.
fn part(expr: &Expr) -> String {
    match expr {
        Expr::And(_) | Expr::Or(_) => format!("({})", whole(expr)),
        other => whole(other),
    }
}

/// As a condition by itself.
fn whole(expr: &Expr) -> String {
    let joined = |items: &[Expr], joint| items.iter().map(part).collect::<Vec<_>>().join(joint);
    match expr {
        Expr::True => "true".to_owned(),
        Expr::False => "false".to_owned(),
        Expr::And(items) => joined(items, " && "),
        Expr::Or(items) => joined(items, " || "),
        Expr::Not(inner) => match &**inner {
            Expr::OneOf(attr, texts) if texts.len() == 1 => format!("{} != {}", attribute(attr), quoted(&texts[0])),
            Expr::In(Kind::Service, names) if names.len() == 1 => {
                format!("principal != {}", entity(Kind::Service, &names[0]))
            }
            inner @ (Expr::OneOf(..) | Expr::InRange(..)) => format!("!{}", whole(inner)),
            inner => format!("!({})", whole(inner)),
        },
        Expr::OneOf(attr, texts) if texts.len() == 1 => format!("{} == {}", attribute(attr), quoted(&texts[0])),
        Expr::OneOf(attr, texts) => {
            let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
            format!("[{}].contains({})", texts.join(", "), attribute(attr))
        }
        Expr::Like(attr, pieces) => format!("{} like {}", attribute(attr), pattern(pieces)),
        Expr::In(Kind::Service, names) if names.len() == 1 => {
            format!("principal == {}", entity(Kind::Service, &names[0]))
        }
        Expr::In(kind, names) if names.len() == 1 => format!("principal in {}", entity(*kind, &names[0])),
        Expr::In(kind, names) => {
            let names: Vec<String> = names.iter().map(|name| entity(*kind, name)).collect();
            format!("principal in [{}]", names.join(", "))
        }
        Expr::InRange(attr, range) => format!("{}.isInRange(ip({}))", attribute(attr), quoted(range)),
        Expr::Has(attr) => {
            let (last, before) = attr.path.split_last().expect("an attribute has a name");
            let of = Attr { of: attr.of, path: before.to_vec() };
            let last = if is_identifier(last) { last.clone() } else { quoted(last) };
            format!("{} has {last}", attribute(&of))
        }
        Expr::Number(attr, Compare::Equal, number) => format!("{} == {number}", attribute(attr)),
        Expr::Number(attr, Compare::AtLeast, number) => format!("{} >= {number}", attribute(attr)),
    }
}

fn attribute(attr: &Attr) -> String {
    attr.path.iter().fold(attr.of.to_owned(), |text, name| match is_identifier(name) {
        true => format!("{text}.{name}"),
        false => format!("{text}[{}]", quoted(name)),
    })
}

fn is_identifier(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let reserved = ["true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"];
    name.starts_with(|c: char| word(c) && !c.is_ascii_digit()) && name.chars().all(word) && !reserved.contains(&name)
}

/// A string of Cedar.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    text.chars().for_each(|c| escape(c, &mut out));
    out.push('"');
    out
}

/// A pattern of Cedar, where a `*` that is meant is written `\*`.
fn pattern(pieces: &[Piece]) -> String {
    let mut out = String::from("\"");
    for piece in pieces {
        match piece {
            Piece::Any => out.push('*'),
            Piece::Text(text) => text.chars().for_each(|c| match c {
                '*' => out.push_str("\\*"),
                c => escape(c, &mut out),
            }),
        }
    }
    out.push('"');
    out
}

/// What cannot be seen, or makes other text look different, is written by its number.
fn escape(c: char, out: &mut String) {
    let unseen = c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        c if unseen => {
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        }
        c => out.push(c),
    }
}
