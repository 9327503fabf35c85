//! Trust domains, SPIFFE IDs and service names.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The trust domain breaks SPIFFE-ID s.2.1.
    #[error("`{0}` is not a trust domain: use 1 to 255 lower-case letters, digits, dots, dashes and underscores")]
    TrustDomain(String),
    /// The SPIFFE ID breaks SPIFFE-ID s.2.
    #[error("`{id}` is not a SPIFFE ID: {why}")]
    SpiffeId {
        /// The text that was given.
        id: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Not `namespace/name`.
    #[error(
        "`{0}` is not a service name: write namespace/name, each 1 to 63 lower-case letters, digits and dashes, like prod/board"
    )]
    ServiceName(String),
    /// Not the name of an agent.
    #[error("`{0}` is not the name of an agent: use 1 to 63 lower-case letters, digits and dashes, like m1")]
    AgentName(String),
}

/// A SPIFFE trust domain name (SPIFFE-ID s.2.1), 1 to 255 characters of `[a-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The name without a scheme, like `acme.internal`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself, as it stands in its signing certificates.
    pub fn id(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(legal) {
            return Err(NameError::TrustDomain(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload's SPIFFE ID (SPIFFE-ID s.2): `spiffe://trust-domain/path`, at most 2048 bytes, with a path.
///
/// The mesh names its workloads `/ns/<namespace>/sa/<name>`, as Istio does; other shapes are legal and simply name no service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    text: Arc<str>,
    path_at: u16,
}

impl SpiffeId {
    /// The identity of a service of this mesh.
    pub fn for_service(trust_domain: &TrustDomain, service: &ServiceName) -> Self {
        Self::at(trust_domain, &format!("/ns/{}/sa/{}", service.namespace(), service.name()))
    }

    /// With a path that is known to be legal.
    pub(crate) fn at(trust_domain: &TrustDomain, path: &str) -> Self {
        let text = format!("spiffe://{trust_domain}{path}");
        Self { path_at: ("spiffe://".len() + trust_domain.as_str().len()) as u16, text: text.into() }
    }

    /// The identity of every control plane of a mesh: that of `weft/server`. No intent can declare a service of that namespace.
    pub fn of_control_plane(trust_domain: &TrustDomain) -> Self {
        Self::for_service(trust_domain, &ServiceName { text: "weft/server".into(), slash: 4 })
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.text["spiffe://".len()..usize::from(self.path_at)].into())
    }

    /// The path with its leading slash, like `/ns/prod/sa/board`.
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.path_at)..]
    }

    /// The service that this ID names, if its path is `/ns/<namespace>/sa/<name>`.
    pub fn service(&self) -> Option<ServiceName> {
        let (namespace, name) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        ServiceName::new(namespace, name).ok()
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = |why| Err(NameError::SpiffeId { id: text.chars().take(300).collect(), why });
        if text.len() > 2048 {
            return refuse("it is longer than 2048 bytes");
        }
        let Some(rest) = text.strip_prefix("spiffe://") else {
            return refuse("it does not start with spiffe://");
        };
        let Some(slash) = rest.find('/') else {
            return refuse("it has no path, so it names no workload");
        };
        if rest[..slash].parse::<TrustDomain>().is_err() {
            return refuse("its trust domain is not 1 to 255 characters of a-z, 0-9, dot, dash, underscore");
        }
        for segment in rest[slash + 1..].split('/') {
            if segment.is_empty() {
                return refuse("its path has an empty segment or ends with a slash");
            }
            if segment == "." || segment == ".." {
                return refuse("its path has a dot segment");
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
                return refuse("a path segment has a character other than letters, digits, dot, dash, underscore");
            }
        }
        Ok(Self { text: text.into(), path_at: ("spiffe://".len() + slash) as u16 })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `namespace/name` of a service. Both parts are DNS labels (RFC 1123): 1 to 63 of `[a-z0-9-]`, no dash at the ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    text: Arc<str>,
    slash: u8,
}

impl ServiceName {
    /// From its two parts.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        format!("{namespace}/{name}").parse()
    }

    /// The namespace, like `prod`.
    pub fn namespace(&self) -> &str {
        &self.text[..usize::from(self.slash)]
    }

    /// The name within the namespace, like `board`.
    pub fn name(&self) -> &str {
        &self.text[usize::from(self.slash) + 1..]
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host by which clients call it from any namespace, like `board.prod`.
    pub fn host(&self) -> String {
        format!("{}.{}", self.name(), self.namespace())
    }

    /// The server name (RFC 6066 s.3) that callers name in their handshakes: `outbound_.8080_.v1_.board.prod`. It carries what is called and is
    /// not verified; the SPIFFE ID is.
    pub fn server_name(&self, port: u16, subset: Option<&str>) -> String {
        format!("outbound_.{port}_.{}_.{}", subset.unwrap_or_default(), self.host())
    }
}

/// RFC 1123: 1 to 63 of `[a-z0-9-]`, no dash at the ends.
pub(crate) fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((namespace, name)) if is_dns_label(namespace) && is_dns_label(name) => {
                Ok(Self { text: text.into(), slash: namespace.len() as u8 })
            }
            _ => Err(NameError::ServiceName(text.chars().take(200).collect())),
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use serde_as_text;
serde_as_text!(TrustDomain, SpiffeId, ServiceName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_the_identity_that_istio_users_expect() {
        let domain: TrustDomain = "acme.internal".parse().expect("legal");
        let board: ServiceName = "prod/board".parse().expect("legal");
        let id = SpiffeId::for_service(&domain, &board);
        assert_eq!(id.as_str(), "spiffe://acme.internal/ns/prod/sa/board");
        assert_eq!(id.service(), Some(board));
        assert_eq!(id.as_str().parse::<SpiffeId>().expect("round trip"), id);
        assert_eq!(id.trust_domain(), domain);
    }

    #[test]
    fn illegal_ids_are_refused() {
        for bad in [
            "",
            "http://a/b",
            "spiffe://",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///x",
            "spiffe://A/x",
            "spiffe://a:80/x",
            "spiffe://u@a/x",
            "spiffe://a/x/",
            "spiffe://a//x",
            "spiffe://a/./x",
            "spiffe://a/../x",
            "spiffe://a/x?q",
            "spiffe://a/x#f",
            "spiffe://a/%20",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad} was accepted");
        }
        assert!(format!("spiffe://a/{}", "x".repeat(2048)).parse::<SpiffeId>().is_err());
    }

    #[test]
    fn upper_case_is_refused_and_intent_is_told_the_lower() {
        assert!("Acme.internal".parse::<TrustDomain>().is_err());
        assert!("SPIFFE://acme.internal/x".parse::<SpiffeId>().is_err());
        assert_eq!("spiffe://acme.internal/X".parse::<SpiffeId>().expect("a path may have any case").path(), "/X");
        // What intent is told is tried where intent is read.
    }

    #[test]
    fn a_trust_domain_has_no_other_character() {
        for byte in 0..=127u8 {
            let name = format!("a{}b", char::from(byte));
            let legal = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
            assert_eq!(name.parse::<TrustDomain>().is_ok(), legal, "{name:?}");
            let id = format!("spiffe://{name}/x");
            // A slash ends the trust domain, and what follows is a path.
            assert_eq!(id.parse::<SpiffeId>().is_ok(), legal || byte == b'/', "{id:?}");
        }
        assert!("b\u{fc}cher".parse::<TrustDomain>().is_err());
    }

    #[test]
    fn each_byte_of_a_segment_is_legal_or_refused() {
        for byte in 0..=127u8 {
            let id = format!("spiffe://a/x{}y", char::from(byte));
            let legal = matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/');
            assert_eq!(id.parse::<SpiffeId>().is_ok(), legal, "{id:?}");
        }
        assert!("spiffe://a/b\u{fc}cher".parse::<SpiffeId>().is_err());
    }

    #[test]
    fn names_that_look_like_addresses_or_like_nothing_are_names() {
        for name in ["10.0.0.1", "a..b", "-x", "_", ".", "1"] {
            assert!(name.parse::<TrustDomain>().is_ok(), "{name}");
            assert_eq!(format!("spiffe://{name}/x").parse::<SpiffeId>().expect("legal").trust_domain().as_str(), name);
        }
        assert!("[::1]".parse::<TrustDomain>().is_err(), "IPv6 has characters that are not legal");
    }

    #[test]
    fn ids_of_2048_bytes_are_taken_and_2049_refused() {
        let of = |length: usize| format!("spiffe://a/{}", "x".repeat(length - "spiffe://a/".len()));
        assert_eq!(of(2048).parse::<SpiffeId>().expect("legal").as_str().len(), 2048);
        assert!(of(2049).parse::<SpiffeId>().is_err());
    }

    #[test]
    fn names_of_255_bytes_of_trust_domain_are_taken_and_256_refused() {
        assert!("a".repeat(255).parse::<TrustDomain>().is_ok() && "a".repeat(256).parse::<TrustDomain>().is_err());
        let id = |length| format!("spiffe://{}/x", "a".repeat(length));
        assert!(id(255).parse::<SpiffeId>().is_ok() && id(256).parse::<SpiffeId>().is_err());
    }

    #[test]
    fn the_longest_service_has_a_legal_id() {
        let domain: TrustDomain = "a".repeat(255).parse().expect("legal");
        let service = ServiceName::new(&"n".repeat(63), &"s".repeat(63)).expect("legal");
        let id = SpiffeId::for_service(&domain, &service);
        assert_eq!(id.as_str().parse::<SpiffeId>().expect("legal"), id);
        assert!(id.as_str().len() < 2048);
    }

    #[test]
    fn illegal_service_names_are_refused() {
        for bad in ["", "board", "prod/", "/board", "prod/board/x", "Prod/board", "prod/-b", "prod/b_c", "prod/b.c"] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad} was accepted");
        }
    }
}
