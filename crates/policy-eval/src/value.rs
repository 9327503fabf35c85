//! Values, as the language has them. Those of a request are borrowed; nothing is made to look at one.

use std::borrow::Cow;
use std::cmp::Ordering;

use crate::constant::{Constant, ConstantSet, EntityId};
use crate::ip::Ip;

/// The evaluator does not say what a policy makes of a request: Cedar has to.
///
/// Either evaluation ends in an error there, or the policy uses something that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskCedar;

/// The name of an attribute.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// Its number in the program: the position in the list that the builder was given, or one behind that list.
    pub number: u32,
    /// The name itself.
    pub text: &'a str,
}

/// A record whose attributes are made when a policy asks for them, like the context of a request.
///
/// What it answers must stay the same for as long as it is borrowed.
pub trait Attributes {
    /// The value of an attribute, if the record has it.
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>>;

    /// Whether the record has an attribute. To be overridden where that is cheaper to tell than the value.
    fn has(&self, name: Name<'_>) -> bool {
        self.get(name).is_some()
    }
}

/// One value.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Long(i64),
    /// A string.
    Text(&'a str),
    /// An entity.
    Entity(EntityId),
    /// An address, or a range of addresses.
    Ip(Ip),
    /// A set.
    Set(Set<'a>),
    /// A record.
    Record(Record<'a>),
}

/// A set, in any order and perhaps with doubles.
#[derive(Clone, Copy)]
pub enum Set<'a> {
    /// Strings of a request.
    Texts(&'a [Cow<'a, str>]),
    /// Anything else of a request, or what a policy has put together.
    Values(&'a [Value<'a>]),
    /// Written in a policy.
    #[doc(hidden)]
    Constants(&'a ConstantSet),
}

/// A record.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    /// One that is asked for its attributes.
    Attributes(&'a dyn Attributes),
    /// What a policy has put together: names by their numbers, in the order of these.
    #[doc(hidden)]
    Fields(&'a [(u32, Value<'a>)]),
    /// Written in a policy, in the same order.
    #[doc(hidden)]
    Constants(&'a [(u32, Constant)]),
}

impl<'a> Record<'a> {
    pub(crate) fn get(self, name: Name<'_>) -> Option<Value<'a>> {
        match self {
            Self::Attributes(record) => record.get(name),
            Self::Fields(fields) => {
                let at = fields.binary_search_by_key(&name.number, |(number, _)| *number).ok()?;
                Some(fields[at].1)
            }
            Self::Constants(fields) => {
                let at = fields.binary_search_by_key(&name.number, |(number, _)| *number).ok()?;
                Some(fields[at].1.value())
            }
        }
    }

    pub(crate) fn has(self, name: Name<'_>) -> bool {
        match self {
            Self::Attributes(record) => record.has(name),
            _ => self.get(name).is_some(),
        }
    }

    /// How many fields it has, and each of them; `None` for one that can only be asked.
    fn fields(self) -> Option<(usize, impl Fn(usize) -> (u32, Value<'a>))> {
        let len = match self {
            Self::Attributes(_) => return None,
            Self::Fields(fields) => fields.len(),
            Self::Constants(fields) => fields.len(),
        };
        let field = move |at: usize| match self {
            Self::Fields(fields) => fields[at],
            Self::Constants(fields) => (fields[at].0, fields[at].1.value()),
            Self::Attributes(_) => unreachable!("it has no fields to count"),
        };
        Some((len, field))
    }
}

impl<'a> Set<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.len() == 0
    }

    fn len(self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Values(values) => values.len(),
            Self::Constants(set) => set.items().len(),
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Value<'a>> {
        (0..self.len()).map(move |at| match self {
            Self::Texts(texts) => Value::Text(&texts[at]),
            Self::Values(values) => values[at],
            Self::Constants(set) => set.items()[at].value(),
        })
    }

    pub(crate) fn has_only_entities(self) -> bool {
        match self {
            Self::Constants(set) => set.has_only_entities(),
            _ => self.iter().all(|item| matches!(item, Value::Entity(_))),
        }
    }

    pub(crate) fn contains(self, value: Value<'_>) -> Result<bool, AskCedar> {
        match (self, value) {
            (Self::Texts(texts), Value::Text(text)) => Ok(texts.iter().any(|known| known == text)),
            (Self::Texts(_), _) => Ok(false),
            (Self::Constants(set), _) => set.contains(value),
            (Self::Values(_), _) => any(self.iter(), |item| equal(item, value)),
        }
    }

    pub(crate) fn contains_all(self, other: Set<'_>) -> Result<bool, AskCedar> {
        any(other.iter(), |item| Ok(!self.contains(item)?)).map(|missing| !missing)
    }

    pub(crate) fn contains_any(self, other: Set<'_>) -> Result<bool, AskCedar> {
        any(other.iter(), |item| self.contains(item))
    }
}

/// Whether `==` holds. Values of different types are different, which is no error.
///
/// # Errors
/// A record that can only be asked is compared with a record: it cannot say what else it has.
pub(crate) fn equal(left: Value<'_>, right: Value<'_>) -> Result<bool, AskCedar> {
    Ok(match (left, right) {
        (Value::Text(left), Value::Text(right)) => left == right,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Long(left), Value::Long(right)) => left == right,
        (Value::Entity(left), Value::Entity(right)) => left == right,
        (Value::Ip(left), Value::Ip(right)) => left == right,
        (Value::Set(left), Value::Set(right)) => left.contains_all(right)? && right.contains_all(left)?,
        (Value::Record(left), Value::Record(right)) => equal_records(left, right)?,
        _ => false,
    })
}

fn equal_records(left: Record<'_>, right: Record<'_>) -> Result<bool, AskCedar> {
    let (Some((len, left)), Some((other, right))) = (left.fields(), right.fields()) else { return Err(AskCedar) };
    if len != other {
        return Ok(false);
    }
    let differs = any(0..len, |at| {
        let ((name, mine), (other, theirs)) = (left(at), right(at));
        Ok(name != other || !equal(mine, theirs)?)
    });
    differs.map(|differs| !differs)
}

fn any<T>(items: impl Iterator<Item = T>, mut is: impl FnMut(T) -> Result<bool, AskCedar>) -> Result<bool, AskCedar> {
    for item in items {
        if is(item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The place of a value in the order of constants; `None` for sets and records, which have to be compared one by one.
pub(crate) fn order(constant: &Constant, value: Value<'_>) -> Option<Ordering> {
    Some(match (constant, value) {
        (Constant::Text(left), Value::Text(right)) => (**left).cmp(right),
        (Constant::Bool(left), Value::Bool(right)) => left.cmp(&right),
        (Constant::Long(left), Value::Long(right)) => left.cmp(&right),
        (Constant::Entity(left), Value::Entity(right)) => left.cmp(&right),
        (Constant::Ip(left), Value::Ip(right)) => left.cmp(&right),
        (_, Value::Set(_) | Value::Record(_)) => return None,
        _ => constant.rank().cmp(&rank(value)),
    })
}

fn rank(value: Value<'_>) -> u8 {
    match value {
        Value::Bool(_) => 0,
        Value::Long(_) => 1,
        Value::Text(_) => 2,
        Value::Entity(_) => 3,
        Value::Ip(_) => 4,
        Value::Set(_) => 5,
        Value::Record(_) => 6,
    }
}

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

    fn rank(&self) -> u8 {
        rank(self.value())
    }
}

impl ConstantSet {
    pub(crate) fn contains(&self, value: Value<'_>) -> Result<bool, AskCedar> {
        if !matches!(value, Value::Set(_) | Value::Record(_)) {
            let found = self.items().binary_search_by(|item| order(item, value).expect("neither a set nor a record"));
            return Ok(found.is_ok());
        }
        for item in self.items() {
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
