//! What a program is made from: the entities first, then policy by policy. Equal things are kept once.

use std::hash::Hash;

use cedar_policy_core::ast::{EntityType, EntityUID};
use foldhash::HashMap;

use crate::constant::Constant;
use crate::constant::EntityId;
use crate::like::Pattern;
use crate::node::{Entity, Facts, List, Node, NodeId};
use crate::program::Program;

/// Makes a [`Program`]. Used once, when policies are loaded.
#[derive(Debug, Default)]
pub struct Builder {
    pub(crate) program: Program,
    names: HashMap<Box<str>, u32>,
    kinds: HashMap<Box<str>, u32>,
    entities: HashMap<(u32, Box<str>), EntityId>,
    constants: HashMap<Constant, u32>,
    patterns: HashMap<Pattern, u32>,
    lists: HashMap<Box<[u32]>, List>,
    nodes: HashMap<Node, NodeId>,
}

impl Builder {
    /// The names that come first, in this order: whoever answers for a context tells them by their numbers.
    pub fn new(names: &[&str]) -> Self {
        let mut builder = Self::default();
        for name in names {
            builder.name(name);
        }
        builder
    }

    /// The number of an entity, also of one of which nothing is known.
    pub fn entity(&mut self, kind: &str, id: &str) -> EntityId {
        let kind = self.kind(kind);
        let next = EntityId(self.program.entities.len() as u32);
        *self.entities.entry((kind, id.into())).or_insert_with(|| {
            self.program.entities.push(Entity { kind, facts: None });
            next
        })
    }

    /// Says what is known of an entity: its attributes, all of them strings, and every group that it is in, however far above.
    pub fn describe<'a>(
        &mut self,
        entity: EntityId,
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
        ancestors: impl Iterator<Item = EntityId>,
    ) {
        let attributes = attributes.map(|(name, value)| (self.name(name), self.constant(Constant::Text(value.into()))));
        let mut attributes: Vec<(u32, u32)> = attributes.collect();
        attributes.sort_unstable();
        let mut ancestors: Vec<EntityId> = ancestors.collect();
        ancestors.sort_unstable();
        let facts = Facts { attributes: attributes.into(), ancestors: ancestors.into() };
        self.program.entities[entity.0 as usize].facts = Some(facts);
    }

    pub(crate) fn uid(&mut self, uid: &EntityUID) -> EntityId {
        let kind = uid.entity_type().to_string();
        self.entity(&kind, uid.eid().as_ref())
    }

    pub(crate) fn entity_type(&mut self, kind: &EntityType) -> u32 {
        self.kind(&kind.to_string())
    }

    fn kind(&mut self, kind: &str) -> u32 {
        let next = self.kinds.len() as u32;
        match self.kinds.get(kind) {
            Some(number) => *number,
            None => *self.kinds.entry(kind.into()).or_insert(next),
        }
    }

    pub(crate) fn name(&mut self, name: &str) -> u32 {
        match self.names.get(name) {
            Some(number) => *number,
            None => {
                let number = push(&mut self.program.names, name.into());
                self.names.insert(name.into(), number);
                number
            }
        }
    }

    pub(crate) fn constant(&mut self, constant: Constant) -> u32 {
        once(&mut self.constants, &mut self.program.constants, constant)
    }

    pub(crate) fn pattern(&mut self, pattern: Pattern) -> u32 {
        once(&mut self.patterns, &mut self.program.patterns, pattern)
    }

    pub(crate) fn list(&mut self, items: Vec<u32>) -> List {
        let items = items.into_boxed_slice();
        if let Some(list) = self.lists.get(&items) {
            return *list;
        }
        let list = List(push(&mut self.program.lists, items.len() as u32));
        self.program.lists.extend_from_slice(&items);
        self.lists.insert(items, list);
        list
    }

    pub(crate) fn node(&mut self, node: Node) -> NodeId {
        NodeId(match self.nodes.get(&node) {
            Some(id) => return *id,
            None => {
                let number = push(&mut self.program.nodes, node);
                self.nodes.insert(node, NodeId(number));
                number
            }
        })
    }

    /// The number of a node that some policy has.
    pub(crate) fn find(&self, node: Node) -> Option<NodeId> {
        self.nodes.get(&node).copied()
    }

    /// How many nodes there are.
    pub(crate) fn mark(&self) -> usize {
        self.program.nodes.len()
    }

    /// Takes back a node, if it is the one that was made after the mark.
    pub(crate) fn undo(&mut self, mark: usize, node: Node) {
        if self.program.nodes.len() == mark + 1 {
            self.program.nodes.pop();
            self.nodes.remove(&node);
        }
    }

    pub(crate) fn finish(self) -> Program {
        let mut program = self.program;
        program.nodes.shrink_to_fit();
        program.lists.shrink_to_fit();
        program.constants.shrink_to_fit();
        program
    }
}

fn once<T: Clone + Eq + Hash>(known: &mut HashMap<T, u32>, all: &mut Vec<T>, item: T) -> u32 {
    if let Some(number) = known.get(&item) {
        return *number;
    }
    let number = push(all, item.clone());
    known.insert(item, number);
    number
}

fn push<T>(all: &mut Vec<T>, item: T) -> u32 {
    all.push(item);
    u32::try_from(all.len() - 1).expect("a bundle has far fewer than 2^32 of anything")
}
