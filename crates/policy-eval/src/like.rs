//! The pattern of `like`: texts with `*` between them, each of which is any text, also none.

/// A pattern. Texts are compared as bytes: UTF-8 has no character that begins within another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pattern {
    /// What stands between the stars: one text more than there are stars.
    texts: Box<[Box<str>]>,
}

/// A letter of a pattern, or a star.
pub(crate) enum Piece {
    Letter(char),
    Star,
}

impl Pattern {
    pub(crate) fn new(pieces: impl Iterator<Item = Piece>) -> Self {
        let mut texts = vec![String::new()];
        for piece in pieces {
            match piece {
                Piece::Letter(letter) => texts.last_mut().expect("never empty").push(letter),
                Piece::Star => texts.push(String::new()),
            }
        }
        Self { texts: texts.into_iter().map(String::into_boxed_str).collect() }
    }

    /// What every text that matches begins with, and whether it is all of it.
    pub(crate) fn start(&self) -> (&str, bool) {
        (&self.texts[0], self.texts.len() == 1)
    }

    /// Each text takes the first place that is left for it: no other place leaves more to those behind it.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(rest) = text.strip_prefix(&*self.texts[0]) else { return false };
        let [_, between @ .., last] = &self.texts[..] else { return rest.is_empty() };
        let mut rest = rest;
        for part in between {
            let Some(at) = rest.find(&**part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(&**last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text.chars().map(|letter| if letter == '*' { Piece::Star } else { Piece::Letter(letter) }))
    }

    #[test]
    fn a_star_is_any_text() {
        for (like, text) in [
            ("", ""),
            ("*", ""),
            ("*", "x/y"),
            ("/a*", "/a"),
            ("/a*", "/abc"),
            ("*b", "ab"),
            ("a*b*c", "abc"),
            ("a*b*c", "axbxbxc"),
            ("**", "x"),
            ("a**b", "ab"),
            ("*ab*ab", "abab"),
            ("ä*ö", "äüö"),
            ("*aab", "aaab"),
        ] {
            assert!(pattern(like).matches(text), "{like} {text}");
        }
        for (like, text) in [
            ("", "x"),
            ("/a*", "/"),
            ("*b", "ba"),
            ("a*a", "a"),
            ("*ab*ab", "ab"),
            ("a*b*c", "acb"),
            ("x", "xx"),
            ("ab*b", "ab"),
        ] {
            assert!(!pattern(like).matches(text), "{like} {text}");
        }
    }

    #[test]
    fn the_start_is_what_stands_before_the_first_star() {
        assert_eq!(pattern("/a*b*").start(), ("/a", false));
        assert_eq!(pattern("*").start(), ("", false));
        assert_eq!(pattern("/a").start(), ("/a", true));
    }
}
