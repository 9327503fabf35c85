//! Conditions of a Cedar policy as typed pieces, made by constructors that leave out what says nothing.
//!
//! Order is kept: a `has` stands before what it guards.

/// A condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expr {
    True,
    False,
    Not(Box<Self>),
    /// Two at least, none of them an `And`.
    And(Vec<Self>),
    /// Two at least, none of them an `Or`.
    Or(Vec<Self>),
    /// The attribute is one of these texts.
    OneOf(Attr, Vec<String>),
    Like(Attr, Vec<Piece>),
    /// The caller is one of these services, or in one of these namespaces.
    In(Kind, Vec<String>),
    /// The caller's address is in this range, `10.0.0.0/8`.
    InRange(Attr, String),
    Has(Attr),
    Number(Attr, Compare, u64),
}

/// An attribute, like `context.path` or `principal.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attr {
    pub(crate) of: &'static str,
    pub(crate) path: Vec<String>,
}

/// Part of a pattern of `like`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    /// `*`: anything, slashes too.
    Any,
}

/// What an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Service,
    Namespace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    AtLeast,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Namespace => "Namespace",
        }
    }
}

/// `context.<name>`.
pub(crate) fn context(name: &str) -> Attr {
    Attr { of: "context", path: vec![name.to_owned()] }
}

/// `principal.<name>`.
pub(crate) fn principal(name: &str) -> Attr {
    Attr { of: "principal", path: vec![name.to_owned()] }
}

/// `resource.<name>`.
pub(crate) fn resource(name: &str) -> Attr {
    Attr { of: "resource", path: vec![name.to_owned()] }
}

pub(crate) fn equal(attr: Attr, text: impl Into<String>) -> Expr {
    Expr::OneOf(attr, vec![text.into()])
}

/// The caller is this service.
pub(crate) fn service(name: impl ToString) -> Expr {
    Expr::In(Kind::Service, vec![name.to_string()])
}

/// The caller is in this namespace.
pub(crate) fn namespace(name: impl Into<String>) -> Expr {
    Expr::In(Kind::Namespace, vec![name.into()])
}

pub(crate) fn like(attr: Attr, pieces: Vec<Piece>) -> Expr {
    Expr::Like(attr, pieces)
}

/// Not the condition. That of several alternatives is none of them, which reads better one by one.
pub(crate) fn not(expr: Expr) -> Expr {
    match expr {
        Expr::True => Expr::False,
        Expr::False => Expr::True,
        Expr::Not(inner) => *inner,
        Expr::Or(items) => and(items.into_iter().map(not)),
        other => Expr::Not(Box::new(other)),
    }
}

/// All of these.
pub(crate) fn and(items: impl IntoIterator<Item = Expr>) -> Expr {
    let mut all = Vec::new();
    for item in items {
        match item {
            Expr::True => {}
            Expr::False => return Expr::False,
            Expr::And(inner) => inner.into_iter().for_each(|item| push(&mut all, item)),
            other => push(&mut all, other),
        }
    }
    one_or(all, Expr::True, Expr::And)
}

/// Any of these; texts for one attribute become one list.
pub(crate) fn or(items: impl IntoIterator<Item = Expr>) -> Expr {
    let mut any: Vec<Expr> = Vec::new();
    for item in items {
        match item {
            Expr::False => {}
            Expr::True => return Expr::True,
            Expr::Or(inner) => inner.into_iter().for_each(|item| merge(&mut any, item)),
            other => merge(&mut any, other),
        }
    }
    one_or(any, Expr::False, Expr::Or)
}

fn one_or(mut items: Vec<Expr>, none: Expr, several: fn(Vec<Expr>) -> Expr) -> Expr {
    match items.len() {
        0 => none,
        1 => items.remove(0),
        _ => several(items),
    }
}

fn push(items: &mut Vec<Expr>, item: Expr) {
    if !items.contains(&item) {
        items.push(item);
    }
}

fn merge(items: &mut Vec<Expr>, item: Expr) {
    let (into, more) = match &item {
        Expr::OneOf(attr, texts) => {
            let into = items.iter_mut().find_map(|known| match known {
                Expr::OneOf(same, known) if same == attr => Some(known),
                _ => None,
            });
            (into, texts)
        }
        Expr::In(kind, names) => {
            let into = items.iter_mut().find_map(|known| match known {
                Expr::In(same, known) if same == kind => Some(known),
                _ => None,
            });
            (into, names)
        }
        _ => return push(items, item),
    };
    match into {
        Some(known) => {
            for text in more {
                if !known.contains(text) {
                    known.push(text.clone());
                }
            }
        }
        None => items.push(item),
    }
}
