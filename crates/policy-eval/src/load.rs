//! One policy after the other: whom it can concern, by what it can be looked up, and what is left to evaluate.

use cedar_policy_core::ast::Policy;

use crate::bits::Bits;
use crate::builder::Builder;
use crate::certain::{Certain, Known};
use crate::compile::Compiler;
use crate::constant::{Constant, EntityId};
use crate::keys::{self, Key};
use crate::node::{Node, NodeId};
use crate::principals::Principals;
use crate::program::{Code, Program};
use crate::shape::Request;

/// Takes the policies of a program.
#[derive(Debug)]
pub struct Loader {
    pub(crate) builder: Builder,
    pub(crate) principals: Principals,
    pub(crate) request: Request,
}

/// One policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The principals whom it can concern, by their position. For others it is false, and no error.
    pub principals: Bits,
    /// It is true for one of these principals where one of these is. Empty if it is never anything but false.
    pub ways: Vec<Way>,
    /// All of it, for whoever asks: true of no principal that is not one of these.
    pub whole: Code,
}

/// A part of a policy that makes all of it true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// A request has one of these, or the part is false, and no error. `None` if every request has to be looked at.
    pub keys: Option<Vec<Key>>,
    /// Whether it is true. Takes for granted that the principal is one of the policy's.
    pub code: Code,
}

impl Loader {
    /// Goes on from the entities to the policies, when all are described.
    pub fn new(builder: Builder, request: Request, principals: Vec<EntityId>) -> Self {
        let principals = Principals::new(&builder.program, principals);
        Self { builder, principals, request }
    }

    /// Compiles a policy. By recursion: the caller sees to it that there is stack for the depth of the policy.
    pub fn add(&mut self, policy: &Policy) -> Compiled {
        let mut compiler = Compiler::new(&mut self.builder, &self.request);
        let whole = compiler.expression(&policy.condition());
        let conditions = compiler.operands(whole, true);
        let (cells, depth) = (compiler.cells, compiler.depth);
        let Conditions { principals, kept, keys, certain } = self.narrow(conditions);
        let code = |root| Code { root, cells, depth };
        let ways = match certain.then(|| self.split(&kept)).flatten() {
            Some(ways) => ways.into_iter().map(|(keys, root)| Way { keys: Some(keys), code: code(root) }).collect(),
            None => {
                let root = Compiler::new(&mut self.builder, &self.request).all(kept);
                vec![Way { keys, code: code(root) }]
            }
        };
        let is_never = |way: &Way| {
            principals.is_empty() || way.keys.as_ref().is_some_and(Vec::is_empty) || self.is_false(way.code.root)
        };
        let ways = ways.into_iter().filter(|way| !is_never(way)).collect();
        Compiled { principals, ways, whole: code(whole) }
    }

    /// The program, when all policies are there.
    pub fn finish(self) -> Program {
        self.builder.finish()
    }

    fn is_false(&self, id: NodeId) -> bool {
        self.builder.program.constant_at(id) == Some(&Constant::Bool(false))
    }

    /// Goes through the conditions in their order for as long as none can be an error.
    ///
    /// A false one decides then, whatever stands behind it: so the principals for whom it is false are not concerned, nor is a
    /// request without one of its keys.
    fn narrow(&mut self, conditions: Vec<NodeId>) -> Conditions {
        let mut known = Known::new();
        let mut all =
            Conditions { principals: Bits::all(self.principals.len()), kept: Vec::new(), keys: None, certain: true };
        for id in conditions {
            if !all.certain {
                all.kept.push(id);
                continue;
            }
            let certain =
                Certain { builder: &self.builder, principals: &self.principals, context: self.request.context };
            let is_certain = certain.is_test(id, &known);
            let keys = certain.keys(id, &known);
            if is_certain {
                certain.learn(id, true, &mut known);
                if let Some(principals) = self.principals.of(&self.builder.program, id) {
                    all.principals.intersect(&principals);
                    continue;
                }
            }
            all.certain = is_certain;
            all.keys = keys::and(all.keys.as_deref(), keys.as_deref());
            all.kept.push(id);
        }
        all
    }

    /// `a && (b || c)` as `a && b` and `a && c`, each with keys of its own, if all of them have some and none can be an error.
    ///
    /// So a rule of hundreds of paths costs what one path does.
    fn split(&mut self, conditions: &[NodeId]) -> Option<Vec<(Vec<Key>, NodeId)>> {
        let certain = Certain { builder: &self.builder, principals: &self.principals, context: self.request.context };
        let mut ways = Vec::new();
        let is_any = |id: &&NodeId| matches!(self.builder.program.node(**id), Node::Any(_));
        let any = *conditions.iter().find(is_any)?;
        let Node::Any(list) = self.builder.program.node(any) else { return None };
        for alternative in self.builder.program.list_of_nodes(list) {
            let (mut known, mut keys, mut conjuncts) = (Known::new(), None, Vec::new());
            for id in conditions.iter().map(|id| if *id == any { alternative } else { *id }) {
                certain.is_test(id, &known).then_some(())?;
                keys = keys::and(keys.as_deref(), certain.keys(id, &known).as_deref());
                certain.learn(id, true, &mut known);
                conjuncts.push(id);
            }
            ways.push((keys?, conjuncts));
        }
        let mut compiler = Compiler::new(&mut self.builder, &self.request);
        Some(ways.into_iter().map(|(keys, conjuncts)| (keys, compiler.all(conjuncts))).collect())
    }
}

/// What is left of the conditions of a policy.
struct Conditions {
    principals: Bits,
    kept: Vec<NodeId>,
    keys: Option<Vec<Key>>,
    /// None of them can be an error.
    certain: bool,
}

#[cfg(test)]
mod tests;
