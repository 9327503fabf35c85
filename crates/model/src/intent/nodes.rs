//! `Mesh.identity.nodes`: by which proof, other than a join token, a machine becomes a sidecar of a service or an agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::access::glob;
use super::federation::EndpointUrl;
use crate::finding::Span;
use crate::id::ServiceName;
use crate::subject::{AgentName, Subject};

/// One entry of `Mesh.identity.nodes`: whoever proves this may become that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// What has to be proved.
    pub proof: NodeProof,
    /// Sidecars of which services it may become.
    pub services: Vec<ServiceName>,
    /// Which agents it may become. A `*` in it is what the one `*` among the values of the proof stands for.
    pub agent: Option<Wildcard>,
    /// Where the entry starts.
    pub span: Span,
}

impl NodeEntry {
    /// What the `*` among the values of the proof has to be for somebody who is to become this one; `None` if nobody can by this entry.
    pub fn star_for(&self, subject: &Subject) -> Option<Star> {
        match subject {
            Subject::Service(service) => self.services.contains(service).then_some(Star::Any),
            Subject::Agent(agent) => self.agent.as_ref()?.star_for(agent),
        }
    }
}

/// What the `*` of a [`Wildcard`] stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Star {
    /// Any letters, also none.
    Any,
    /// These.
    Is(Arc<str>),
}

/// Text in which `*` stands for letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wildcard(pub Arc<str>);

impl Wildcard {
    /// How many stars there are.
    pub fn stars(&self) -> usize {
        self.0.matches('*').count()
    }

    /// Whether it is this text, with the star for any letters or for these.
    pub fn holds(&self, text: &str, star: &Star) -> bool {
        match star {
            Star::Any => glob(&self.0, text),
            Star::Is(letters) => *self.0.replace('*', letters) == *text,
        }
    }

    /// The same of a DNS name: a star stays within one label, and upper case is lower case.
    pub fn holds_of_name(&self, name: &str, star: &Star) -> bool {
        let (pattern, name) = (self.0.to_ascii_lowercase(), name.to_ascii_lowercase());
        let (labels, given) = (pattern.split('.'), name.split('.'));
        let holds = |(label, given): (&str, &str)| Self(label.into()).holds(given, star) && !given.is_empty();
        labels.clone().count() == given.clone().count() && labels.zip(given).all(holds)
    }

    /// What its star stands for in the name of an agent; `None` if that is another name.
    fn star_for(&self, agent: &AgentName) -> Option<Star> {
        let Some((before, behind)) = self.0.split_once('*') else {
            return (*self.0 == *agent.as_str()).then_some(Star::Any);
        };
        let letters = agent.as_str().strip_prefix(before)?.strip_suffix(behind)?;
        (!letters.is_empty()).then(|| Star::Is(letters.into()))
    }
}

/// What has to be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeProof {
    /// That one holds the key of a certificate.
    X509pop(X509pop),
    /// That an issuer of tokens knows one.
    Oidc(Oidc),
}

/// `x509pop`: a certificate of a CA that is not the mesh's. All values that are there must hold, each by one of its texts; one is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X509pop {
    /// Certificates in PEM: under one of these it must have been issued.
    pub ca: Arc<str>,
    /// Where that stands.
    pub ca_span: Span,
    /// Of its subject, the only one there.
    pub common_name: Vec<Wildcard>,
    /// One of its DNS names.
    pub dns_name: Vec<Wildcard>,
    /// One of its URIs.
    pub uri: Vec<Wildcard>,
    /// SHA-256 of the certificate, 64 lower-case hexadecimal digits.
    pub fingerprint: Vec<Arc<str>>,
}

/// `oidc`: a JWT of an issuer that is not the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    /// Its `iss`, letter by letter.
    pub issuer: Arc<str>,
    /// What must be among its `aud`.
    pub audience: Arc<str>,
    /// Where the issuer's keys are.
    pub keys: OidcKeys,
    /// Claim -> texts, one of which must hold. One claim at least is there.
    pub claims: BTreeMap<Arc<str>, Vec<Wildcard>>,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OidcKeys {
    /// Here: a JWK Set.
    Inline {
        /// As it was written.
        jwks: Arc<str>,
        /// Where that stands.
        span: Span,
    },
    /// Where the issuer says (OpenID Connect Discovery 1.0 s.4).
    Discovered {
        /// Certificates in PEM: its TLS is judged by these and no others.
        ca: Option<Arc<str>>,
        /// Where that stands, or else where `issuer` does.
        span: Span,
    },
}

/// A URL from which the control plane fetches: `https`, or `http` of this very machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebUrl {
    /// Whether it is `https`.
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: Arc<str>,
    /// Its own, or that of the scheme.
    pub port: u16,
    /// Path and query; starts with `/`.
    pub path: Arc<str>,
}

impl WebUrl {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let (base, query) = text.split_at(text.find('?').unwrap_or(text.len()));
        if !query.bytes().all(|byte| byte.is_ascii_graphic()) || query.contains('#') {
            return Err(("it has a character that no query has", "write it like https://issuer.example"));
        }
        let (tls, https) = match base.strip_prefix("http://") {
            Some(rest) => (false, format!("https://{rest}")),
            None => (true, base.to_owned()),
        };
        let has_port = https["https://".len().min(https.len())..].split('/').next().is_some_and(|authority| {
            authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        });
        let EndpointUrl { host, port, path } = EndpointUrl::read(&https)?;
        let is_here = host.parse::<std::net::IpAddr>().map_or(*host == *"localhost", |address| address.is_loopback());
        if !tls && !is_here {
            return Err(("over http anybody on the way could put keys of his own", "write https://"));
        }
        let port = if tls || has_port { port } else { 80 };
        Ok(Self { tls, host, port, path: format!("{path}{query}").into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wildcard(text: &str) -> Wildcard {
        Wildcard(text.into())
    }

    #[test]
    fn a_star_stays_within_a_label_of_a_name_and_not_in_other_text() {
        let name = |pattern: &str, name: &str| wildcard(pattern).holds_of_name(name, &Star::Any);
        assert!(name("*.dc1.example", "m1.dc1.example") && name("m*.dc1.example", "M1.DC1.example"));
        for other in ["a.b.dc1.example", "dc1.example", ".dc1.example", "m1.dc1.example.evil"] {
            assert!(!name("*.dc1.example", other), "{other}");
        }
        let is = Star::Is("m1".into());
        assert!(wildcard("*.dc1.example").holds_of_name("m1.dc1.example", &is));
        assert!(!wildcard("*.dc1.example").holds_of_name("m2.dc1.example", &is));
        assert!(wildcard("repo:acme/*").holds("repo:acme/board:ref:refs/heads/main", &Star::Any));
        assert!(!wildcard("repo:acme/*").holds("repo:acme2/board", &Star::Any));
        assert!(!wildcard("repo:acme/board").holds("repo:acme/board2", &Star::Any));
    }

    #[test]
    fn the_name_of_an_agent_is_what_the_star_stood_for() {
        let agent = |text: &str| text.parse::<AgentName>().expect("legal");
        assert_eq!(wildcard("dc1-*").star_for(&agent("dc1-m1")), Some(Star::Is("m1".into())));
        assert_eq!(wildcard("*").star_for(&agent("m1")), Some(Star::Is("m1".into())));
        assert_eq!(wildcard("m1").star_for(&agent("m1")), Some(Star::Any));
        assert_eq!(wildcard("m1").star_for(&agent("m2")), None);
        assert_eq!(wildcard("dc1-*").star_for(&agent("dc1")), None);
        assert_eq!(wildcard("*-dc1").star_for(&agent("x-dc2")), None);
    }

    #[test]
    fn a_url_is_https_or_of_this_machine() {
        let read = |text: &str| WebUrl::parse(text).map(|url| (url.tls, url.host.to_string(), url.port, url.path));
        assert_eq!(read("https://a.example/x"), Ok((true, "a.example".into(), 443, "/x".into())));
        assert_eq!(read("http://127.0.0.1:8080"), Ok((false, "127.0.0.1".into(), 8080, "/".into())));
        assert_eq!(read("http://[::1]/keys?v=1"), Ok((false, "::1".into(), 80, "/keys?v=1".into())));
        assert_eq!(read("http://[::1]:443/"), Ok((false, "::1".into(), 443, "/".into())));
        assert_eq!(read("http://localhost/"), Ok((false, "localhost".into(), 80, "/".into())));
        for wrong in
            ["http://a.example", "ftp://a.example", "a.example", "https://u@a.example", "https://", "http", "é", ""]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
