//! One spelling for every request path, decided once, before routing and policy (RFC 3986 s.6.2.2).
//!
//! What two readers could take differently (an encoded slash, a backslash, a NUL) is refused, never repaired: a repaired path
//! is how a request passes as one thing and is served as another. The query is not looked at and is kept as it was written.
//!
//! Several slashes in a row are one, unless a service keeps them ([`Slashes::Keep`]); it may let encoded slashes through as well
//! ([`EscapedSlashes::Keep`]), which are then parts of their segments. What an app can still read in another way are the path's
//! [`readings`]: the engine decides about those too, so that no policy is passed by writing a path in another way.

mod lower;
mod reading;

use std::borrow::Cow;

use weft_model::intent::{EscapedSlashes, Paths, Slashes};

pub use lower::lower_case;
pub use reading::{Reading, readings};

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
    /// `..;x`: an ordinary segment by RFC 3986, a dot segment to servers that cut path parameters first. And `..%3B`, `..%3F`, `..%23` to those
    /// that get a path decoded.
    #[error("the path has a dot segment with a parameter (like ..; or ..%3B)")]
    DotSegmentParameter,
    /// `%FF`, or an overlong encoding such as `%C0%AF`: nothing to some readers, and something else to each of the others.
    #[error("the path has percent-encoded bytes that are not UTF-8 (like %FF)")]
    NotUtf8,
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
        refuse_encoded(path)?;
        return Ok(Cow::Borrowed(raw));
    }
    let spelled = respell(path.as_bytes(), paths.escaped_slashes)?;
    // In the order of Envoy, which merges what is left when dot segments are gone: `/a//../b` is `/a/b` to both.
    let mut normal = remove_dot_segments(&spelled)?;
    if paths.slashes == Slashes::Merge && normal.contains("//") {
        normal = reading::merge_slashes(&normal);
    }
    refuse_encoded(&normal)?;
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

/// What is percent-encoded and may be more than data to somebody: slashes, semicolons, and bytes that are no text.
///
/// Dot segments were removed by the slashes of the path, and segments that begin with `;` refused; none may be left by those of
/// another reading.
fn refuse_encoded(path: &str) -> Result<(), PathError> {
    if !path.contains('%') {
        return Ok(());
    }
    let slash = path.contains(ENCODED_SLASH);
    if slash || ENCODED_ENDS.iter().any(|end| path.contains(end)) {
        for part in path.split('/').flat_map(|segment| segment.split(ENCODED_SLASH)) {
            let ends = [";"].iter().chain(&ENCODED_ENDS).filter_map(|end| part.find(end));
            match &part[..ends.min().unwrap_or(part.len())] {
                "." | ".." if slash => return Err(PathError::EncodedDotSegment),
                "." | ".." => return Err(PathError::DotSegmentParameter),
                _ if slash && part.starts_with(';') => return Err(PathError::EmptySegmentParameter),
                _ => {}
            }
        }
    }
    if lower::is_utf8(path) { Ok(()) } else { Err(PathError::NotUtf8) }
}

/// As it stands in a normal path.
const ENCODED_SLASH: &str = "%2F";
/// `;`, `?` and `#`: what ends a segment, or the path, to whoever gets it decoded.
const ENCODED_ENDS: [&str; 3] = ["%3B", "%3F", "%23"];

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
                    lower::encode(byte, &mut out);
                }
                at += 2;
            }
            Class::Encode => lower::encode(byte, &mut out),
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

/// RFC 3986 s.2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests;
