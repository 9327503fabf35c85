//! Cedar's `ipaddr`: an address with a prefix length. `10.0.0.1/8` is not `10.0.0.0/8`, though it is the same range.

use std::net::IpAddr;

/// An address or a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ip {
    address: IpAddr,
    /// In bits.
    prefix: u8,
}

/// Longer texts are refused, whatever they are.
const MAX_LEN: usize = 43;

impl From<IpAddr> for Ip {
    fn from(address: IpAddr) -> Self {
        Self { address, prefix: width(address) }
    }
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl Ip {
    /// What `ip("...")` makes of a text; `None` where that is an error.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let several = |mark: char| text.matches(mark).nth(1).is_some();
        if text.len() > MAX_LEN || several(':') && several('.') {
            return None;
        }
        let Some((address, prefix)) = text.split_once('/') else { return Some(text.parse::<IpAddr>().ok()?.into()) };
        let address: IpAddr = address.parse().ok()?;
        let zero_first = prefix.len() > 1 && prefix.starts_with('0');
        if zero_first || prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= width(address)).then_some(Self { address, prefix })
    }

    pub(crate) fn is_v4(self) -> bool {
        self.address.is_ipv4()
    }

    pub(crate) fn is_v6(self) -> bool {
        self.address.is_ipv6()
    }

    /// All of the range is.
    pub(crate) fn is_loopback(self) -> bool {
        self.address.is_loopback() && self.prefix >= if self.is_v4() { 8 } else { 128 }
    }

    /// All of the range is.
    pub(crate) fn is_multicast(self) -> bool {
        self.address.is_multicast() && self.prefix >= if self.is_v4() { 4 } else { 8 }
    }

    pub(crate) fn is_in_range(self, range: Self) -> bool {
        if self.is_v4() != range.is_v4() || self.prefix < range.prefix {
            return false;
        }
        let network = |address: IpAddr| {
            let (bits, width) = match address {
                IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
                IpAddr::V6(ip) => (u128::from(ip), 128),
            };
            bits.checked_shr(width - u32::from(range.prefix)).unwrap_or(0)
        };
        network(self.address) == network(range.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ip {
        Ip::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn ranges_hold_what_is_in_them() {
        for (inner, outer) in [
            ("10.1.2.3", "10.0.0.0/8"),
            ("10.1.2.3", "10.9.9.9/8"),
            ("10.1.2.3", "0.0.0.0/0"),
            ("10.1.0.0/16", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("fe80::1", "fe80::/10"),
            ("::1", "::/0"),
            ("::1", "::1"),
        ] {
            assert!(ip(inner).is_in_range(ip(outer)), "{inner} {outer}");
        }
        for (inner, outer) in [
            ("11.1.2.3", "10.0.0.0/8"),
            ("10.0.0.0/7", "10.0.0.0/8"),
            ("10.1.2.3", "::/0"),
            ("::1", "0.0.0.0/0"),
            ("10.1.2.3", "10.1.2.4"),
            ("::2", "::1"),
        ] {
            assert!(!ip(inner).is_in_range(ip(outer)), "{inner} {outer}");
        }
    }

    #[test]
    fn a_range_is_loopback_or_multicast_as_a_whole() {
        assert!(ip("127.0.0.1/8").is_loopback() && ip("::1").is_loopback() && ip("224.0.0.0/4").is_multicast());
        assert!(!ip("127.0.0.1/7").is_loopback() && !ip("::1/127").is_loopback() && !ip("224.0.0.0/3").is_multicast());
        assert!(ip("ff02::1").is_multicast() && !ip("ff02::1/7").is_multicast());
        assert!(ip("1.2.3.4").is_v4() && ip("::").is_v6());
    }

    #[test]
    fn what_cedar_does_not_read_is_no_address() {
        for text in [
            "",
            "x",
            "1.2.3",
            "1.2.3.4/33",
            "::/129",
            "1.2.3.4/08",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/8/8",
            "::ffff:1.2.3.4",
            " ::1",
            "0000:0000:0000:0000:0000:0000:0000:0000/0128",
        ] {
            assert_eq!(Ip::parse(text), None, "{text}");
        }
        assert_eq!(ip("1.2.3.4"), ip("1.2.3.4/32"));
        assert_ne!(ip("1.2.3.4/8"), ip("1.0.0.0/8"));
    }
}
