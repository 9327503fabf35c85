//! Which route matches can never be chosen, by the Gateway API's precedence.
//!
//! Among the matches of a service that hold for a request, the one is chosen that is (`HTTPRouteRule`, `matches`): exact
//! before prefix, then the longest path, then one with a method, then the most headers, then the first one written.

use crate::intent::{PathMatch, RouteMatch};

/// A match that another always wins over; indices into the matches in the order written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dead {
    /// The one that is never chosen.
    pub(super) what: usize,
    /// The one that is chosen instead.
    pub(super) by: usize,
}

/// All matches that can never be chosen, of those of a service in the order written.
pub(super) fn never_chosen(matches: &[&RouteMatch]) -> Vec<Dead> {
    // Only matches of equal rank can shadow each other whole: a higher rank means a narrower path, a method or a header
    // more, which leaves requests over. So the search is among equals, and it is quick for the usual few of them.
    let mut by_rank = std::collections::BTreeMap::<_, Vec<usize>>::new();
    let mut dead = Vec::new();
    for (what, one) in matches.iter().enumerate() {
        let equals = by_rank.entry(rank(one)).or_default();
        match equals.iter().find(|by| covers(matches[**by], one)) {
            Some(by) => dead.push(Dead { what, by: *by }),
            None => equals.push(what),
        }
    }
    dead
}

/// Greater is chosen first; equals are chosen in the order written.
fn rank(m: &RouteMatch) -> (bool, &str, bool, usize) {
    // The text stands for its length: equal texts are what `covers` looks for among equals.
    match &m.path {
        PathMatch::Exact(path) => (true, path, m.method.is_some(), m.headers.len()),
        PathMatch::Prefix(path) => (false, path, m.method.is_some(), m.headers.len()),
    }
}

/// Whether every request that `narrow` holds for, `wide` holds for too, both being of one rank and path.
fn covers(wide: &RouteMatch, narrow: &RouteMatch) -> bool {
    wide.path == narrow.path
        && (wide.method.is_none() || wide.method == narrow.method)
        && wide.headers.iter().all(|header| narrow.headers.contains(header))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::intent::HeaderMatch;

    fn any_match() -> impl Strategy<Value = RouteMatch> {
        let path = prop_oneof![Just("/"), Just("/a"), Just("/a/b"), Just("/b")];
        let method = proptest::option::of(prop_oneof![Just("GET"), Just("PUT")]);
        let headers =
            proptest::collection::btree_map(prop_oneof![Just("h"), Just("i")], prop_oneof![Just("1"), Just("2")], 0..3);
        (any::<bool>(), path, method, headers).prop_map(|(exact, path, method, headers)| RouteMatch {
            path: if exact { PathMatch::Exact(path.into()) } else { PathMatch::Prefix(path.into()) },
            method: method.map(Into::into),
            headers: headers
                .into_iter()
                .map(|(name, value)| HeaderMatch { name: name.into(), value: value.into() })
                .collect(),
        })
    }

    /// The Gateway API's words, one after the other, for one request.
    fn chosen(matches: &[&RouteMatch], path: &str, method: &str, headers: &[(&str, &str)]) -> Option<usize> {
        let holds = |m: &RouteMatch| {
            let path_holds = match &m.path {
                PathMatch::Exact(p) => &**p == path,
                PathMatch::Prefix(p) => &**p == "/" || path == &**p || path.starts_with(&format!("{p}/")),
            };
            path_holds
                && m.method.as_deref().is_none_or(|m| m == method)
                && m.headers.iter().all(|h| headers.contains(&(&*h.name, &*h.value)))
        };
        let (mut best, mut best_rank) = (None, (false, 0, false, 0));
        for (at, m) in matches.iter().enumerate().filter(|(_, m)| holds(m)) {
            let (exact, length) = match &m.path {
                PathMatch::Exact(p) => (true, p.len()),
                PathMatch::Prefix(p) => (false, p.len()),
            };
            let rank = (exact, length, m.method.is_some(), m.headers.len());
            if best.is_none() || rank > best_rank {
                (best, best_rank) = (Some(at), rank);
            }
        }
        best
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn a_match_is_dead_exactly_when_no_request_chooses_it(matches in proptest::collection::vec(any_match(), 0..8)) {
            let matches: Vec<&RouteMatch> = matches.iter().collect();
            let mut alive = std::collections::BTreeSet::new();
            for path in ["/", "/a", "/a/b", "/a/b/c", "/a/c", "/b", "/b/c", "/c"] {
                for method in ["GET", "PUT", "POST"] {
                    for h in ["1", "2", "3"] {
                        for i in ["1", "2", "3"] {
                            alive.extend(chosen(&matches, path, method, &[("h", h), ("i", i)]));
                        }
                    }
                }
            }
            let dead: std::collections::BTreeSet<_> = never_chosen(&matches).into_iter().map(|d| d.what).collect();
            let expected: std::collections::BTreeSet<_> = (0..matches.len()).filter(|at| !alive.contains(at)).collect();
            prop_assert_eq!(dead, expected);
        }
    }
}
