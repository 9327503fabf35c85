//! What an expression is. Nothing is allocated, but for a set or a record that a policy puts together.
//!
//! The meaning is Cedar's. Wherever that is an error, [`AskCedar`] comes out: who asks gets the error in Cedar's own words.

use std::cell::OnceCell;

use crate::constant::EntityId;
use crate::ip::Ip;
use crate::node::{Binary, IpTest, List, Node, NodeId};
use crate::program::{Code, Program};
use crate::value::{AskCedar, Attributes, Name, Record, Set, Value, equal};

/// A set or a record that was put together.
pub(crate) enum Made<'a> {
    Set(Box<[Value<'a>]>),
    Record(Box<[(u32, Value<'a>)]>),
}

/// One policy, one request.
#[derive(Clone, Copy)]
pub(crate) struct Evaluation<'a> {
    pub(crate) program: &'a Program,
    /// `None` while policies are compiled.
    pub(crate) principal: Option<EntityId>,
    /// Likewise.
    pub(crate) context: Option<&'a dyn Attributes>,
    /// One for each place where the policy puts something together.
    pub(crate) cells: &'a [OnceCell<Made<'a>>],
}

impl Program {
    /// What a condition is for this principal in this context.
    ///
    /// # Errors
    /// [`AskCedar`]: evaluating the policy there may end in an error, or in anything else.
    pub fn evaluate(&self, code: Code, principal: EntityId, context: &dyn Attributes) -> Result<bool, AskCedar> {
        let cells: Vec<_> = (0..code.cells).map(|_| Default::default()).collect();
        Evaluation { program: self, principal: Some(principal), context: Some(context), cells: &cells }.test(code.root)
    }
}

impl<'a> Evaluation<'a> {
    /// What must be a boolean.
    pub(crate) fn test(&self, id: NodeId) -> Result<bool, AskCedar> {
        match self.program.node(id) {
            Node::All(list) => {
                for each in self.program.list_of_nodes(list) {
                    if !self.test(each)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Node::Any(list) => {
                for each in self.program.list_of_nodes(list) {
                    if self.test(each)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Node::Not(of) => Ok(!self.test(of)?),
            Node::Has { of, path } => self.has(of, path),
            Node::Like { of, pattern } => Ok(self.program.patterns[pattern as usize].matches(self.text(of)?)),
            Node::IsEmpty(of) => Ok(self.set(of)?.is_empty()),
            Node::Is { of, kind } => Ok(self.program.entity(self.entity(of)?).kind == kind),
            Node::IpTest { test, of } => Ok(ask(test, self.ip(of)?)),
            Node::Binary { operator: Binary::Equal, left, right } => equal(self.value(left)?, self.value(right)?),
            _ => match self.value(id)? {
                Value::Bool(value) => Ok(value),
                _ => Err(AskCedar),
            },
        }
    }

    pub(crate) fn value(&self, id: NodeId) -> Result<Value<'a>, AskCedar> {
        let node = self.program.node(id);
        Ok(match node {
            Node::Constant(number) => self.program.constant(number).value(),
            Node::Principal => Value::Entity(self.principal.ok_or(AskCedar)?),
            Node::Context => Value::Record(Record::Attributes(self.context.ok_or(AskCedar)?)),
            Node::Attribute { of, name } if self.program.node(of) == Node::Context => {
                self.context.and_then(|context| context.get(self.program.name(name))).ok_or(AskCedar)?
            }
            Node::Attribute { of, name } => self.attribute(self.value(of)?, self.program.name(name)).ok_or(AskCedar)?,
            Node::Negate(of) => Value::Long(self.long(of)?.checked_neg().ok_or(AskCedar)?),
            Node::If { test, then, otherwise } => self.value(if self.test(test)? { then } else { otherwise })?,
            Node::Binary { operator, left, right } => self.binary(operator, left, right)?,
            Node::Set { items, cell } => self.make_set(items, cell)?,
            Node::Record { fields, cell } => self.make_record(fields, cell)?,
            Node::Ip(of) => Value::Ip(Ip::parse(self.text(of)?).ok_or(AskCedar)?),
            Node::AskCedar => return Err(AskCedar),
            Node::Has { .. } | Node::Not(_) | Node::IsEmpty(_) | Node::All(_) | Node::Any(_) => {
                Value::Bool(self.test(id)?)
            }
            Node::Like { .. } | Node::Is { .. } | Node::IpTest { .. } => Value::Bool(self.test(id)?),
        })
    }

    fn binary(&self, operator: Binary, left: NodeId, right: NodeId) -> Result<Value<'a>, AskCedar> {
        let longs = || Ok((self.long(left)?, self.long(right)?));
        Ok(match operator {
            Binary::Equal => Value::Bool(equal(self.value(left)?, self.value(right)?)?),
            Binary::Less => longs().map(|(left, right)| Value::Bool(left < right))?,
            Binary::LessOrEqual => longs().map(|(left, right)| Value::Bool(left <= right))?,
            Binary::Add => longs().and_then(|(left, right)| number(left.checked_add(right)))?,
            Binary::Subtract => longs().and_then(|(left, right)| number(left.checked_sub(right)))?,
            Binary::Multiply => longs().and_then(|(left, right)| number(left.checked_mul(right)))?,
            Binary::In => Value::Bool(self.is_in(self.entity(left)?, self.value(right)?)?),
            Binary::Contains => Value::Bool(self.set(left)?.contains(self.value(right)?)?),
            Binary::ContainsAll => Value::Bool(self.set(left)?.contains_all(self.set(right)?)?),
            Binary::ContainsAny => Value::Bool(self.set(left)?.contains_any(self.set(right)?)?),
            Binary::IsInRange => Value::Bool(self.ip(left)?.is_in_range(self.ip(right)?)),
        })
    }

    fn attribute(&self, of: Value<'a>, name: Name<'_>) -> Option<Value<'a>> {
        match of {
            Value::Record(record) => record.get(name),
            Value::Entity(entity) => {
                let attributes = &self.program.entity(entity).facts.as_ref()?.attributes;
                let at = attributes.binary_search_by_key(&name.number, |(number, _)| *number).ok()?;
                Some(self.program.constant(attributes[at].1).value())
            }
            _ => None,
        }
    }

    fn has(&self, of: NodeId, path: List) -> Result<bool, AskCedar> {
        let mut value = self.value(of)?;
        let (last, before) = self.program.list(path).split_last().expect("there is a name");
        for name in before {
            if !matches!(value, Value::Record(_) | Value::Entity(_)) {
                return Err(AskCedar);
            }
            let Some(next) = self.attribute(value, self.program.name(*name)) else { return Ok(false) };
            value = next;
        }
        match value {
            Value::Record(record) => Ok(record.has(self.program.name(*last))),
            Value::Entity(_) => Ok(self.attribute(value, self.program.name(*last)).is_some()),
            _ => Err(AskCedar),
        }
    }

    /// Each entity is in itself, also one of which nothing is known.
    fn is_in(&self, entity: EntityId, groups: Value<'_>) -> Result<bool, AskCedar> {
        let ancestors = self.program.entity(entity).facts.as_ref().map_or(&[][..], |facts| &facts.ancestors);
        match groups {
            Value::Entity(group) => Ok(entity == group || ancestors.binary_search(&group).is_ok()),
            Value::Set(set) if set.has_only_entities() => {
                let mut is_in = set.contains(Value::Entity(entity))?;
                for ancestor in ancestors {
                    is_in = is_in || set.contains(Value::Entity(*ancestor))?;
                }
                Ok(is_in)
            }
            _ => Err(AskCedar),
        }
    }

    fn make_set(&self, items: List, cell: u32) -> Result<Value<'a>, AskCedar> {
        let made = self.program.list_of_nodes(items).map(|item| self.value(item)).collect::<Result<_, _>>()?;
        match self.cells[cell as usize].get_or_init(|| Made::Set(made)) {
            Made::Set(items) => Ok(Value::Set(Set::Values(items))),
            Made::Record(_) => Err(AskCedar),
        }
    }

    fn make_record(&self, fields: List, cell: u32) -> Result<Value<'a>, AskCedar> {
        let pairs = self.program.list(fields).chunks_exact(2);
        let made = pairs.map(|pair| Ok((pair[0], self.value(NodeId(pair[1]))?))).collect::<Result<_, _>>()?;
        match self.cells[cell as usize].get_or_init(|| Made::Record(made)) {
            Made::Record(fields) => Ok(Value::Record(Record::Fields(fields))),
            Made::Set(_) => Err(AskCedar),
        }
    }

    fn text(&self, id: NodeId) -> Result<&'a str, AskCedar> {
        if let Value::Text(text) = self.value(id)? { Ok(text) } else { Err(AskCedar) }
    }

    fn long(&self, id: NodeId) -> Result<i64, AskCedar> {
        if let Value::Long(value) = self.value(id)? { Ok(value) } else { Err(AskCedar) }
    }

    fn entity(&self, id: NodeId) -> Result<EntityId, AskCedar> {
        if let Value::Entity(entity) = self.value(id)? { Ok(entity) } else { Err(AskCedar) }
    }

    fn set(&self, id: NodeId) -> Result<Set<'a>, AskCedar> {
        if let Value::Set(set) = self.value(id)? { Ok(set) } else { Err(AskCedar) }
    }

    fn ip(&self, id: NodeId) -> Result<Ip, AskCedar> {
        if let Value::Ip(ip) = self.value(id)? { Ok(ip) } else { Err(AskCedar) }
    }
}

fn number<'a>(result: Option<i64>) -> Result<Value<'a>, AskCedar> {
    result.map(Value::Long).ok_or(AskCedar)
}

fn ask(test: IpTest, ip: Ip) -> bool {
    match test {
        IpTest::V4 => ip.is_v4(),
        IpTest::V6 => ip.is_v6(),
        IpTest::Loopback => ip.is_loopback(),
        IpTest::Multicast => ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
