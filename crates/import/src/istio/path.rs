//! Paths: whole, prefix, suffix, and templates with `{*}` and `{**}`.
//!
//! Istio compares with the path without its query, as Envoy has normalised it; Weft normalises and refuses more. A value that no
//! normalised path can have is therefore told.

use weft_model::intent::{Case, EscapedSlashes, Paths, Slashes};
use weft_policy::path::{PathError, normalize};

use super::bounds::Bounds;
use super::pattern::{self, Pattern};
use super::template;
use crate::cedar::expr::{Expr, Piece, context, equal, like, or};
use crate::report::short;

const KEEP: Paths = Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Keep, case: Case::Sensitive };
const MERGE: Paths = Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Merge, case: Case::Sensitive };

/// `paths`.
pub(super) fn paths(value: &str) -> Bounds {
    if value.contains(['{', '}']) {
        return template::template(value).unwrap_or_else(|problem| {
            let problem = format!("`{}` is no template that Istio and Envoy take: {problem}", short(value));
            Bounds::refused(problem)
        });
    }
    let pattern = pattern::read(value);
    let bounds = match pattern {
        Pattern::Present => Bounds::exact(Expr::True),
        Pattern::Exact(path) => normalized(path, "", |path| equal(context("path"), path)),
        Pattern::Prefix(path) => {
            normalized(path, "", |path| like(context("path"), vec![Piece::Text(path), Piece::Any]))
        }
        Pattern::Suffix(path) => {
            let before = if path.starts_with('/') { "" } else { "/x" };
            normalized(path, before, |path| like(context("path"), vec![Piece::Any, Piece::Text(path)]))
        }
    };
    if pattern.has_star() { bounds.noting(pattern::star_note(value)) } else { bounds }
}

/// The condition on `path` as it is, and on what becomes of it. `before` makes a path of a suffix.
fn normalized(path: &str, before: &str, condition: impl Fn(String) -> Expr) -> Bounds {
    let whole = format!("{before}{path}");
    let spelled = |paths| {
        let normal = normalize(&whole, paths)?;
        Ok(normal.strip_prefix(before).map(str::to_owned))
    };
    let problem = |why: &str| format!("no request has the path `{}` in Weft: {why}", short(path));
    let hint = "write the rule by hand for the normalised path";
    match (spelled(KEEP), spelled(MERGE)) {
        (Ok(Some(kept)), Ok(Some(merged))) => {
            let narrow = if kept == path { condition(kept.clone()) } else { Expr::False };
            let broad = or([condition(kept), condition(merged.clone())]);
            if merged == path {
                return Bounds::exact(broad);
            }
            Bounds::between(narrow, broad, problem(&format!("it would be `{}`", short(&merged))), hint)
        }
        // Half an escape: what it becomes depends on what follows.
        (Err(PathError::MalformedPercent), _) | (Ok(_), Ok(_)) => {
            Bounds::unknown(problem("requests are normalised, and this is no part of a normalised path"), hint)
        }
        (Err(why), _) | (_, Err(why)) => {
            let note = problem(&format!("{why}, and such requests are refused before any policy"));
            Bounds::exact(Expr::False).noting(note)
        }
    }
}
