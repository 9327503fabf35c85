//! Addresses on the command line: an IP address and a port, or a name that this machine can resolve, and a port.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

const HOW: &str = "write IP:PORT or NAME:PORT, like 127.0.0.1:8080, [::1]:8080 or localhost:8080";

/// Where to listen, or to be reached. Of a name that has addresses of both families it is the IPv4 one.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (name, port) = split(text)?;
    if let Some([address, _]) = loopback(name, port) {
        return Ok(address);
    }
    let found = (name, port).to_socket_addrs().map_err(|error| format!("the name `{name}` has no address: {error}"))?;
    prefer_v4(found).first().copied().ok_or_else(|| format!("the name `{name}` has no address"))
}

/// Name and port of what is no IP address.
pub(crate) fn split(text: &str) -> Result<(&str, u16), String> {
    let (name, port) = text.rsplit_once(':').ok_or_else(|| format!("it has no port: {HOW}"))?;
    let port = port.parse().map_err(|_| format!("`{port}` is no port: {HOW}"))?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!("`{name}` is no name and no IP address: {HOW}"));
    }
    Ok((name, port))
}

/// What `localhost` stands for, both families, whatever this machine's files say (RFC 6761 s.6.3).
pub(crate) fn loopback(name: &str, port: u16) -> Option<[SocketAddr; 2]> {
    let is_local = name.eq_ignore_ascii_case("localhost");
    is_local.then(|| [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()])
}

/// Each address once, IPv4 first: what listens on one family only mostly listens on that.
pub(crate) fn prefer_v4(found: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken() {
        assert_eq!(address("[::1]:80").expect("IPv6").to_string(), "[::1]:80");
        assert_eq!(address("10.0.0.1:0").expect("IPv4").to_string(), "10.0.0.1:0");
        assert_eq!(address("localhost:8080").expect("a name").to_string(), "127.0.0.1:8080");
        let mixed = ["[::1]:1", "127.0.0.1:1", "[::1]:1"].map(|text| text.parse().expect("an address"));
        assert_eq!(prefer_v4(mixed), [mixed[1], mixed[0]]);
    }

    #[test]
    fn what_is_neither_is_told_what_to_write() {
        for (text, told) in [
            ("8080", "it has no port"),
            ("localhost", "it has no port"),
            ("localhost:http", "`http` is no port"),
            ("localhost:65536", "`65536` is no port"),
            (":8080", "`` is no name"),
            ("::1:8080", "`::1` is no name"),
            ("http://localhost:80", "`http://localhost` is no name"),
            ("no-such-name.invalid:80", "the name `no-such-name.invalid` has no address"),
        ] {
            let error = address(text).expect_err(text);
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
