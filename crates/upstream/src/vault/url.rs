//! Where an OpenBao or Vault is.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address like `https://vault.example:8200`. Without TLS (`http`) only on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Name or address; of IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl FromStr for VaultUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is no address of a Vault: write https://HOST:8200");
        let uri: http::Uri = text.parse().map_err(|_| malformed())?;
        let authority = uri.authority().filter(|it| !it.as_str().contains('@')).ok_or_else(malformed)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("{}; the mount is given apart", malformed()));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) => false,
            Some("http") => {
                return Err(format!(
                    "`{text}`: http is only for this machine (127.0.0.1, ::1, localhost), since a token goes there; use https"
                ));
            }
            _ => return Err(malformed()),
        };
        Ok(Self { tls, host, port: authority.port_u16().unwrap_or(8200) })
    }
}

impl VaultUrl {
    /// Host and port, as in the header `host`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for VaultUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_tls_is_of_this_machine() {
        for (text, shown) in [
            ("https://vault.example", "https://vault.example:8200"),
            ("https://10.0.0.7:443/", "https://10.0.0.7:443"),
            ("http://127.0.0.1:8201", "http://127.0.0.1:8201"),
            ("http://[::1]:8201", "http://[::1]:8201"),
            ("http://localhost", "http://localhost:8200"),
        ] {
            assert_eq!(text.parse::<VaultUrl>().unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("http://10.0.0.7:8200", "only for this machine"),
            ("http://localhost.example:8200", "only for this machine"),
            ("https://vault.example/v1/pki", "the mount is given apart"),
            ("https://user:word@vault.example", "no address"),
            ("vault.example:8200", "no address"),
            ("", "no address"),
        ] {
            let error = text.parse::<VaultUrl>().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
