//! Which principals a condition can hold for, told before any of them calls.

use std::collections::HashMap;

use crate::bits::Bits;
use crate::constant::{Constant, EntityId};
use crate::node::{Binary, List, Node, NodeId};
use crate::program::{Code, Program};
use crate::value::{AskCedar, Attributes, Name, Value};

/// Conditions that no index answers are evaluated for each principal; at most so many evaluations a program.
const EVALUATIONS_MAX: usize = 4_000_000;

/// The entities that a principal can be, by what sets of them have in common.
#[derive(Debug, Default)]
pub(crate) struct Principals {
    all: Vec<EntityId>,
    /// Who is an entity.
    places: HashMap<EntityId, u32>,
    /// Who is an entity or in it.
    members: HashMap<EntityId, Vec<u32>>,
    /// Who has an attribute with a value, both by number.
    values: HashMap<(u32, u32), Vec<u32>>,
    /// How many have an attribute.
    having: HashMap<u32, usize>,
    /// What was evaluated already: many policies ask the same.
    evaluated: HashMap<NodeId, Bits>,
    evaluations: usize,
}

/// No condition on principals asks for the context.
struct Nothing;

impl Attributes for Nothing {
    fn get<'a>(&'a self, _: Name<'_>) -> Option<Value<'a>> {
        None
    }
}

impl Principals {
    pub(crate) fn new(program: &Program, all: Vec<EntityId>) -> Self {
        let mut principals = Self::default();
        for (index, id) in all.iter().enumerate() {
            let index = index as u32;
            principals.places.insert(*id, index);
            principals.members.entry(*id).or_default().push(index);
            let Some(facts) = &program.entity(*id).facts else { continue };
            for ancestor in &facts.ancestors {
                principals.members.entry(*ancestor).or_default().push(index);
            }
            for (name, value) in &facts.attributes {
                principals.values.entry((*name, *value)).or_default().push(index);
                *principals.having.entry(*name).or_default() += 1;
            }
        }
        Self { all, ..principals }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn all_have(&self, name: u32) -> bool {
        self.having.get(&name).copied().unwrap_or(0) == self.all.len()
    }

    /// For whom a condition holds that is certain and asks only about the principal; `None` if that cannot be told.
    pub(crate) fn of(&mut self, program: &Program, id: NodeId) -> Option<Bits> {
        match program.node(id) {
            Node::Context | Node::AskCedar => None,
            Node::Not(of) => {
                let mut bits = Bits::all(self.len());
                bits.remove(&self.of(program, of)?);
                Some(bits)
            }
            Node::All(list) => self.tell_all(program, list),
            Node::Any(list) => {
                let mut bits = Bits::none(self.len());
                for each in program.list_of_nodes(list) {
                    bits.union(&self.of(program, each)?);
                }
                Some(bits)
            }
            Node::Binary { operator, left, right } => match self.look_up(program, operator, left, right) {
                Some(members) => Some(self.bits(members)),
                None => self.evaluate(program, id),
            },
            _ => self.evaluate(program, id),
        }
    }

    fn tell_all(&mut self, program: &Program, list: List) -> Option<Bits> {
        let mut bits = Bits::all(self.len());
        for each in program.list_of_nodes(list) {
            bits.intersect(&self.of(program, each)?);
        }
        Some(bits)
    }

    fn bits(&self, members: &[u32]) -> Bits {
        let mut bits = Bits::none(self.len());
        members.iter().for_each(|member| bits.insert(*member as usize));
        bits
    }

    /// `principal == x`, `principal in x` and `principal.a == "x"`.
    fn look_up(&self, program: &Program, operator: Binary, left: NodeId, right: NodeId) -> Option<&[u32]> {
        let found = match (operator, program.node(left), program.node(right)) {
            (Binary::In, Node::Principal, Node::Constant(group)) => match program.constant(group) {
                Constant::Entity(group) => self.members.get(group),
                _ => return None,
            },
            (Binary::Equal, Node::Principal, Node::Constant(one))
            | (Binary::Equal, Node::Constant(one), Node::Principal) => match program.constant(one) {
                Constant::Entity(one) => return Some(self.places.get(one).map_or(&[][..], std::slice::from_ref)),
                _ => return None,
            },
            (Binary::Equal, Node::Attribute { of, name }, Node::Constant(value))
            | (Binary::Equal, Node::Constant(value), Node::Attribute { of, name })
                if program.node(of) == Node::Principal =>
            {
                self.values.get(&(name, value))
            }
            _ => return None,
        };
        Some(found.map_or(&[][..], |members| &members[..]))
    }

    fn evaluate(&mut self, program: &Program, id: NodeId) -> Option<Bits> {
        if let Some(bits) = self.evaluated.get(&id) {
            return Some(bits.clone());
        }
        if !is_about_principals(program, id) || self.evaluations + self.len() > EVALUATIONS_MAX {
            return None;
        }
        self.evaluations += self.len();
        let code = Code { root: id, cells: 0, depth: 0 };
        let mut bits = Bits::none(self.len());
        for (index, principal) in self.all.iter().enumerate() {
            // An error is one of a principal for whom the condition is not reached.
            if !matches!(program.evaluate(code, *principal, &Nothing), Ok(false) | Err(AskCedar)) {
                bits.insert(index);
            }
        }
        self.evaluated.insert(id, bits.clone());
        Some(bits)
    }
}

/// Whether neither the context is asked for nor anything put together.
fn is_about_principals(program: &Program, id: NodeId) -> bool {
    let each = |id| is_about_principals(program, id);
    match program.node(id) {
        Node::Constant(_) | Node::Principal => true,
        Node::Context | Node::AskCedar | Node::Set { .. } | Node::Record { .. } => false,
        Node::Attribute { of, .. } | Node::Has { of, .. } | Node::Like { of, .. } | Node::Is { of, .. } => each(of),
        Node::Not(of) | Node::Negate(of) | Node::IsEmpty(of) | Node::Ip(of) | Node::IpTest { of, .. } => each(of),
        Node::All(list) | Node::Any(list) => program.list_of_nodes(list).all(each),
        Node::If { test, then, otherwise } => each(test) && each(then) && each(otherwise),
        Node::Binary { left, right, .. } => each(left) && each(right),
    }
}
