//! Where the API is served: a path, or an address of the Workload Endpoint specification (s.4).

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A Unix socket, or a port on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// This file.
    Unix(PathBuf),
    /// Loopback only: elsewhere nothing would say who calls.
    Tcp(SocketAddr),
}

/// Why a text is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; write a path, unix:///path or tcp://127.0.0.1:port")]
pub struct EndpointError(&'static str);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(rest) = text.strip_prefix("tcp:") {
            let address = rest.strip_prefix("//").unwrap_or(rest).parse::<SocketAddr>();
            let address = address.map_err(|_| EndpointError("that is no IP address with a port"))?;
            if !address.ip().is_loopback() {
                return Err(EndpointError("that is no loopback address, so nobody could say who calls"));
            }
            return Ok(Self::Tcp(address));
        }
        let path = match text.strip_prefix("unix:") {
            Some(rest) if rest.contains(['?', '#']) => {
                return Err(EndpointError("a unix address is a path and no more"));
            }
            Some(rest) => match rest.strip_prefix("//") {
                Some(path) if path.starts_with('/') => path,
                Some(_) => return Err(EndpointError("a unix address has no host")),
                None if rest.starts_with('/') => rest,
                None => return Err(EndpointError("a unix address has an absolute path")),
            },
            None if has_scheme(text) => return Err(EndpointError("its scheme is neither unix nor tcp")),
            None => text,
        };
        if path.is_empty() || path.ends_with('/') {
            return Err(EndpointError("that is no path of a file"));
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }
}

/// Whether a text begins as a URI does (RFC 3986 s.3.1).
fn has_scheme(text: &str) -> bool {
    let Some((scheme, _)) = text.split_once(':') else { return false };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// As it is handed to clients in `SPIFFE_ENDPOINT_SOCKET`; a path must be absolute by then.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Endpoint {
    /// What `SPIFFE_ENDPOINT_SOCKET` says: a URI, and no bare path (Workload Endpoint s.4).
    ///
    /// # Errors
    /// It is none that the specification has.
    pub fn from_uri(text: &str) -> Result<Self, EndpointError> {
        if has_scheme(text) { text.parse() } else { Err(EndpointError("it has no scheme")) }
    }

    /// With a path that does not depend on where a process runs.
    ///
    /// # Errors
    /// The folder that this process runs in is gone.
    pub fn absolute(self) -> std::io::Result<Self> {
        Ok(match self {
            Self::Unix(path) => Self::Unix(std::path::absolute(Path::new(&path))?),
            tcp @ Self::Tcp(_) => tcp,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_the_specification_is_read_and_each_wrong_one_told_why() {
        let read = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()).map_err(|error| error.0);
        for text in ["/run/w.sock", "unix:/run/w.sock", "unix:///run/w.sock"] {
            assert_eq!(read(text), Ok("unix:///run/w.sock".to_owned()), "{text}");
        }
        for text in ["tcp:127.0.0.1:8000", "tcp://127.0.0.1:8000"] {
            assert_eq!(read(text), Ok("tcp://127.0.0.1:8000".to_owned()), "{text}");
        }
        assert_eq!(read("tcp://[::1]:8000"), Ok("tcp://[::1]:8000".to_owned()));
        assert_eq!(read("unix://host/w.sock"), Err("a unix address has no host"));
        assert_eq!(read("unix:w.sock"), Err("a unix address has an absolute path"));
        for text in ["tcp://localhost:8000", "tcp://127.0.0.1", "tcp://127.0.0.1:8000/x", "tcp:"] {
            assert_eq!(read(text), Err("that is no IP address with a port"), "{text}");
        }
        for text in ["tcp://0.0.0.0:8000", "tcp://10.0.0.1:8000", "tcp://[::]:8000"] {
            assert_eq!(read(text), Err("that is no loopback address, so nobody could say who calls"), "{text}");
        }
        for text in ["unix:///run/w.sock?x", "unix:/run/w.sock#x"] {
            assert_eq!(read(text), Err("a unix address is a path and no more"), "{text}");
        }
        for text in ["http://127.0.0.1:8000", "https:/x", "UNIX:/run/w.sock", "npipe:w"] {
            assert_eq!(read(text), Err("its scheme is neither unix nor tcp"), "{text}");
        }
        for text in ["/run/w.sock", "w.sock", "./a:b", ""] {
            assert_eq!(Endpoint::from_uri(text).map_err(|error| error.0), Err("it has no scheme"), "{text}");
        }
        assert_eq!(Endpoint::from_uri("unix:/run/w.sock"), "/run/w.sock".parse());
        for text in ["", "/run/", "unix:///run/"] {
            assert_eq!(read(text), Err("that is no path of a file"), "{text}");
        }
        let absolute = "w.sock".parse::<Endpoint>().unwrap().absolute().unwrap().to_string();
        assert!(absolute.starts_with("unix:///") && absolute.ends_with("/w.sock"), "{absolute}");
    }
}
