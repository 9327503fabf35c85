//! Values that are known when policies are compiled, kept by the program.

use crate::ip::Ip;
use crate::value::{AskCedar, EntityId, Record, Set, Value, equal, order};

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
    pub(crate) fn value(&self) -> Value<'_> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Long(value) => Value::Long(*value),
            Self::Text(text) => Value::Text(text),
            Self::Entity(entity) => Value::Entity(*entity),
            Self::Ip(ip) => Value::Ip(*ip),
            Self::Set(set) => Value::Set(Set::Constants(set)),
            Self::Record(fields) => Value::Record(Record::Constants(fields)),
        }
    }

    /// Keeps a value, unless a record in it can only be asked.
    pub(crate) fn of(value: Value<'_>) -> Option<Self> {
        Some(match value {
            Value::Bool(value) => Self::Bool(value),
            Value::Long(value) => Self::Long(value),
            Value::Text(text) => Self::Text(text.into()),
            Value::Entity(entity) => Self::Entity(entity),
            Value::Ip(ip) => Self::Ip(ip),
            Value::Set(set) => Self::Set(ConstantSet::new(set.iter().map(Self::of).collect::<Option<_>>()?)),
            Value::Record(Record::Attributes(_)) => return None,
            Value::Record(Record::Constants(fields)) => Self::Record(fields.into()),
            Value::Record(Record::Fields(fields)) => {
                let fields = fields.iter().map(|(name, value)| Some((*name, Self::of(*value)?)));
                Self::Record(fields.collect::<Option<_>>()?)
            }
        })
    }

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

    pub(crate) fn contains(&self, value: Value<'_>) -> Result<bool, AskCedar> {
        if !matches!(value, Value::Set(_) | Value::Record(_)) {
            let found = self.0.binary_search_by(|item| order(item, value).expect("neither a set nor a record"));
            return Ok(found.is_ok());
        }
        for item in &self.0 {
            if equal(item.value(), value)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_everything_finds_each_of_its_items_and_nothing_else() {
        let text = |text: &str| Constant::Text(text.into());
        let inner = Constant::Set(ConstantSet::new(vec![text("x"), Constant::Long(1)]));
        let record = Constant::Record(Box::new([(3, Constant::Bool(true))]));
        let ip = Constant::Ip(Ip::parse("10.0.0.0/8").expect("a range"));
        let items =
            [Constant::Long(-1), text("b"), text("a"), Constant::Bool(false), ip, inner, record, text("a")].to_vec();
        let set = ConstantSet::new(items.clone());
        assert_eq!(set.items().len(), 7);
        for item in &items {
            assert_eq!(set.contains(item.value()), Ok(true), "{item:?}");
        }
        for other in [Constant::Long(1), text(""), Constant::Bool(true), Constant::Entity(EntityId(0))] {
            assert_eq!(set.contains(other.value()), Ok(false), "{other:?}");
        }
        assert_eq!(set.contains(Value::Record(Record::Fields(&[(3, Value::Bool(true))]))), Ok(true));
        assert_eq!(set.contains(Value::Record(Record::Fields(&[(4, Value::Bool(true))]))), Ok(false));
    }
}
