//! Percent-encoded text in a path, and paths of apps to which upper and lower case are the same.

use std::borrow::Cow;

/// A normal path as it is to an app that does not tell upper from lower case. Percent-encodings keep their upper-case digits; what they encode
/// is text and gets the lower case of its letters. Borrows a path that is in lower case already.
pub fn lower_case(path: &str) -> Cow<'_, str> {
    if !path.bytes().any(|byte| byte.is_ascii_uppercase() || byte == b'%') {
        return Cow::Borrowed(path);
    }
    let mut lower = String::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let (text, end) = encoded_text(path, at);
        if end > at {
            match std::str::from_utf8(&text) {
                Ok(text) => text.chars().for_each(|letter| push(lower_letter(letter), &mut lower)),
                Err(_) => lower.push_str(&path[at..end]),
            }
            at = end;
            continue;
        }
        let letter = path[at..].chars().next().unwrap_or_default();
        lower.push(letter.to_ascii_lowercase());
        at += letter.len_utf8();
        if letter == '%' {
            // Its digits are no letters.
            let digits = path.get(at..at + 2).unwrap_or_default();
            lower.push_str(digits);
            at += digits.len();
        }
    }
    if lower == path { Cow::Borrowed(path) } else { Cow::Owned(lower) }
}

/// Whether all that is percent-encoded is text. What is not encoded is ASCII, so each run of other bytes stands alone.
pub(super) fn is_utf8(path: &str) -> bool {
    let mut at = 0;
    while let Some(next) = path[at..].find('%') {
        let (text, end) = encoded_text(path, at + next);
        if std::str::from_utf8(&text).is_err() {
            return false;
        }
        at = end.max(at + next + 1);
    }
    true
}

/// The bytes above ASCII that are encoded from a place on, one after the other, and where they end.
fn encoded_text(path: &str, start: usize) -> (Vec<u8>, usize) {
    let (mut text, mut at) = (Vec::new(), start);
    while let Some(digits) = path.get(at..at + 3).and_then(|encoded| encoded.strip_prefix('%')) {
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if !byte.is_ascii() => text.push(byte),
            _ => break,
        }
        at += 3;
    }
    (text, at)
}

/// Letters beside ASCII that some reader takes for one of ASCII become that one.
fn lower_letter(letter: char) -> char {
    match letter {
        '\u{130}' | '\u{131}' => 'i',
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_lowercase().next().unwrap_or(letter),
    }
}

fn push(letter: char, out: &mut String) {
    if letter.is_ascii() {
        out.push(letter);
        return;
    }
    letter.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| encode(byte, out));
}

/// A byte as it stands in a path where it is no character of one.
pub(super) fn encode(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_lose_their_case_and_digits_of_encodings_do_not() {
        for (path, lower) in [
            ("/Admin/USERS", "/admin/users"),
            ("/a%2Fb%3Bc", "/a%2Fb%3Bc"),
            ("/%C3%89t%C3%A9/X", "/%C3%A9t%C3%A9/x"),
            ("/adm%C4%B0n", "/admin"),
            ("/%E2%84%AA%C5%BF", "/ks"),
            ("/%FF%C3X", "/%FF%C3x"),
            ("/%zzQ%", "/%zzq%"),
            ("/é%", "/é%"),
        ] {
            assert_eq!(lower_case(path), lower);
            assert_eq!(lower_case(lower), lower, "twice is once");
        }
        assert!(matches!(lower_case("/a/%C3%A9"), Cow::Borrowed(_)));
    }

    #[test]
    fn text_is_told_from_bytes() {
        for good in ["/", "/%C3%A9", "/%E2%82%AC%F0%9F%98%80x%C3%A9", "/%41%7F"] {
            assert!(is_utf8(good), "{good}");
        }
        for bad in ["/%FF", "/%C0%AF", "/%C1%A1dmin", "/%E0%80%AF", "/a%80", "/%C3x%A9", "/%ED%A0%80"] {
            assert!(!is_utf8(bad), "{bad}");
        }
    }
}
