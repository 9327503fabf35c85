//! A compiled expression: nodes that name each other by number. Equal nodes of a program are one node.

use crate::constant::EntityId;

/// A node's place in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(crate) u32);

/// A place in the program's lists of numbers: a length, and as many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct List(pub(crate) u32);

/// One operation. The action, the resource and all that follows from them are constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    /// By its number among the program's constants.
    Constant(u32),
    Principal,
    Context,
    /// `of.name`.
    Attribute {
        of: NodeId,
        name: u32,
    },
    /// `of has a.b.c`: a list of names.
    Has {
        of: NodeId,
        path: List,
    },
    Not(NodeId),
    Negate(NodeId),
    IsEmpty(NodeId),
    /// `a && b && c`: a list of nodes, none of which is one of this kind.
    All(List),
    /// `a || b || c`, likewise.
    Any(List),
    If {
        test: NodeId,
        then: NodeId,
        otherwise: NodeId,
    },
    Binary {
        operator: Binary,
        left: NodeId,
        right: NodeId,
    },
    /// By its number among the program's patterns.
    Like {
        of: NodeId,
        pattern: u32,
    },
    /// By the number of the type.
    Is {
        of: NodeId,
        kind: u32,
    },
    /// A list of nodes; where the set is kept while one policy is evaluated.
    Set {
        items: List,
        cell: u32,
    },
    /// A list of names and nodes, in turn, by the numbers of the names.
    Record {
        fields: List,
        cell: u32,
    },
    /// `ip("...")` of what is not known yet.
    Ip(NodeId),
    IpTest {
        test: IpTest,
        of: NodeId,
    },
    /// What only Cedar can say, or an error whatever the request is.
    AskCedar,
}

/// An operator of two operands, both of which are always evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Binary {
    Equal,
    Less,
    LessOrEqual,
    Add,
    Subtract,
    Multiply,
    In,
    Contains,
    ContainsAll,
    ContainsAny,
    IsInRange,
}

/// What an address can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum IpTest {
    V4,
    V6,
    Loopback,
    Multicast,
}

impl Node {
    /// True if it evaluates to a boolean, if to anything.
    pub(crate) fn is_boolean(self) -> bool {
        match self {
            Self::Has { .. } | Self::Not(_) | Self::IsEmpty(_) | Self::All(_) | Self::Any(_) => true,
            Self::Like { .. } | Self::Is { .. } | Self::IpTest { .. } => true,
            Self::Binary { operator, .. } => !matches!(operator, Binary::Add | Binary::Subtract | Binary::Multiply),
            _ => false,
        }
    }
}

/// An entity's place among its types and groups, and its attributes.
#[derive(Clone, Debug)]
pub(crate) struct Entity {
    /// By the number of its type.
    pub(crate) kind: u32,
    /// `None` for one that is only named: asking for its attributes is an error.
    pub(crate) facts: Option<Facts>,
}

/// What is known of an entity.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Names and constants by their numbers, by those of the names.
    pub(crate) attributes: Box<[(u32, u32)]>,
    /// Sorted, without itself.
    pub(crate) ancestors: Box<[EntityId]>,
}
