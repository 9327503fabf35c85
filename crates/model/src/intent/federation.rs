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
        /// Whose; of the trust domain itself.
        id: SpiffeId,
        /// The first bundle, a SPIFFE bundle document. Later ones come from the endpoint.
        bundle: Arc<str>,
        /// Where that stands.
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
