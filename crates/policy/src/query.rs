//! What else a query may be to an app. No specification gives it a grammar (RFC 3986 s.3.4): forms are parted at `&`, and names are
//! compared as they are; other readers part at `;`, too, take `tag[]`, `[tag]`, `?tag`, `TAG` or ` tag` for `tag`, or leave `+` as it is.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use form_urlencoded::Serializer;

use crate::context::parameters;

/// A way to read a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Parameters are parted at `;` too, and names are what is meant by them.
    Loose,
    /// The same, and a `+` is a `+`. Every form writes a space so, and hardly anybody reads it otherwise: nothing need be permitted as it
    /// reads here, but only not be forbidden.
    Plus,
}

impl Reading {
    /// As a decision says it.
    pub(crate) fn how(self) -> &'static str {
        match self {
            Self::Loose => "some read the query otherwise: `;` as `&`, and `tag[]`, `TAG` or ` tag` as `tag`",
            Self::Plus => "some read a `+` of the query as it is",
        }
    }
}

/// The query with all parameters of these names that such a reader finds, where that are others than a form has: a query that is read as a
/// form. So what a policy forbids is forbidden in whatever way it is written.
pub(crate) fn read_as(query: &str, names: &[Arc<str>], reading: Reading) -> Option<String> {
    let mut found = vec![BTreeSet::new(); names.len()];
    for part in query.split(['&', ';']) {
        let part = match reading {
            Reading::Loose => Cow::Borrowed(part),
            Reading::Plus => part.replace('+', "%2B").into(),
        };
        for (name, value) in form_urlencoded::parse(part.as_bytes()) {
            for (found, _) in found.iter_mut().zip(names).filter(|(_, known)| is_meant(known, &name)) {
                found.insert(value.clone().into_owned());
            }
        }
    }
    // The form's own, too: a `;` is a part of them.
    let form = parameters(Some(query), names);
    for (found, form) in found.iter_mut().zip(&form) {
        found.extend(form.iter().map(|value| value.clone().into_owned()));
    }
    let is_other =
        found.iter().zip(&form).any(|(found, form)| found.iter().any(|value| !form.iter().any(|known| known == value)));
    is_other.then(|| {
        let mut query = Serializer::new(String::new());
        for (name, values) in names.iter().zip(&found) {
            query.extend_pairs(values.iter().map(|value| (name, value)));
        }
        query.finish()
    })
}

/// Whether some reader takes `name` for this one: without spaces around it, whatever is in brackets, and the case of letters; with `_` for a
/// dot or a space (PHP); in brackets, or with one of them (qs, Rack); and behind a second `?` (who cuts at the first one by hand).
fn is_meant(known: &str, name: &str) -> bool {
    let name = name.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '[' | ']' | '?'));
    let name = name.split(['[', ']', '\0']).next().unwrap_or_default().trim_end();
    let plain = |byte: u8| if matches!(byte, b'.' | b' ') { b'_' } else { byte.to_ascii_lowercase() };
    known.bytes().map(plain).eq(name.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Vec<Arc<str>> {
        vec!["tag".into(), "my_tag".into()]
    }

    /// Its values of `tag` and of `my_tag`, where another reader has others.
    fn other(query: &str) -> Option<Vec<Vec<String>>> {
        let other = read_as(query, &names(), if query.contains("=a+b") { Reading::Plus } else { Reading::Loose })?;
        let values = parameters(Some(&other), &names());
        Some(values.into_iter().map(|values| values.into_iter().map(Cow::into_owned).collect()).collect())
    }

    #[test]
    fn what_another_reader_finds_is_there() {
        for (query, tag) in [
            ("x=1;tag=red", vec!["red"]),
            ("tag=a;tag=b", vec!["a", "a;tag=b", "b"]),
            ("tag[]=red", vec!["red"]),
            ("tag%5B0%5D=red", vec!["red"]),
            ("+tag=red", vec!["red"]),
            ("TAG=red", vec!["red"]),
            ("tag%00x=red", vec!["red"]),
            ("tag=a+b", vec!["a b", "a+b"]),
            ("tag[x]", vec![""]),
            ("[tag]=red", vec!["red"]),
            ("%5Btag%5D=red", vec!["red"]),
            ("[[tag]]=red", vec!["red"]),
            ("tag]=red", vec!["red"]),
            ("tag%5D=red", vec!["red"]),
            ("]tag=red", vec!["red"]),
            ("?tag=red", vec!["red"]),
            ("?%20[tag=red", vec!["red"]),
        ] {
            assert_eq!(
                other(query).as_ref().map(|of| &of[0]),
                Some(&tag.iter().map(|&one| one.to_owned()).collect()),
                "{query}"
            );
        }
        assert_eq!(other("my.tag=red").map(|of| of[1].clone()), Some(vec!["red".to_owned()]));
        assert_eq!(read_as("tag=a+b", &names(), Reading::Loose), None);
        // Names that one reader takes for the same each have it.
        let both: Vec<Arc<str>> = vec!["tag".into(), "Tag".into()];
        assert_eq!(read_as("TAG=red", &both, Reading::Loose).as_deref(), Some("tag=red&Tag=red"));
        for same in [
            "",
            "tag=red",
            "tag=red&tag=blue",
            "x=1;y=2",
            "other[]=1",
            "[other]=1",
            "x[tag]=1",
            "?x=1",
            "[]=1",
            "tags=1",
            "tag=%3B",
            "tag=%2B",
        ] {
            assert_eq!(other(same), None, "{same}");
        }
    }

    proptest! {
        /// Nothing of the form is lost, whatever else is found.
        #[test]
        fn it_has_all_that_the_form_has(query in "[tagTA&;=+%5B20?\\[\\] ._my]{0,24}", plus in any::<bool>()) {
            let form = parameters(Some(&query), &names());
            if let Some(other) = read_as(&query, &names(), if plus { Reading::Plus } else { Reading::Loose }) {
                let found = parameters(Some(&other), &names());
                for (found, form) in found.iter().zip(&form) {
                    prop_assert!(form.iter().all(|value| found.contains(value)), "{query} {other}");
                }
                prop_assert_eq!(read_as(&other, &names(), Reading::Loose), None);
            }
        }
    }
}
