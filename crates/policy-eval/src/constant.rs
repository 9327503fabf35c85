//! Values that are known when policies are compiled, kept by the program.

use crate::ip::Ip;

/// An entity that some policy, principal or group is about, by its number in the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId(pub(crate) u32);

/// One value. The order of the variants is that of the types in a sorted set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(hidden)]
pub enum Constant {
    Bool(bool),
    Long(i64),
    Text(Box<str>),
    Entity(EntityId),
    Ip(Ip),
    Set(ConstantSet),
    /// By the numbers of the names.
    Record(Box<[(u32, Constant)]>),
}

/// Sorted, without doubles.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[doc(hidden)]
pub struct ConstantSet(Box<[Constant]>);

impl Constant {
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl ConstantSet {
    pub(crate) fn new(mut items: Vec<Constant>) -> Self {
        items.sort_unstable();
        items.dedup();
        Self(items.into())
    }

    pub(crate) fn items(&self) -> &[Constant] {
        &self.0
    }

    /// Told by the ends: items are in the order of their types.
    pub(crate) fn has_only_entities(&self) -> bool {
        [self.0.first(), self.0.last()].iter().flatten().all(|item| matches!(item, Constant::Entity(_)))
    }
}
