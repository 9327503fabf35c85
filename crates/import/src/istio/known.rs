//! Callers in plain text. Istio's rules about identities never match them, and `notPrincipals: ["*"]` is how to say them; here they are
//! `Service::"plain-text"`, which every `forbid` means and a `permit` only by its scope.

use weft_model::PLAIN_TEXT;

use super::bounds::Bounds;
use super::principal::wildcard;
use crate::cedar::expr::{Expr, Kind, and, not, or, service};

/// A condition on the caller's identity, which nobody without one fulfils.
pub(super) fn only_known(bounds: Bounds) -> Bounds {
    let only = |expr: Expr| if is_true_of_plain_text(&expr) { and([expr, not(service(PLAIN_TEXT))]) } else { expr };
    Bounds { narrow: only(bounds.narrow), broad: only(bounds.broad), ..bounds }
}

/// Whether a condition holds for everyone, or for everyone who shows who they are.
pub(super) fn is_everyone(expr: &Expr) -> bool {
    *expr == Expr::True || *expr == not(service(PLAIN_TEXT))
}

/// What the condition is to whoever calls in plain text: by name, as nothing else is known of it.
fn is_true_of_plain_text(expr: &Expr) -> bool {
    let value = |path: &[String]| if path == ["name"] { PLAIN_TEXT } else { "" };
    match expr {
        Expr::True => true,
        Expr::Not(inner) => !is_true_of_plain_text(inner),
        Expr::And(all) => all.iter().all(is_true_of_plain_text),
        Expr::Or(any) => any.iter().any(is_true_of_plain_text),
        Expr::OneOf(attr, texts) => texts.iter().any(|text| *text == value(&attr.path)),
        Expr::Like(attr, pieces) => wildcard(pieces, value(&attr.path)),
        Expr::In(Kind::Service, names) => names.iter().any(|name| name == PLAIN_TEXT),
        _ => false,
    }
}

/// A permit's condition, of which its scope has said whether the caller is in plain text.
pub(super) fn settled(expr: Expr, plain: bool) -> Expr {
    match expr {
        Expr::Not(inner) => not(settled(*inner, plain)),
        Expr::And(items) => and(items.into_iter().map(|item| settled(item, plain))),
        Expr::Or(items) => or(items.into_iter().map(|item| settled(item, plain))),
        Expr::In(Kind::Service, names) if names.iter().any(|name| name == PLAIN_TEXT) => {
            let others = names.into_iter().filter(|name| name != PLAIN_TEXT);
            if plain { Expr::True } else { or(others.map(service)) }
        }
        other => other,
    }
}
