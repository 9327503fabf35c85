//! What cannot end in an error, and of which type it then is.
//!
//! A policy may be left out where a condition is false only if nothing before that condition can be an error. So the answer
//! here may always be "not certain", and never wrong.

use crate::builder::Builder;
use crate::constant::Constant;
use crate::node::{Binary, IpTest, List, Node, NodeId};
use crate::principals::Principals;
use crate::program::Program;
use crate::shape::{Field, Kind};
use crate::value::Set;

/// What an expression is looked at with.
#[derive(Clone, Copy)]
pub(crate) struct Certain<'a> {
    pub(crate) builder: &'a Builder,
    pub(crate) principals: &'a Principals,
    pub(crate) context: fn(&[&str]) -> Option<Field>,
}

/// What was asked with `has` on the way: a node, and the number of a name.
pub(crate) type Known = Vec<(NodeId, u32)>;

impl<'a> Certain<'a> {
    pub(crate) fn program(&self) -> &'a Program {
        &self.builder.program
    }

    /// Whether a condition that is reached when `known` holds is true or false, and no error.
    pub(crate) fn is_test(&self, id: NodeId, known: &Known) -> bool {
        self.kind(id, known) == Some(Kind::Bool)
    }

    /// The type of an expression that is reached when `known` holds; `None` if it could be an error.
    pub(crate) fn kind(&self, id: NodeId, known: &Known) -> Option<Kind> {
        let is = |id, kind| (self.kind(id, known) == Some(kind)).then_some(());
        match self.program().node(id) {
            Node::Constant(number) => Some(Kind::of(self.program().constant(number))),
            Node::Principal => Some(Kind::Entity),
            Node::Context => Some(Kind::Record),
            Node::Attribute { of, name } => self.attribute(id, of, name, known),
            Node::Has { of, path } => self.has(of, path, known),
            Node::Not(of) => is(of, Kind::Bool).map(|()| Kind::Bool),
            Node::IsEmpty(of) => is(of, Kind::Set).map(|()| Kind::Bool),
            Node::All(list) => self.junction(list, true, known),
            Node::Any(list) => self.junction(list, false, known),
            Node::If { test, then, otherwise } => {
                is(test, Kind::Bool)?;
                let then = self.kind(then, &self.when(test, true, known))?;
                let otherwise = self.kind(otherwise, &self.when(test, false, known))?;
                Some(if then == otherwise { then } else { Kind::Any })
            }
            Node::Binary { operator, left, right } => self.binary(operator, left, right, known),
            Node::Like { of, .. } => is(of, Kind::Text).map(|()| Kind::Bool),
            Node::Is { of, .. } => is(of, Kind::Entity).map(|()| Kind::Bool),
            Node::Set { items, .. } => {
                let mut items = self.program().list_of_nodes(items);
                items.all(|item| self.kind(item, known).is_some()).then_some(Kind::Set)
            }
            Node::Record { fields, .. } => {
                let mut fields = self.program().list(fields).chunks_exact(2);
                fields.all(|pair| self.kind(NodeId(pair[1]), known).is_some()).then_some(Kind::Record)
            }
            Node::IpTest { test: IpTest::V4 | IpTest::V6 | IpTest::Loopback | IpTest::Multicast, of } => {
                is(of, Kind::Ip).map(|()| Kind::Bool)
            }
            // Arithmetic can pass the bounds of a number; `ip` of what comes with a request may be no address.
            Node::Negate(_) | Node::Ip(_) | Node::AskCedar => None,
        }
    }

    fn junction(&self, list: List, each: bool, known: &Known) -> Option<Kind> {
        let mut known = known.clone();
        for operand in self.program().list_of_nodes(list) {
            self.is_test(operand, &known).then_some(())?;
            self.learn(operand, each, &mut known);
        }
        Some(Kind::Bool)
    }

    fn binary(&self, operator: Binary, left: NodeId, right: NodeId, known: &Known) -> Option<Kind> {
        let (left, right) = (self.kind(left, known)?, (right, self.kind(right, known)?));
        let holds = match operator {
            Binary::Equal => true,
            Binary::Less | Binary::LessOrEqual => (left, right.1) == (Kind::Long, Kind::Long),
            Binary::Add | Binary::Subtract | Binary::Multiply => false,
            Binary::In => {
                let only_entities = || match self.program().constant_at(right.0) {
                    Some(Constant::Set(set)) => Set::Constants(set).has_only_entities(),
                    _ => false,
                };
                left == Kind::Entity && (right.1 == Kind::Entity || only_entities())
            }
            Binary::Contains => left == Kind::Set,
            Binary::ContainsAll | Binary::ContainsAny => (left, right.1) == (Kind::Set, Kind::Set),
            Binary::IsInRange => (left, right.1) == (Kind::Ip, Kind::Ip),
        };
        holds.then_some(Kind::Bool)
    }

    fn attribute(&self, id: NodeId, of: NodeId, name: u32, known: &Known) -> Option<Kind> {
        let asked = known.contains(&(of, name));
        match self.kind(of, known)? {
            Kind::Entity | Kind::Record => {}
            _ => return None,
        }
        if self.program().node(of) == Node::Principal {
            let everyone = self.principals.all_have(name);
            // Attributes of entities are strings.
            return (everyone || asked).then_some(Kind::Text);
        }
        match self.field(id) {
            Some(field) => (field.always || asked).then_some(field.kind),
            None => asked.then_some(Kind::Any),
        }
    }

    /// What is said of an attribute of the context.
    pub(crate) fn field(&self, id: NodeId) -> Option<Field> {
        (self.context)(&self.program().context_path(id)?)
    }

    /// `has a.b` is an error if `a` is there and is no record.
    fn has(&self, of: NodeId, path: List, known: &Known) -> Option<Kind> {
        if !matches!(self.kind(of, known)?, Kind::Entity | Kind::Record) {
            return None;
        }
        let names = self.program().list(path);
        if names.len() > 1 {
            let mut at = self.program().context_path(of)?;
            for name in &names[..names.len() - 1] {
                at.push(self.program().name(*name).text);
                (self.context)(&at).filter(|field| field.kind == Kind::Record)?;
            }
        }
        Some(Kind::Bool)
    }

    /// What holds as well, if a boolean is this.
    fn when(&self, id: NodeId, value: bool, known: &Known) -> Known {
        let mut known = known.clone();
        self.learn(id, value, &mut known);
        known
    }

    /// The same, in place.
    pub(crate) fn learn(&self, id: NodeId, value: bool, known: &mut Known) {
        match self.program().node(id) {
            Node::Not(of) => self.learn(of, !value, known),
            Node::All(list) if value => {
                self.program().list_of_nodes(list).for_each(|each| self.learn(each, true, known))
            }
            Node::Any(list) if !value => {
                self.program().list_of_nodes(list).for_each(|each| self.learn(each, false, known))
            }
            Node::Has { of, path } if value => {
                let mut of = Some(of);
                for name in self.program().list(path) {
                    let Some(record) = of else { break };
                    known.push((record, *name));
                    of = self.builder.find(Node::Attribute { of: record, name: *name });
                }
            }
            _ => {}
        }
    }
}
