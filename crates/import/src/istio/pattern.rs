//! How Istio reads a value: whole, as a prefix `abc*`, as a suffix `*abc`, or `*` for anything that is there. A `*` anywhere else is
//! that character.

use crate::cedar::expr::{Attr, Expr, Piece, equal, like};

/// A value, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern<'a> {
    Present,
    Suffix(&'a str),
    Prefix(&'a str),
    Exact(&'a str),
}

/// Reads a value. A `*` at the start counts before one at the end.
pub(super) fn read(value: &str) -> Pattern<'_> {
    if value == "*" {
        return Pattern::Present;
    }
    match (value.strip_prefix('*'), value.strip_suffix('*')) {
        (Some(rest), _) => Pattern::Suffix(rest),
        (None, Some(rest)) => Pattern::Prefix(rest),
        (None, None) => Pattern::Exact(value),
    }
}

impl Pattern<'_> {
    /// Whether a `*` is left, which looks like a wildcard and is none.
    pub(super) fn has_star(self) -> bool {
        match self {
            Self::Present => false,
            Self::Suffix(text) | Self::Prefix(text) | Self::Exact(text) => text.contains('*'),
        }
    }

    /// Whether a text matches.
    pub(super) fn matches(self, text: &str) -> bool {
        match self {
            Self::Present => !text.is_empty(),
            Self::Suffix(end) => text.ends_with(end),
            Self::Prefix(start) => text.starts_with(start),
            Self::Exact(whole) => text == whole,
        }
    }

    /// The condition on an attribute that is never empty.
    pub(super) fn on(self, attr: Attr) -> Expr {
        match self {
            Self::Present => Expr::True,
            Self::Suffix(end) => like(attr, vec![Piece::Any, Piece::Text(end.to_owned())]),
            Self::Prefix(start) => like(attr, vec![Piece::Text(start.to_owned()), Piece::Any]),
            Self::Exact(whole) => equal(attr, whole),
        }
    }
}

/// What to say of a value that [has a star](Pattern::has_star).
pub(super) fn star_note(value: &str) -> String {
    format!(
        "the `*` within `{}` is no wildcard in Istio but that character, and so it is here",
        crate::report::short(value)
    )
}
