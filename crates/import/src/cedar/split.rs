//! One condition as several policies, where it would be too much for one (WEFT0209).
//!
//! Policies of one effect are alternatives, so a condition that is an `||` somewhere on top can be dealt out to several.

use super::expr::{Expr, and, or};

/// Most comparisons in one policy. A policy may have 2,000 words in a row, and a comparison has ten at most.
pub(crate) const MOST: usize = 180;

/// The condition cannot be taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMuch;

/// Conditions of which any holds where `expr` does, each small enough.
pub(crate) fn split(expr: Expr) -> Result<Vec<Expr>, TooMuch> {
    within(expr, MOST).ok_or(TooMuch)
}

fn within(expr: Expr, most: usize) -> Option<Vec<Expr>> {
    if cost(&expr) <= most {
        return Some(vec![expr]);
    }
    match expr {
        Expr::Or(items) => {
            let (mut parts, mut open, mut open_cost) = (Vec::new(), Vec::new(), 0);
            for item in items {
                for item in within(item, most)? {
                    let more = cost(&item);
                    if open_cost + more > most {
                        parts.push(or(std::mem::take(&mut open)));
                        open_cost = 0;
                    }
                    open_cost += more;
                    open.push(item);
                }
            }
            parts.push(or(open));
            Some(parts)
        }
        Expr::And(items) => {
            let is_or = |item: &&(usize, &Expr)| matches!(item.1, Expr::Or(_));
            let widest = items.iter().enumerate().collect::<Vec<_>>();
            let (at, _) = widest.iter().filter(is_or).max_by_key(|(_, item)| cost(item))?;
            let at = *at;
            let others: usize = items.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, e)| cost(e)).sum();
            let room = most.checked_sub(others).filter(|room| *room > 0)?;
            let parts = within(items[at].clone(), room)?;
            let with = |part: Expr| {
                and(items.iter().enumerate().map(|(other, e)| if other == at { part.clone() } else { e.clone() }))
            };
            Some(parts.into_iter().map(with).collect())
        }
        _ => None,
    }
}

/// How many comparisons there are. The texts of a list are none: commas part them.
fn cost(expr: &Expr) -> usize {
    match expr {
        Expr::And(items) | Expr::Or(items) => items.iter().map(cost).sum(),
        Expr::Not(inner) => cost(inner),
        _ => 1,
    }
}
