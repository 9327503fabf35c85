use proptest::prelude::*;

use weft_model::intent::Case;

use super::reading::merge_slashes;
use super::*;

const KEEP: Paths = Paths { escaped_slashes: EscapedSlashes::Keep, slashes: Slashes::Keep, case: Case::Sensitive };

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
        ("/a%3f%23/..b%3bc", "/a%3F%23/..b%3Bc"),
        ("/...%3F/.a%23", "/...%3F/.a%23"),
        ("/%e2%82%ac%f0%9f%98%80", "/%E2%82%AC%F0%9F%98%80"),
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
        ("/x/..%3B/admin", PathError::DotSegmentParameter),
        ("/x/%2e%2e%3bx/admin", PathError::DotSegmentParameter),
        ("/x/.%3B", PathError::DotSegmentParameter),
        ("/admin/x/..%3F", PathError::DotSegmentParameter),
        ("/.%23x", PathError::DotSegmentParameter),
        ("/adm%FFin", PathError::NotUtf8),
        ("/%C0%AFadmin", PathError::NotUtf8),
        ("/%c1%a1dmin", PathError::NotUtf8),
        ("/\u{c3}%A9", PathError::NotUtf8),
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
        ("/a%2F..%3Bx/b", PathError::EncodedDotSegment),
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
    assert_eq!(all("/a%2Fb/c"), ["/a/b/c"]);
    assert_eq!(all("/a%2F/b"), ["/a//b", "/a/b"]);
    assert_eq!(all("/%2Fa%2F%2F"), ["//a//", "/a/", "//a", "/a"]);
    assert_eq!(all("/a/"), ["/a"]);
    assert_eq!(all("/"), [""; 0]);
    assert_eq!(all("/a%3Fb"), ["/a"]);
    assert_eq!(all("/a/%23b%3F"), ["/a/", "/a"]);
    assert_eq!(all("/a%3Bb/c"), ["/a;b/c", "/a/c"]);
    assert!(all("/%3B/admin/").contains(&"/admin".to_owned()));
    let how = |path| readings(path).map(|reading| (reading.how(path), reading.is_lenient())).collect::<Vec<_>>();
    let told = |how: &str, lenient| (how.to_owned(), lenient);
    assert_eq!(
        how("//a;b/")[..3],
        [
            told("no parameters after ;", false),
            told("several slashes as one", false),
            told("no parameters after ;, several slashes as one", false),
        ]
    );
    assert_eq!(how("/a/"), [told("no slash at the end", true)]);
    assert_eq!(how("/a%3Bb"), [told("%3B as ;", true), told("%3B as ;, no parameters after ;", true)]);
    assert_eq!(how("/a%2Fb"), [told("%2F as a slash", true)]);
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
        1 => Just("%25"), 1 => Just("é"), 1 => Just("%c3%a9"), 1 => Just("%c3"), 1 => Just("%3b"), 1 => Just("%3F"), 1 => Just("#"), 1 => Just("*"), 1 => Just("\0"), 1 => Just("{"),
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
            // A semicolon that comes of `%3B` may begin a segment.
            for reading in readings(path).filter(|reading| !reading.path.contains("/;")) {
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
