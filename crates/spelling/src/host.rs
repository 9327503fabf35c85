//! One spelling for `context.host`: what `Host` or `:authority` names, without a port, in lower case, without dots at its end.

use std::borrow::Cow;

/// The host of an authority like `Board.prod.:8080`: `board.prod`. Brackets of an IPv6 address stay. Borrowed when normal.
///
/// Not a validator: whether the host exists is for routing to say.
pub fn normalize(authority: &str) -> Cow<'_, str> {
    let whole = authority.trim_end_matches('.');
    let host = match whole.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && is_whole(host) => host,
        _ => whole,
    };
    let host = host.trim_end_matches('.');
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// False for the front part of an IPv6 address.
fn is_whole(host: &str) -> bool {
    host.ends_with(']') || !host.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_case_and_final_dots_go() {
        for (authority, host) in [
            ("board.prod", "board.prod"),
            ("Board.PROD.:8080", "board.prod"),
            ("board:", "board"),
            ("board..", "board"),
            ("board.:80.", "board"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("1.2.3.4:5", "1.2.3.4"),
            ("", ""),
        ] {
            assert_eq!(normalize(authority), host, "{authority}");
        }
        assert!(matches!(normalize("board.prod:1"), Cow::Borrowed(_)));
    }
}
