//! From Cedar's own syntax tree to nodes. What does not depend on the request is evaluated here, once.
//!
//! The tree is the one that Cedar evaluates, after parsing: nothing is left to interpret. What this code does not know becomes
//! [`Node::AskCedar`], so a newer Cedar costs time, not meaning.

use cedar_policy_core::ast::{BinaryOp, Expr, ExprKind, Literal, PatternElem, UnaryOp, Var};

use crate::builder::Builder;
use crate::constant::Constant;
use crate::evaluate::Evaluation;
use crate::like::{Pattern, Piece};
use crate::node::{Binary, IpTest, Node, NodeId};
use crate::shape::Request;

/// Compiles the expressions of one policy.
pub(crate) struct Compiler<'a> {
    pub(crate) builder: &'a mut Builder,
    pub(crate) request: &'a Request,
    /// Sets and records so far that have to be put together.
    pub(crate) cells: u32,
    /// Most nodes within each other so far.
    pub(crate) depth: u32,
    level: u32,
}

impl<'a> Compiler<'a> {
    pub(crate) fn new(builder: &'a mut Builder, request: &'a Request) -> Self {
        Self { builder, request, cells: 0, depth: 0, level: 0 }
    }

    /// Compiles by recursion: the caller sees to it that the tree is not too deep for the stack.
    pub(crate) fn expression(&mut self, expression: &Expr) -> NodeId {
        self.level += 1;
        self.depth = self.depth.max(self.level);
        let id = self.kind(expression.expr_kind());
        self.level -= 1;
        id
    }

    fn kind(&mut self, kind: &ExprKind) -> NodeId {
        let node = match kind {
            ExprKind::Lit(literal) => return self.literal(literal),
            ExprKind::Var(Var::Principal) => Node::Principal,
            ExprKind::Var(Var::Context) => Node::Context,
            ExprKind::Var(Var::Action) => return self.constant(Constant::Entity(self.request.action)),
            ExprKind::Var(Var::Resource) => return self.constant(Constant::Entity(self.request.resource)),
            ExprKind::And { left, right } => {
                let operands = chain(left, right, |kind| match kind {
                    ExprKind::And { left, right } => Some((left, right)),
                    _ => None,
                });
                let operands = operands.into_iter().map(|operand| self.expression(operand)).collect();
                return self.all(operands);
            }
            ExprKind::Or { left, right } => {
                let operands = chain(left, right, |kind| match kind {
                    ExprKind::Or { left, right } => Some((left, right)),
                    _ => None,
                });
                let operands = operands.into_iter().map(|operand| self.expression(operand)).collect();
                return self.any(operands);
            }
            ExprKind::If { test_expr, then_expr, else_expr } => {
                let test = self.expression(test_expr);
                match self.builder.program.constant_at(test) {
                    Some(Constant::Bool(true)) => return self.expression(then_expr),
                    Some(Constant::Bool(false)) => return self.expression(else_expr),
                    _ => Node::If { test, then: self.expression(then_expr), otherwise: self.expression(else_expr) },
                }
            }
            ExprKind::UnaryApp { op, arg } => {
                let arg = self.expression(arg);
                match op {
                    UnaryOp::Not => Node::Not(arg),
                    UnaryOp::Neg => Node::Negate(arg),
                    UnaryOp::IsEmpty => Node::IsEmpty(arg),
                }
            }
            ExprKind::BinaryApp { op, arg1, arg2 } => {
                let (left, right) = (self.expression(arg1), self.expression(arg2));
                operator(*op).map_or(Node::AskCedar, |operator| Node::Binary { operator, left, right })
            }
            ExprKind::GetAttr { expr, attr } => {
                Node::Attribute { of: self.expression(expr), name: self.builder.name(attr) }
            }
            ExprKind::HasAttr { expr, attr } => self.has(expr, [attr.as_str()].into_iter()),
            ExprKind::ExtHasAttr { expr, attrs } => self.has(expr, attrs.iter().map(|name| name.as_str())),
            ExprKind::Like { expr, pattern } => {
                let of = self.expression(expr);
                let pieces = pattern.iter().map(|piece| match piece {
                    PatternElem::Char(letter) => Piece::Letter(*letter),
                    PatternElem::Wildcard => Piece::Star,
                });
                Node::Like { of, pattern: self.builder.pattern(Pattern::new(pieces)) }
            }
            ExprKind::Is { expr, entity_type } => {
                Node::Is { of: self.expression(expr), kind: self.builder.entity_type(entity_type) }
            }
            ExprKind::Set(items) => {
                let items = items.iter().map(|item| self.expression(item).0).collect();
                Node::Set { items: self.builder.list(items), cell: self.cell() }
            }
            ExprKind::Record(fields) => {
                let fields = fields.iter().map(|(name, field)| (self.builder.name(name), self.expression(field).0));
                let mut fields: Vec<(u32, u32)> = fields.collect();
                fields.sort_unstable();
                let fields = fields.into_iter().flat_map(|(name, field)| [name, field]).collect();
                Node::Record { fields: self.builder.list(fields), cell: self.cell() }
            }
            ExprKind::ExtensionFunctionApp { fn_name, args } => {
                let args: Vec<NodeId> = args.iter().map(|arg| self.expression(arg)).collect();
                extension(&fn_name.to_string(), &args)
            }
            _ => Node::AskCedar,
        };
        self.folded(node)
    }

    fn literal(&mut self, literal: &Literal) -> NodeId {
        let constant = match literal {
            Literal::Bool(value) => Constant::Bool(*value),
            Literal::Long(value) => Constant::Long(*value),
            Literal::String(text) => Constant::Text(text.as_str().into()),
            Literal::EntityUID(uid) => Constant::Entity(self.builder.uid(uid)),
        };
        self.constant(constant)
    }

    fn has<'s>(&mut self, of: &Expr, path: impl Iterator<Item = &'s str>) -> Node {
        let of = self.expression(of);
        let path = path.map(|name| self.builder.name(name)).collect();
        Node::Has { of, path: self.builder.list(path) }
    }

    fn cell(&mut self) -> u32 {
        self.cells += 1;
        self.cells - 1
    }

    fn constant(&mut self, constant: Constant) -> NodeId {
        let number = self.builder.constant(constant);
        self.builder.node(Node::Constant(number))
    }

    /// The node, or the constant that it is whatever the request. An error stays: it may never be reached.
    fn folded(&mut self, node: Node) -> NodeId {
        if !self.is_settled(node) {
            return self.builder.node(node);
        }
        let cells: Vec<_> = (0..self.cells).map(|_| Default::default()).collect();
        let mark = self.builder.mark();
        let id = self.builder.node(node);
        let evaluation = Evaluation { program: &self.builder.program, principal: None, context: None, cells: &cells };
        let Some(constant) = evaluation.value(id).ok().and_then(Constant::of) else { return id };
        self.builder.undo(mark, node);
        if matches!(node, Node::Set { .. } | Node::Record { .. }) {
            self.cells -= 1;
        }
        self.constant(constant)
    }

    /// Whether all operands are constants.
    fn is_settled(&self, node: Node) -> bool {
        let settled = |id: NodeId| self.builder.program.constant_at(id).is_some();
        match node {
            Node::Attribute { of, .. } | Node::Has { of, .. } | Node::Like { of, .. } | Node::Is { of, .. } => {
                settled(of)
            }
            Node::Not(of) | Node::Negate(of) | Node::IsEmpty(of) | Node::Ip(of) | Node::IpTest { of, .. } => {
                settled(of)
            }
            Node::Binary { left, right, .. } => settled(left) && settled(right),
            Node::Set { items, .. } => self.builder.program.list_of_nodes(items).all(settled),
            Node::Record { fields, .. } => {
                self.builder.program.list(fields).chunks_exact(2).all(|pair| settled(NodeId(pair[1])))
            }
            _ => false,
        }
    }

    /// `a && b && c`, without what is true anyway, and without what stands behind a false.
    pub(crate) fn all(&mut self, operands: Vec<NodeId>) -> NodeId {
        self.junction(operands, true, Node::All)
    }

    /// `a || b || c`, without what is false anyway, and without what stands behind a true.
    fn any(&mut self, operands: Vec<NodeId>) -> NodeId {
        self.junction(operands, false, Node::Any)
    }

    /// Those of a junction of the same kind, or the node itself.
    pub(crate) fn operands(&self, id: NodeId, neutral: bool) -> Vec<NodeId> {
        match self.builder.program.node(id) {
            Node::All(list) if neutral => self.builder.program.list_of_nodes(list).collect(),
            Node::Any(list) if !neutral => self.builder.program.list_of_nodes(list).collect(),
            _ => vec![id],
        }
    }

    /// `neutral` changes nothing, its opposite ends the evaluation.
    fn junction(&mut self, operands: Vec<NodeId>, neutral: bool, node: fn(crate::node::List) -> Node) -> NodeId {
        let mut kept: Vec<u32> = Vec::with_capacity(operands.len());
        for operand in operands.into_iter().flat_map(|operand| self.operands(operand, neutral)).collect::<Vec<_>>() {
            match self.builder.program.constant_at(operand) {
                Some(Constant::Bool(value)) if *value == neutral => {}
                Some(Constant::Bool(_)) if kept.is_empty() => return operand,
                Some(Constant::Bool(_)) => {
                    kept.push(operand.0);
                    break;
                }
                _ => kept.push(operand.0),
            }
        }
        match kept[..] {
            [] => self.constant(Constant::Bool(neutral)),
            [one] if self.builder.program.node(NodeId(one)).is_boolean() => NodeId(one),
            _ => {
                let list = self.builder.list(kept);
                self.builder.node(node(list))
            }
        }
    }
}

/// All operands in a row, however they are bracketed: left before right is all that matters.
fn chain<'e>(
    left: &'e Expr,
    right: &'e Expr,
    split: impl Fn(&'e ExprKind) -> Option<(&'e std::sync::Arc<Expr>, &'e std::sync::Arc<Expr>)>,
) -> Vec<&'e Expr> {
    let mut operands = Vec::new();
    let mut left_to_do = vec![right, left];
    while let Some(next) = left_to_do.pop() {
        match split(next.expr_kind()) {
            Some((left, right)) => left_to_do.extend([&**right, &**left]),
            None => operands.push(next),
        }
    }
    operands
}

fn operator(operator: BinaryOp) -> Option<Binary> {
    Some(match operator {
        BinaryOp::Eq => Binary::Equal,
        BinaryOp::Less => Binary::Less,
        BinaryOp::LessEq => Binary::LessOrEqual,
        BinaryOp::Add => Binary::Add,
        BinaryOp::Sub => Binary::Subtract,
        BinaryOp::Mul => Binary::Multiply,
        BinaryOp::In => Binary::In,
        BinaryOp::Contains => Binary::Contains,
        BinaryOp::ContainsAll => Binary::ContainsAll,
        BinaryOp::ContainsAny => Binary::ContainsAny,
        // No entity of a program has tags.
        BinaryOp::GetTag | BinaryOp::HasTag => return None,
    })
}

fn extension(name: &str, args: &[NodeId]) -> Node {
    match (name, args) {
        ("ip", [of]) => Node::Ip(*of),
        ("isIpv4", [of]) => Node::IpTest { test: IpTest::V4, of: *of },
        ("isIpv6", [of]) => Node::IpTest { test: IpTest::V6, of: *of },
        ("isLoopback", [of]) => Node::IpTest { test: IpTest::Loopback, of: *of },
        ("isMulticast", [of]) => Node::IpTest { test: IpTest::Multicast, of: *of },
        ("isInRange", [left, right]) => Node::Binary { operator: Binary::IsInRange, left: *left, right: *right },
        _ => Node::AskCedar,
    }
}
