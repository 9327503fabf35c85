//! One spelling for `context.host`: what `Host` or `:authority` names, without a port, in lower case, without dots at its end.
//!
//! What is no authority gets a host too, the one that servers find in it: nginx and Express take `board.prod:x` and `board.prod:80:80` for `board.prod`, and a
//! rule on that host must not be passed so.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// The host of an authority like `Board.prod.:8080`: `board.prod`. Brackets of an IPv6 address stay. Borrowed when normal.
///
/// Not a validator: whether the host exists is for routing to say.
pub fn normalize(authority: &str) -> Cow<'_, str> {
    let host = without_port(authority).trim_end_matches('.');
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// All before the first colon that is not of an IPv6 address.
fn without_port(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.find(']').map_or(authority, |end| &authority[..=end]);
    }
    match authority.split_once(':') {
        // An address whose brackets were forgotten.
        Some(_) if authority.trim_end_matches('.').parse::<Ipv6Addr>().is_ok() => authority,
        Some((host, _)) => host,
        None => authority,
    }
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
            // What nobody should send.
            ("board.prod:x", "board.prod"),
            ("board.prod:-1", "board.prod"),
            ("Board.prod.:80:80", "board.prod"),
            ("[::1]:x", "[::1]"),
            ("[::1", "[::1"),
            (":80", ""),
        ] {
            assert_eq!(normalize(authority), host, "{authority}");
        }
        assert!(matches!(normalize("board.prod:1"), Cow::Borrowed(_)));
    }
}
