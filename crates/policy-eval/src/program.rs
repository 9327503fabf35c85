//! All policies of a bundle, compiled, and the entities that they are about.

use crate::constant::{Constant, EntityId};
use crate::like::Pattern;
use crate::node::{Entity, List, Node, NodeId};
use crate::value::Name;

/// What [`crate::Builder`] makes.
#[derive(Debug, Default)]
pub struct Program {
    pub(crate) nodes: Vec<Node>,
    pub(crate) lists: Vec<u32>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) patterns: Vec<Pattern>,
    pub(crate) names: Vec<Box<str>>,
    pub(crate) entities: Vec<Entity>,
}

/// A condition in a program, ready to be evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub(crate) root: NodeId,
    /// How many sets and records a policy may have to put together.
    pub(crate) cells: u32,
    /// Most nodes within each other.
    pub(crate) depth: u32,
}

impl Code {
    /// How deep evaluating it goes, in calls that hold each other.
    pub fn depth(self) -> usize {
        self.depth as usize
    }
}

impl Program {
    pub(crate) fn node(&self, id: NodeId) -> Node {
        self.nodes[id.0 as usize]
    }

    pub(crate) fn list(&self, list: List) -> &[u32] {
        let start = list.0 as usize + 1;
        &self.lists[start..start + self.lists[start - 1] as usize]
    }

    pub(crate) fn list_of_nodes(&self, list: List) -> impl DoubleEndedIterator<Item = NodeId> + Clone {
        self.list(list).iter().map(|id| NodeId(*id))
    }

    pub(crate) fn constant(&self, number: u32) -> &Constant {
        &self.constants[number as usize]
    }

    /// The constant that a node is.
    pub(crate) fn constant_at(&self, id: NodeId) -> Option<&Constant> {
        match self.node(id) {
            Node::Constant(number) => Some(self.constant(number)),
            _ => None,
        }
    }

    pub(crate) fn name(&self, number: u32) -> Name<'_> {
        Name { number, text: &self.names[number as usize] }
    }

    pub(crate) fn entity(&self, id: EntityId) -> &Entity {
        &self.entities[id.0 as usize]
    }

    /// The names from the context down to a node, if it is an attribute of the context, or one of such an attribute.
    pub(crate) fn context_path(&self, mut id: NodeId) -> Option<Vec<&str>> {
        let mut path = Vec::new();
        while let Node::Attribute { of, name } = self.node(id) {
            path.push(self.name(name).text);
            id = of;
        }
        path.reverse();
        (self.node(id) == Node::Context).then_some(path)
    }
}
