//! `kind: TrustDomain`: other trust domains, and what is called in them.

use std::sync::Arc;

use crate::finding::Span;
use crate::id::{ServiceName, SpiffeId, TrustDomain};

/// `kind: TrustDomain`: another trust domain, whose workloads prove to this one who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDomain {
    /// Its name; never that of the mesh itself.
    pub name: TrustDomain,
    /// Where its bundle is fetched.
    pub endpoint: EndpointUrl,
    /// How that endpoint proves that it is the right one.
    pub profile: Profile,
    /// Services of it that are called from here, in the order written.
    pub services: Vec<ForeignService>,
    /// Where the document starts.
    pub span: Span,
}

/// The URL of a bundle endpoint: `https`, without user information, query and fragment (SPIFFE Federation s.5.2.1.1, s.5.2.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    /// A name or an address; an IPv6 address without its brackets.
    pub host: Arc<str>,
    /// 443 if the URL has none.
    pub port: u16,
    /// Starts with `/`.
    pub path: Arc<str>,
}

impl EndpointUrl {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn read(text: &str) -> Result<Self, (&'static str, &'static str)> {
        const FORM: &str = "write it like https://mesh.other.example:8443/";
        let rest = text.strip_prefix("https://").ok_or(("its scheme is not https", FORM))?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(("it has a character that no URL has", FORM));
        }
        if rest.contains(['?', '#']) {
            return Err(("it has a query or fragment", "leave them out"));
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.contains('@') {
            let hint = "leave it out: anybody may fetch a bundle (SPIFFE Federation s.5.2)";
            return Err(("it has user information", hint));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(("its address has no `]`", FORM))?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let is_v6 = authority.starts_with('[');
        let is_name =
            |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if host.is_empty() || is_v6 && host.parse::<std::net::Ipv6Addr>().is_err() || !is_v6 && !is_name(host) {
            return Err(("it has no host", FORM));
        }
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => 443,
            port => {
                port.and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(("its port is none", FORM))?
            }
        };
        Ok(Self { host: host.into(), port, path: path.into() })
    }
}

impl std::fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, path } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}{path}")
        } else {
            write!(f, "https://{host}:{port}{path}")
        }
    }
}

/// How a bundle endpoint proves who it is. Neither profile falls back to the other (SPIFFE Federation s.7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `https_web`: by a certificate of a CA that this machine trusts, for the host of the URL (s.5.2.1).
    Web,
    /// `https_spiffe`: by an X.509-SVID (s.5.2.2).
    Spiffe {
        /// Whose. The newest bundle of its trust domain judges it: of the domain itself, of another one that the intent names, or of the mesh.
        id: SpiffeId,
        /// The first bundle, a SPIFFE bundle document. Later ones come from the endpoint. `None` where `id` is of another trust domain than the
        /// one whose bundle it serves (s.5.2.2.2).
        bundle: Option<Arc<str>>,
        /// Where the bundle stands, or else the identity.
        span: Span,
    },
}

/// A service of another trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignService {
    /// As callers here name it: the host is `name.namespace`. No service of the mesh has it.
    pub name: ServiceName,
    /// Who must answer.
    pub id: SpiffeId,
    /// The port that callers name.
    pub port: u16,
    /// Where its ingress is; at least one.
    pub addresses: Vec<std::net::SocketAddr>,
    /// Where the entry starts.
    pub span: Span,
}
