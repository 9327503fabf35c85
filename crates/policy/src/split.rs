//! A `.cedar` file cut into its policies, so that each is parsed by itself: one that does not parse spoils no other, and each
//! keeps its place in the file.
//!
//! Cedar's grammar has `;` only at the end of a policy, outside of strings and comments, so that is all that is looked for.

/// One policy of a file, from its first token to its `;`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    /// The text, without what stands before the first token.
    pub(crate) text: &'a str,
    /// Where the text starts in the file, in bytes.
    pub(crate) offset: usize,
}

/// The policies of `file`. What follows the last `;` is a chunk too, unless it is blank: it will not parse and be reported.
pub(crate) fn policies(file: &str) -> Vec<Chunk<'_>> {
    let bytes = file.as_bytes();
    let mut chunks = Vec::new();
    let mut start = None;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"//") {
            at = file[at..].find('\n').map_or(bytes.len(), |end| at + end);
            continue;
        }
        let character = file[at..].chars().next().unwrap_or(' ');
        if character.is_whitespace() {
            at += character.len_utf8();
            continue;
        }
        let offset = *start.get_or_insert(at);
        match character {
            '"' => at = end_of_string(bytes, at),
            ';' => {
                at += 1;
                chunks.push(Chunk { text: &file[offset..at], offset });
                start = None;
            }
            _ => at += character.len_utf8(),
        }
    }
    if let Some(offset) = start {
        chunks.push(Chunk { text: file[offset..].trim_end(), offset });
    }
    chunks
}

/// One past the closing quote of the string that starts at `at`, or the end of the file.
pub(crate) fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Line and column (in characters) of a byte offset, both from 1.
pub(crate) fn position(file: &str, offset: usize) -> (u32, u32) {
    let mut offset = offset.min(file.len());
    while !file.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &file[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line as u32, before[line_start..].chars().count() as u32 + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strings_and_comments_do_not_end_a_policy() {
        let file = "// a; comment \"\npermit(a == \"x;\\\";// no\", b); forbid // ; \n(c);\n\n// the end;";
        let texts: Vec<_> = policies(file).iter().map(|chunk| chunk.text).collect();
        assert_eq!(texts, ["permit(a == \"x;\\\";// no\", b);", "forbid // ; \n(c);"]);
        let places: Vec<_> = policies(file).iter().map(|chunk| position(file, chunk.offset)).collect();
        assert_eq!(places, [(2, 1), (2, 31)]);
    }

    #[test]
    fn what_is_not_finished_is_kept() {
        let texts = |file| policies(file).iter().map(|chunk| chunk.text.to_owned()).collect::<Vec<_>>();
        assert_eq!(texts("permit(x); permit(y\n"), ["permit(x);", "permit(y"]);
        assert_eq!(texts("permit(\"x; "), ["permit(\"x;"]);
        assert_eq!(texts("\"\\"), ["\"\\"]);
        assert!(texts(" \n// nothing").is_empty());
    }

    #[test]
    fn columns_are_characters() {
        assert_eq!(position("é\näö;", 0), (1, 1));
        assert_eq!(position("é\näö;", 7), (2, 3));
        assert_eq!(position("é", 99), (1, 2));
    }

    proptest! {
        #[test]
        fn any_text_is_cut_without_loss(file in "[a;\"\\\\/\n é]{0,40}") {
            let chunks = policies(&file);
            let mut end = 0;
            for chunk in &chunks {
                prop_assert!(chunk.offset >= end && file[chunk.offset..].starts_with(chunk.text));
                prop_assert!(!chunk.text.is_empty());
                end = chunk.offset + chunk.text.len();
            }
        }
    }
}
