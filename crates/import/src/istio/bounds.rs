//! What a value means here, from both sides: a condition that holds only where the original does, and one that holds wherever the
//! original does. A rule that allows takes the first, a rule that denies the second, and a `not` changes sides.

use crate::cedar::expr::Expr;

/// Conditions around a meaning. The two are the same where nothing is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Holds only where the original does.
    pub(super) narrow: Expr,
    /// Holds wherever the original does.
    pub(super) broad: Expr,
    pub(super) remark: Option<Remark>,
}

/// What is to be said of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) problem: String,
    /// What to do by hand; empty if nothing.
    pub(super) hint: String,
    pub(super) loss: Loss,
}

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Nothing,
    /// The meaning cannot be said.
    Meaning,
    /// It can, but what it names does not exist here.
    Name,
    /// Istio refuses the value. Where its check is switched off, a rule that allows is ignored whole.
    Refused,
}

impl Bounds {
    /// Just this.
    pub(super) fn exact(expr: Expr) -> Self {
        Self { narrow: expr.clone(), broad: expr, remark: None }
    }

    /// Something between the two.
    pub(super) fn between(narrow: Expr, broad: Expr, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        let remark = Remark { problem: problem.into(), hint: hint.into(), loss: Loss::Meaning };
        Self { narrow, broad, remark: Some(remark) }
    }

    /// A name that does not exist here.
    pub(super) fn absent(narrow: Expr, broad: Expr, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        let remark = Remark { problem: problem.into(), hint: hint.into(), loss: Loss::Name };
        Self { narrow, broad, remark: Some(remark) }
    }

    /// Anything.
    pub(super) fn unknown(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::between(Expr::False, Expr::True, problem, hint)
    }

    /// A value that Istio refuses.
    pub(super) fn refused(problem: impl Into<String>) -> Self {
        let hint = "repair it there, or write the rule by hand".to_owned();
        let remark = Remark { problem: problem.into(), hint, loss: Loss::Refused };
        Self { narrow: Expr::False, broad: Expr::True, remark: Some(remark) }
    }

    /// With a word for the reader, unless there is a weightier one.
    pub(super) fn noting(mut self, note: impl Into<String>) -> Self {
        if self.remark.is_none() {
            self.remark = Some(Remark { problem: note.into(), hint: String::new(), loss: Loss::Nothing });
        }
        self
    }
}
