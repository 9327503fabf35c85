//! What is certain of a value before it is there.

use crate::constant::{Constant, EntityId};

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `false`.
    Bool,
    /// A whole number.
    Long,
    /// A string.
    Text,
    /// An entity.
    Entity,
    /// An address or a range.
    Ip,
    /// A set.
    Set,
    /// A record.
    Record,
    /// It is there, and may be of any type.
    Any,
}

/// Words of a request by which policies can be looked up.
pub const WORDS: usize = 2;

/// How policies that compare an attribute of the context can be looked up by its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is a word of a request, such as its method: the position among the [`WORDS`].
    Word(usize),
    /// It is the text of a request, such as a path.
    Text,
    /// Where it is there, the text begins with it.
    Head,
}

/// An attribute of the context, or of a record in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its type, where it is there.
    pub kind: Kind,
    /// True if it is always there, given that the record is that it belongs to.
    pub always: bool,
    /// How it can be looked up.
    pub lookup: Option<Lookup>,
}

/// What is the same for all requests that a program is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The action.
    pub action: EntityId,
    /// The resource.
    pub resource: EntityId,
    /// What is certain of the context: told for the names from the context down, `None` if nothing is.
    pub context: fn(&[&str]) -> Option<Field>,
}

impl Kind {
    pub(crate) fn of(constant: &Constant) -> Self {
        match constant {
            Constant::Bool(_) => Self::Bool,
            Constant::Long(_) => Self::Long,
            Constant::Text(_) => Self::Text,
            Constant::Entity(_) => Self::Entity,
            Constant::Ip(_) => Self::Ip,
            Constant::Set(_) => Self::Set,
            Constant::Record(_) => Self::Record,
        }
    }
}
