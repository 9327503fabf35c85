//! What of the context a policy mentions.

use cedar_policy_core::ast::{Expr, ExprKind, Policy, Var};

/// Calls `each` with every attribute of the context that the policy mentions, as names from the context down, and with whether it is only
/// asked for its presence (`has`).
///
/// `context.a.b` and `context has a.b` are only that, and not `a` too. No names: the context is used as a whole. What can never
/// be reached counts as well.
pub fn reads(policy: &Policy, mut each: impl FnMut(&[&str], bool)) {
    let mut left_to_do: Vec<&Expr> = policy.non_scope_constraints().into_iter().collect();
    while let Some(expression) = left_to_do.pop() {
        let (names, root) = path(expression);
        match root.expr_kind() {
            ExprKind::Var(Var::Context) => {
                let only_has = matches!(expression.expr_kind(), ExprKind::HasAttr { .. } | ExprKind::ExtHasAttr { .. });
                each(&names, only_has);
            }
            // The first one is the expression itself.
            _ if names.is_empty() => left_to_do.extend(operands(root)),
            _ => left_to_do.push(root),
        }
    }
}

/// The attributes that an expression asks for, and of what; none if it is not of that kind.
fn path(expression: &Expr) -> (Vec<&str>, &Expr) {
    let (mut names, mut at) = (Vec::new(), expression);
    match expression.expr_kind() {
        ExprKind::HasAttr { expr, attr } => (names, at) = (vec![attr.as_str()], expr),
        ExprKind::ExtHasAttr { expr, attrs } => {
            names.extend(attrs.iter().map(|name| name.as_str()));
            names.reverse();
            at = expr;
        }
        _ => {}
    }
    while let ExprKind::GetAttr { expr, attr } = at.expr_kind() {
        names.push(attr);
        at = expr;
    }
    names.reverse();
    (names, at)
}

fn operands(expression: &Expr) -> Vec<&Expr> {
    match expression.expr_kind() {
        ExprKind::If { test_expr, then_expr, else_expr } => vec![test_expr, then_expr, else_expr],
        ExprKind::And { left, right } | ExprKind::Or { left, right } => vec![left, right],
        ExprKind::UnaryApp { arg, .. } => vec![arg],
        ExprKind::BinaryApp { arg1, arg2, .. } => vec![arg1, arg2],
        ExprKind::Like { expr, .. } | ExprKind::Is { expr, .. } => vec![expr],
        ExprKind::Set(items) => items.iter().collect(),
        ExprKind::Record(fields) => fields.values().collect(),
        ExprKind::ExtensionFunctionApp { args, .. } => args.iter().collect(),
        // What is asked for attributes is seen by `path`; the rest holds nothing.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use cedar_policy::Policy;

    use super::*;

    fn reads_of(conditions: &str) -> Vec<String> {
        let policy = Policy::parse(None, format!("permit(principal, action, resource) {conditions};")).expect("parses");
        let mut all = Vec::new();
        reads(policy.as_ref(), |names, _| all.push(names.join("/")));
        all.sort();
        all
    }

    #[test]
    fn a_policy_reads_what_it_mentions_and_no_more() {
        assert!(reads_of("").is_empty());
        assert!(reads_of("when { principal.name == \"context\" && resource has path }").is_empty());
        assert_eq!(reads_of("when { context.a.b.c == 1 } unless { context.d like \"*\" }"), ["a/b/c", "d"]);
        assert_eq!(reads_of("when { context has a.b && (context.a has c) }"), ["a/b", "a/c"]);
        assert_eq!(
            reads_of("when { if context[\"x y\"] then [context.s].contains(3) else -context.n < 1 }"),
            ["n", "s", "x y"]
        );
        assert_eq!(reads_of("when { {a: context.p}.a.q == ip(context.i) || !(context.u is T) }"), ["i", "p", "u"]);
        assert_eq!(reads_of("when { context == {} || {a: context}.a has b }"), ["", ""]);
        assert_eq!(reads_of("when { (context.a == principal.b).c || (context has d).e }"), ["a", "d"]);
    }
}
