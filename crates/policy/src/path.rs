//! One spelling for every request path, decided once, before routing and policy (RFC 3986 s.6.2.2).
//!
//! What two readers could take differently (an encoded slash, a backslash, a NUL) is refused, never repaired: a repaired path
//! is how a request passes as one thing and is served as another. The query is not looked at and is kept as it was written.
//!
//! Several slashes in a row are one, unless a service keeps them ([`Slashes::Keep`]); it may let encoded slashes through as well
//! ([`EscapedSlashes::Keep`]), which are then parts of their segments. What an app can still read in another way are the path's
//! [`readings`]: the engine decides about those too, so that no policy is passed by writing a path in another way.

use std::borrow::Cow;

use weft_model::intent::{EscapedSlashes, Paths, Slashes};

/// Why a path was refused. Answer 400; nothing that the caller may retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path is empty or does not start with `/`.
    #[error("the path does not start with /")]
    NotAbsolute,
    /// `%2F`: a slash to some readers and not to others.
    #[error("the path has an encoded slash (%2F)")]
    EncodedSlash,
    /// `..%2F`: a dot segment to readers who take `%2F` for a slash.
    #[error("the path has a dot segment beside an encoded slash (like ..%2F)")]
    EncodedDotSegment,
    /// `\` or `%5C`: a slash to some readers.
    #[error("the path has a backslash (\\ or %5C)")]
    Backslash,
    /// NUL or `%00`: the end of the path to some readers.
    #[error("the path has a NUL byte (%00)")]
    Nul,
    /// `%` without two hexadecimal digits.
    #[error("the path has a % that is not followed by two hexadecimal digits")]
    MalformedPercent,
    /// A fragment, a space or a control character, which no request target may carry (RFC 9112 s.3.2).
    #[error("the path has a character that no request target may carry (#, a space or a control character)")]
    IllegalCharacter,
    /// `/;x/`: an empty segment to servers that cut path parameters first.
    #[error("the path has a segment that begins with ;")]
    EmptySegmentParameter,
    /// `%0A` and the like: an end of the path to patterns that look for the end of a line.
    #[error("the path has an encoded control character (%00 to %1F, %7F)")]
    EncodedControl,
    /// `..;x`: an ordinary segment by RFC 3986, a dot segment to servers that cut path parameters first.
    #[error("the path has a dot segment with a parameter (like ..;)")]
    DotSegmentParameter,
}

/// What a byte of a path means to the scan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Stands for itself.
    Plain,
    Slash,
    Semicolon,
    Dot,
    Percent,
    /// Not legal in a path as it is (RFC 3986 s.3.3): written as `%XX`.
    Encode,
    Backslash,
    Nul,
    Illegal,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Encode; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            0 => Class::Nul,
            b'/' => Class::Slash,
            b';' => Class::Semicolon,
            b'.' => Class::Dot,
            b'%' => Class::Percent,
            b'\\' => Class::Backslash,
            1..=b' ' | 0x7f | b'#' | b'?' => Class::Illegal,
            // pchar of RFC 3986 s.3.3: unreserved, sub-delims, `:` and `@`.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => Class::Plain,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => Class::Plain,
            _ => Class::Encode,
        };
        byte += 1;
    }
    table
};

/// The one spelling of a request target in origin form: dot segments removed (also where written `%2e`), percent-encoded
/// unreserved characters decoded, other percent-encodings in upper case, bytes that no path may hold percent-encoded.
///
/// Everything from the first `?` on is kept byte for byte; `*` (of `OPTIONS *`) stays `*`; repeated slashes are made one or kept, and
/// an encoded slash is refused or, in capitals, kept, as `paths` says. Borrows the input when it is normal already. Idempotent.
///
/// # Errors
/// See [`PathError`].
pub fn normalize(raw: &str, paths: Paths) -> Result<Cow<'_, str>, PathError> {
    let (path, _) = split(raw);
    if !path.starts_with('/') {
        return if raw == "*" { Ok(Cow::Borrowed(raw)) } else { Err(PathError::NotAbsolute) };
    }
    if is_normal(path.as_bytes(), paths)? {
        refuse_beside_encoded_slashes(path)?;
        return Ok(Cow::Borrowed(raw));
    }
    let spelled = respell(path.as_bytes(), paths.escaped_slashes)?;
    // In the order of Envoy, which merges what is left when dot segments are gone: `/a//../b` is `/a/b` to both.
    let mut normal = remove_dot_segments(&spelled)?;
    if paths.slashes == Slashes::Merge && normal.contains("//") {
        normal = merge_slashes(&normal);
    }
    refuse_beside_encoded_slashes(&normal)?;
    normal.push_str(&raw[path.len()..]);
    Ok(Cow::Owned(normal))
}

/// Path and query (without its `?`) of a request target in origin form.
pub fn split(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// What some app makes of a path that is normal to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The path as that app sees it.
    pub path: String,
    /// Whether `%2F` was taken for a slash. The service says that it is none to its app, so a rule that permits one spelling need
    /// not permit the other.
    pub decoded: bool,
    /// Whether path parameters (`;` and what follows in a segment) were cut.
    pub cut: bool,
    /// Whether slashes in a row were made one.
    pub merged: bool,
}

/// How else a normal path without its query may be read. Mostly in no other way; at most in seven.
pub fn readings(path: &str) -> impl Iterator<Item = Reading> {
    let may_differ = path.contains(ENCODED_SLASH) || path.contains(';') || path.contains("//");
    let ways = if may_differ { 1..8 } else { 1..1u8 };
    let mut seen = vec![];
    ways.filter_map(move |way| {
        let mut reading = Reading { path: path.to_owned(), decoded: false, cut: false, merged: false };
        let mut read = |wanted: bool, read: fn(&str) -> String| {
            let other = if wanted { read(&reading.path) } else { return false };
            let differs = other != reading.path;
            reading.path = other;
            differs
        };
        let decoded = read(way & 1 != 0, |path| path.replace(ENCODED_SLASH, "/"));
        let cut = read(way & 2 != 0, cut_parameters);
        let merged = read(way & 4 != 0, merge_slashes);
        let reading = Reading { decoded, cut, merged, ..reading };
        let is_new = reading.path != path && !seen.contains(&reading.path);
        seen.push(reading.path.clone());
        is_new.then_some(reading)
    })
}

/// As it stands in a normal path.
const ENCODED_SLASH: &str = "%2F";

fn cut_parameters(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

/// A slash at the end stays one.
fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

/// Dot segments were removed by the slashes of the path, and segments that begin with `;` refused; none may be left by those of
/// another reading.
fn refuse_beside_encoded_slashes(path: &str) -> Result<(), PathError> {
    if !path.contains(ENCODED_SLASH) {
        return Ok(());
    }
    for part in path.split('/').flat_map(|segment| segment.split(ENCODED_SLASH)) {
        match part.split_once(';').map_or(part, |(name, _)| name) {
            "." | ".." => return Err(PathError::EncodedDotSegment),
            "" if !part.is_empty() => return Err(PathError::EmptySegmentParameter),
            _ => {}
        }
    }
    Ok(())
}

/// True if `path` is spelled as it should be; false if it can be respelled.
fn is_normal(path: &[u8], paths: Paths) -> Result<bool, PathError> {
    let mut normal = true;
    let mut at = 0;
    while at < path.len() {
        match CLASS[usize::from(path[at])] {
            Class::Plain => {}
            Class::Slash => normal &= paths.slashes == Slashes::Keep || at == 0 || path[at - 1] != b'/',
            Class::Semicolon if path[at - 1] == b'/' => return Err(PathError::EmptySegmentParameter),
            Class::Semicolon => {}
            Class::Dot if path[at - 1] == b'/' => normal &= !is_dot_segment(&path[at..]),
            Class::Dot => {}
            Class::Encode => normal = false,
            Class::Percent => {
                let byte = decode(&path[at..], paths.escaped_slashes)?;
                normal &= !is_unreserved(byte) && !path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase);
                at += 2;
            }
            Class::Backslash => return Err(PathError::Backslash),
            Class::Nul => return Err(PathError::Nul),
            Class::Illegal => return Err(PathError::IllegalCharacter),
        }
        at += 1;
    }
    Ok(normal)
}

/// True if what starts with a dot after a slash is `.`, `..` or one of them with a parameter (`.%2e` is not normal anyway).
fn is_dot_segment(rest: &[u8]) -> bool {
    let rest = &rest[1..];
    let rest = rest.strip_prefix(b".").unwrap_or(rest);
    matches!(rest.first(), None | Some(b'/' | b';'))
}

/// Percent-encodings in their one spelling; dot segments are still there.
fn respell(path: &[u8], slashes: EscapedSlashes) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len() + 16);
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        match CLASS[usize::from(byte)] {
            Class::Percent => {
                let byte = decode(&path[at..], slashes)?;
                if is_unreserved(byte) {
                    out.push(char::from(byte));
                } else {
                    encode(byte, &mut out);
                }
                at += 2;
            }
            Class::Encode => encode(byte, &mut out),
            _ => out.push(char::from(byte)),
        }
        at += 1;
    }
    Ok(out)
}

/// RFC 3986 s.5.2.4 on a path that starts with `/`; `..` above the root stays at the root.
fn remove_dot_segments(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    out.truncate(out.rfind('/').unwrap_or(0));
                }
                if last {
                    out.push('/');
                }
            }
            _ if segment.starts_with(".;") || segment.starts_with("..;") => return Err(PathError::DotSegmentParameter),
            _ => {
                out.push('/');
                out.push_str(segment);
            }
        }
    }
    Ok(out)
}

/// The byte of the `%XX` that `rest` starts with, unless it is one that is refused.
fn decode(rest: &[u8], slashes: EscapedSlashes) -> Result<u8, PathError> {
    let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    match (digit(1), digit(2)) {
        (Some(high), Some(low)) => match (high * 16 + low) as u8 {
            b'/' if slashes == EscapedSlashes::Reject => Err(PathError::EncodedSlash),
            b'\\' => Err(PathError::Backslash),
            0 => Err(PathError::Nul),
            1..0x20 | 0x7f => Err(PathError::EncodedControl),
            byte => Ok(byte),
        },
        _ => Err(PathError::MalformedPercent),
    }
}

fn encode(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// RFC 3986 s.2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: Paths = Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Keep };

    fn normalize(raw: &str) -> Result<Cow<'_, str>, PathError> {
        super::normalize(raw, Paths::default())
    }

    #[test]
    fn each_path_has_one_spelling() {
        for (raw, normal) in [
            ("/", "/"),
            ("/a/b?c=../d%2f\\", "/a/b?c=../d%2f\\"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/../../a", "/a"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/.?q", "/a/?q"),
            ("/.", "/"),
            ("/..", "/"),
            ("//a///b", "/a/b"),
            ("//", "/"),
            ("/a//?b//c", "/a/?b//c"),
            ("/a/..//..//b", "/b"),
            ("/a//../b", "/a/b"),
            ("/%61%7e%2D", "/a~-"),
            ("/%c3%a9", "/%C3%A9"),
            ("/é|[", "/%C3%A9%7C%5B"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/...", "/..."),
            ("/.well-known/x", "/.well-known/x"),
            ("/a..b/..c/d.", "/a..b/..c/d."),
            ("/..%20x", "/..%20x"),
            ("/.%25", "/.%25"),
            ("/a%3Bb;c", "/a%3Bb;c"),
            ("*", "*"),
        ] {
            assert_eq!(normalize(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for (raw, error) in [
            ("", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("?q", PathError::NotAbsolute),
            ("*?q", PathError::NotAbsolute),
            ("http://h/a", PathError::NotAbsolute),
            ("/a%2fb", PathError::EncodedSlash),
            ("/a%2Fb", PathError::EncodedSlash),
            ("/a\\b", PathError::Backslash),
            ("/a%5cb", PathError::Backslash),
            ("/a/..%5C..", PathError::Backslash),
            ("/a%00", PathError::Nul),
            ("/a\0", PathError::Nul),
            ("/a%", PathError::MalformedPercent),
            ("/a%2", PathError::MalformedPercent),
            ("/a%zz", PathError::MalformedPercent),
            ("/a%2?f", PathError::MalformedPercent),
            ("/a#b", PathError::IllegalCharacter),
            ("/a b", PathError::IllegalCharacter),
            ("/a\tb", PathError::IllegalCharacter),
            ("/a\u{7f}", PathError::IllegalCharacter),
            ("/public/..;/admin", PathError::DotSegmentParameter),
            ("/public/%2e%2e;x=y/admin", PathError::DotSegmentParameter),
            ("/public/.;/admin", PathError::DotSegmentParameter),
            ("/a%0A", PathError::EncodedControl),
            ("/a%0d%0ab", PathError::EncodedControl),
            ("/%7f", PathError::EncodedControl),
            ("/%1F/x", PathError::EncodedControl),
            ("/;/admin", PathError::EmptySegmentParameter),
            ("/a//;x=y", PathError::EmptySegmentParameter),
            ("/a/./;", PathError::EmptySegmentParameter),
        ] {
            assert_eq!(normalize(raw), Err(error), "{raw:?}");
        }
    }

    #[test]
    fn kept_slashes_are_parts_of_their_segments() {
        for (raw, normal) in [
            ("/repos/a%2Fb/files", "/repos/a%2Fb/files"),
            ("/repos/a%2fb/../c%2Fd", "/repos/c%2Fd"),
            ("/%2F", "/%2F"),
            ("/a%2F%2e%2e%2e/b", "/a%2F.../b"),
            ("/a%252Fb", "/a%252Fb"),
            ("/a%2F?x=%2f..%2f", "/a%2F?x=%2f..%2f"),
            ("/a/b", "/a/b"),
            ("//a///b/", "//a///b/"),
            ("/a//../b", "/a/b"),
        ] {
            assert_eq!(super::normalize(raw, KEEP).as_deref(), Ok(normal), "{raw}");
        }
        for (raw, error) in [
            ("/a/..%2Fadmin", PathError::EncodedDotSegment),
            ("/a%2f..", PathError::EncodedDotSegment),
            ("/a%2F%2e%2E%2Fadmin", PathError::EncodedDotSegment),
            ("/a%2F./b", PathError::EncodedDotSegment),
            ("/a%2F..;x=y%2Fadmin", PathError::EncodedDotSegment),
            ("/a%2F..;/admin", PathError::EncodedDotSegment),
            ("/a%2F;x", PathError::EmptySegmentParameter),
            ("//;x", PathError::EmptySegmentParameter),
            ("/a%5Cb", PathError::Backslash),
            ("/a%2F%00", PathError::Nul),
        ] {
            assert_eq!(super::normalize(raw, KEEP), Err(error), "{raw}");
        }
        let borrowed = super::normalize("/repos/a%2Fb", KEEP);
        assert!(matches!(borrowed, Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn a_path_is_read_in_each_way() {
        let all = |path| readings(path).map(|reading| reading.path).collect::<Vec<_>>();
        assert_eq!(all("/a/b"), [""; 0]);
        assert_eq!(all("/a//b%252F"), ["/a/b%252F"]);
        assert_eq!(all("/a;v=1/b;"), ["/a/b"]);
        assert_eq!(all("/a;b%2Fc"), ["/a;b/c", "/a", "/a/c"]);
        let how =
            |path| readings(path).map(|reading| (reading.decoded, reading.cut, reading.merged)).collect::<Vec<_>>();
        assert_eq!(how("/a%2F/b;c")[..3], [(true, false, false), (false, true, false), (true, true, false)]);
        assert_eq!(how("//a"), [(false, false, true)]);
        assert_eq!(all("/a%2Fb/c"), ["/a/b/c"]);
        assert_eq!(all("/a%2F/b"), ["/a//b", "/a/b"]);
        assert_eq!(all("/%2Fa%2F%2F"), ["//a//", "/a/"]);
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for raw in ["/", "/api/v1/pins?x=%2e", "/a%20b", "/.well-known/..x/a.b", "/a;b/c;", "*"] {
            assert!(matches!(normalize(raw), Ok(Cow::Borrowed(_))), "{raw}");
        }
    }

    /// RFC 3986 s.5.2.4 as it is written there, on a path without percent-encodings.
    fn remove_dot_segments_by_the_letter(path: &str) -> String {
        let (mut input, mut output) = (path.to_owned(), String::new());
        while !input.is_empty() {
            if input.starts_with("/./") {
                input.replace_range(..2, "");
            } else if input == "/." {
                input = "/".into();
            } else if input.starts_with("/../") || input == "/.." {
                input = if input == "/.." { "/".into() } else { input[3..].into() };
                output.truncate(output.rfind('/').unwrap_or(0));
            } else {
                let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
                output.push_str(&input[..end]);
                input.replace_range(..end, "");
            }
        }
        output
    }

    fn nasty() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            4 => Just("/"), 2 => Just("."), 1 => Just(".."), 1 => Just("%2e"), 1 => Just("%2E"), 2 => Just("a"), 1 => Just("%61"),
            1 => Just("%"), 1 => Just("%2"), 1 => Just("%2f"), 1 => Just("%5C"), 1 => Just("\\"), 1 => Just("?"), 1 => Just(";"),
            1 => Just("%25"), 1 => Just("é"), 1 => Just("%c3"), 1 => Just("#"), 1 => Just("*"), 1 => Just("\0"), 1 => Just("{"),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn the_result_is_normal(raw in nasty()) {
            if let Ok(normal) = normalize(&raw) {
                let (path, query) = split(&normal);
                prop_assert_eq!(split(&raw).1, query);
                prop_assert!(path.split('/').all(|segment| segment != ".." && segment != "."));
                prop_assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#'));
                let upper = path.to_ascii_uppercase();
                prop_assert!(["%2F", "%5C", "%00", "%2E", "%61"].iter().all(|bad| !upper.contains(bad)));
                prop_assert!(matches!(normalize(&normal), Ok(Cow::Borrowed(same)) if same == normal));
            }
        }

        #[test]
        fn no_reading_has_a_dot_segment_or_an_empty_one_with_a_parameter(raw in nasty()) {
            let kept = super::normalize(&raw, KEEP);
            if let (Ok(normal), Ok(kept)) = (normalize(&raw), &kept) {
                let (path, query) = split(kept);
                prop_assert_eq!(split(&normal), (&*merge_slashes(path), query), "they differ in nothing else");
            }
            if let Ok(normal) = kept {
                let (path, query) = split(&normal);
                prop_assert_eq!(split(&raw).1, query);
                let upper = path.to_ascii_uppercase();
                prop_assert!(["%5C", "%00", "%2E", "%61"].iter().all(|bad| !upper.contains(bad)) && !path.contains("%2f"));
                let again = super::normalize(&normal, KEEP);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                for reading in readings(path) {
                    let again = super::normalize(&reading.path, KEEP);
                    prop_assert_eq!(again.as_deref(), Ok(&*reading.path));
                }
            }
        }

        #[test]
        fn any_text_is_refused_or_normal(raw in any::<String>()) {
            if let Ok(normal) = normalize(&raw) {
                prop_assert!(normal.starts_with('/') || normal == "*");
                let again = normalize(&normal);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
            }
        }

        #[test]
        fn dot_segments_go_as_the_rfc_says(segments in proptest::collection::vec(prop_oneof![
            Just(""), Just("."), Just(".."), Just("a"), Just("..."), Just("b.c")], 1..10)) {
            let raw = format!("/{}", segments.join("/"));
            let (kept, expected) = (super::normalize(&raw, KEEP), remove_dot_segments_by_the_letter(&raw));
            prop_assert_eq!(kept.as_deref(), Ok(expected.as_str()));
            let (merged, expected) = (normalize(&raw), merge_slashes(&expected));
            prop_assert_eq!(merged.as_deref(), Ok(expected.as_str()));
        }

        #[test]
        fn encoding_unreserved_characters_changes_nothing(path in "(/[a-z.~_-]{0,4}){1,5}", which in any::<u32>()) {
            let encoded: String = path.char_indices().map(|(at, c)| match (c, which >> (at % 32) & 1) {
                ('/', _) | (_, 0) => c.to_string(),
                _ => format!("%{:02x}", c as u32),
            }).collect();
            prop_assert_eq!(normalize(&encoded), normalize(&path));
        }
    }
}
