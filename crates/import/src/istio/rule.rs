//! A rule as policies: one for each caller that the scope can name, so that a sidecar is sent only what concerns it.

use weft_model::PLAIN_TEXT;

use super::bounds::Loss;
use super::condition::{self, Said, Side};
use super::known::{is_everyone, settled};
use super::policy::{Match, Rule};
use super::principal::scope_of;
use super::target::Resource;
use super::world::World;
use crate::cedar::expr::{Expr, Kind, and, context, equal, not, or, resource};
use crate::cedar::print::{Effect, Policy, Scope};
use crate::cedar::split::split;

/// What a rule became.
#[derive(Debug)]
pub(super) struct Built<'a> {
    pub(super) policies: Vec<Policy>,
    /// What is to be said of its values.
    pub(super) said: Vec<Said<'a>>,
    pub(super) size: Size,
}

/// How much a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Some,
    /// It never holds, so there is no policy.
    Nothing,
    /// It always holds.
    Everything,
    /// It has too many conditions for one policy, and cannot be taken apart.
    TooMuch,
}

/// The policies of one rule for what is called.
pub(super) fn build<'a>(
    rule: &'a Rule,
    effect: Effect,
    resources: &[Resource],
    tcp: bool,
    namespace: &str,
    world: &World<'_>,
) -> Built<'a> {
    let mut said = Vec::new();
    let side = if effect == Effect::Permit { Side::Narrow } else { Side::Broad };
    let alternatives = conditions(rule, side, tcp, namespace, world, &mut said);
    let mut built = Built { policies: Vec::new(), said, size: Size::Nothing };
    for alternative in alternatives {
        let (alternative, too_much) = match split(alternative) {
            Ok(parts) => (parts, false),
            // What denies may deny more, what allows may allow less.
            Err(_) if side == Side::Broad => (vec![Expr::True], true),
            Err(_) => (Vec::new(), true),
        };
        let everything = alternative.iter().any(is_everyone);
        built.size = match built.size {
            _ if too_much => Size::TooMuch,
            Size::TooMuch => Size::TooMuch,
            _ if everything => Size::Everything,
            Size::Everything => Size::Everything,
            _ => Size::Some,
        };
        for part in alternative {
            for (principal, condition) in callers(part, effect) {
                let condition = match effect {
                    Effect::Permit => {
                        settled(condition, matches!(&principal, Scope::Service(name) if name == PLAIN_TEXT))
                    }
                    Effect::Forbid => condition,
                };
                if condition == Expr::False {
                    continue;
                }
                for resource in resources {
                    let (scope, of_resource) = scope_for(resource);
                    let when = and([of_resource, condition.clone()]);
                    let principal = principal.clone();
                    let policy = Policy { effect, principal, resource: scope, when };
                    if !built.policies.contains(&policy) {
                        built.policies.push(policy);
                    }
                }
            }
        }
    }
    built
}

/// One condition for each alternative of `from` that can hold.
fn conditions<'a>(
    rule: &'a Rule,
    side: Side,
    tcp: bool,
    namespace: &str,
    world: &World<'_>,
    said: &mut Vec<Said<'a>>,
) -> Vec<Expr> {
    let mut all = |fields: &'a [Match]| {
        let (mut http, mut others) = (Vec::new(), Vec::new());
        for field in fields {
            let condition = condition::of(field, side, namespace, world, said);
            if field.attribute.is_http() { &mut http } else { &mut others }.push(condition);
        }
        let http = and(http);
        // Where there is no HTTP, a rule that denies is looked at without what only HTTP has.
        let http = if side == Side::Broad && tcp && !holds_over_tcp(&http) { or([over_tcp(), http]) } else { http };
        and(others.into_iter().chain([http]))
    };
    let from: Vec<Expr> = rule.from.iter().map(|fields| all(fields)).collect();
    let to: Vec<Expr> = rule.to.iter().map(|fields| all(fields)).collect();
    let when = all(&rule.when);
    let demanded = |list: Vec<Expr>| if list.is_empty() { vec![Expr::True] } else { list };
    let to = or(demanded(to));
    let mut conditions = Vec::new();
    if side == Side::Narrow && said.iter().any(|said| said.remark.loss == Loss::Refused) {
        return conditions;
    }
    for from in demanded(from) {
        let condition = and([from, to.clone(), when.clone()]);
        // And one that allows is not looked at, if any of its fields is one of HTTP.
        let is_http = rule.fields().any(|field| field.attribute.is_http());
        let condition = if side == Side::Narrow && tcp && is_http && !fails_over_tcp(&condition) {
            and([condition, not(over_tcp())])
        } else {
            condition
        };
        if condition != Expr::False && !conditions.contains(&condition) {
            conditions.push(condition);
        }
    }
    conditions
}

impl Rule {
    fn fields(&self) -> impl Iterator<Item = &Match> {
        self.from.iter().flatten().chain(self.to.iter().flatten()).chain(&self.when)
    }
}

fn over_tcp() -> Expr {
    equal(context("protocol"), "TCP")
}

/// Whether a condition certainly holds over TCP, where method and path are empty.
fn holds_over_tcp(expr: &Expr) -> bool {
    match expr {
        Expr::True => true,
        Expr::And(items) => items.iter().all(holds_over_tcp),
        Expr::Or(items) => items.iter().any(holds_over_tcp),
        Expr::Not(inner) => fails_over_tcp(inner),
        _ => false,
    }
}

/// Whether it certainly does not.
fn fails_over_tcp(expr: &Expr) -> bool {
    match expr {
        Expr::False => true,
        Expr::And(items) => items.iter().any(fails_over_tcp),
        Expr::Or(items) => items.iter().all(fails_over_tcp),
        Expr::Not(inner) => holds_over_tcp(inner),
        Expr::OneOf(attr, texts) => is_empty_over_tcp(&attr.path) && texts.iter().all(|text| !text.is_empty()),
        Expr::Like(attr, pieces) => {
            let text = |piece: &_| matches!(piece, crate::cedar::expr::Piece::Text(text) if !text.is_empty());
            is_empty_over_tcp(&attr.path) && pieces.iter().any(text)
        }
        _ => false,
    }
}

fn is_empty_over_tcp(path: &[String]) -> bool {
    matches!(path, [name] if name == "method" || name == "path")
}

/// The condition by callers: each that it names by itself, with what else must hold.
fn callers(condition: Expr, effect: Effect) -> Vec<(Scope, Expr)> {
    let items = match condition {
        Expr::And(items) => items,
        one => vec![one],
    };
    let others =
        |at: usize| items.iter().enumerate().filter(move |(other, _)| *other != at).map(|(_, item)| item.clone());
    let by = |kind| items.iter().position(|item| scope_of(item).is_some_and(|(named, _)| named == kind));
    let named = by(Kind::Service).or_else(|| by(Kind::Namespace));
    let named = named.and_then(|at| scope_of(&items[at]).map(|scope| (at, scope)));
    // One that denies concerns callers in one way or the other; the shorter text is the better one.
    if let Some((at, (kind, names))) = named.filter(|(_, (_, names))| effect == Effect::Permit || names.len() == 1) {
        let scope = |name: &String| match kind {
            Kind::Service => Scope::Service(name.clone()),
            Kind::Namespace => Scope::Namespace(name.clone()),
        };
        return names.iter().map(|name| (scope(name), and(others(at)))).collect();
    }
    let alternatives = items.iter().enumerate().find_map(|(at, item)| match item {
        Expr::Or(any) if effect == Effect::Permit && any.iter().all(names_callers) => Some((at, any)),
        _ => None,
    });
    match alternatives {
        Some((at, any)) => {
            let one = |item: &Expr| callers(and([item.clone()].into_iter().chain(others(at))), effect);
            any.iter().flat_map(one).collect()
        }
        None => vec![(Scope::Any, and(items))],
    }
}

/// Whether some scope can say whom a condition is for.
fn names_callers(expr: &Expr) -> bool {
    match expr {
        Expr::And(items) => items.iter().any(|item| scope_of(item).is_some()),
        one => scope_of(one).is_some(),
    }
}

/// What is called, as a scope, and what a scope cannot say of it.
fn scope_for(called: &Resource) -> (Scope, Expr) {
    match called {
        Resource::Any => (Scope::Any, Expr::True),
        Resource::Service(name) => (Scope::Service(name.clone()), Expr::True),
        Resource::Namespace(name) => (Scope::Namespace(name.clone()), Expr::True),
        Resource::Absent { namespace, name } => {
            let namespace = namespace.as_ref().map_or(Expr::True, |namespace| equal(resource("namespace"), namespace));
            let name = name.as_ref().map_or(Expr::True, |name| equal(resource("name"), name));
            (Scope::Any, and([namespace, name]))
        }
    }
}
