//! "Did you mean": the nearest of the names that would have been right.

/// The candidate that a person most likely meant, if one is near enough.
///
/// Near is: equal but for case and separators, or at most a third of its letters away (insertions, deletions,
/// substitutions and swaps of neighbours count one each).
pub(super) fn nearest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if given.len() > 200 {
        return None;
    }
    let plain =
        |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let wanted = plain(given);
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter(|candidate| *candidate != given)
        .filter_map(|candidate| {
            let other = plain(candidate);
            if other == wanted {
                return Some((0, candidate));
            }
            let distance = strsim::damerau_levenshtein(&wanted, &other);
            let bound = (wanted.chars().count().max(other.chars().count()) / 3).max(1);
            (distance <= bound).then_some((distance, candidate))
        })
        .collect();
    near.sort_unstable();
    match near.as_slice() {
        [] => None,
        // Of two equally near ones a guess would be wrong half of the time.
        [(first, _), (second, _), ..] if first == second => None,
        [(_, candidate), ..] => Some(candidate),
    }
}

/// ``did you mean `x`?``, or what to say when nothing is near.
pub(super) fn hint<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    match nearest(given, candidates) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => otherwise(),
    }
}

/// `a, b and c`, or the words for none.
pub(super) fn listed<'a>(names: impl IntoIterator<Item = &'a str>, none: &str) -> String {
    joined(names, "and", none)
}

/// `a, b or c`, or the words for none.
pub(super) fn either<'a>(names: impl IntoIterator<Item = &'a str>, none: &str) -> String {
    joined(names, "or", none)
}

fn joined<'a>(names: impl IntoIterator<Item = &'a str>, word: &str, none: &str) -> String {
    const SHOWN: usize = 12;
    let names: Vec<&str> = names.into_iter().collect();
    match names.as_slice() {
        [] => none.to_owned(),
        [one] => format!("`{one}`"),
        [most @ .., last] if names.len() <= SHOWN => {
            format!("{} {word} `{last}`", most.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "))
        }
        _ => format!(
            "{} and {} more",
            names[..SHOWN].iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
            names.len() - SHOWN
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_mistakes_are_recognised() {
        let fields = ["trustDomain", "attributes", "port", "protocol"];
        assert_eq!(nearest("trust_domain", fields), Some("trustDomain"));
        assert_eq!(nearest("Port", fields), Some("port"));
        assert_eq!(nearest("prot", fields), Some("port"));
        assert_eq!(nearest("atributes", fields), Some("attributes"));
        assert_eq!(nearest("prod/baord", ["prod/board", "prod/web"]), Some("prod/board"));
    }

    #[test]
    fn what_is_far_is_not_suggested() {
        assert_eq!(nearest("canary", ["port", "name"]), None);
        assert_eq!(nearest("x", ["yz"]), None);
        assert_eq!(nearest("", ["port"]), None);
        assert_eq!(nearest("v3", ["v1", "v2"]), None);
    }

    #[test]
    fn names_are_listed_as_people_write_them() {
        assert_eq!(listed([], "none"), "none");
        assert_eq!(listed(["a"], "none"), "`a`");
        assert_eq!(listed(["a", "b", "c"], "none"), "`a`, `b` and `c`");
        assert_eq!(either(["a", "b"], "none"), "`a` or `b`");
    }
}
