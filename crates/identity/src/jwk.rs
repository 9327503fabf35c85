//! The public keys that vouch for JWT-SVIDs: as they are kept and sent (SubjectPublicKeyInfo), and as they are published (JWK Set).

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};
use weft_model::TrustDomain;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_NIST_EC_P521};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// A key that vouches for JWT-SVIDs, and the `kid` by which tokens name it.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtKey {
    kid: String,
    spki: Vec<u8>,
    pub(crate) material: Material,
}

/// What a key consists of (RFC 7518 s.6.2.1 and s.6.3.1).
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Material {
    /// An uncompressed point: 4, then x and y of the curve's length.
    Ec {
        /// Its curve.
        curve: Curve,
        /// 65, 97 or 133 bytes.
        point: Vec<u8>,
    },
    /// Big-endian, without leading zeros.
    Rsa {
        /// Modulus.
        n: Vec<u8>,
        /// Exponent.
        e: Vec<u8>,
    },
}

/// A curve of RFC 7518 s.6.2.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of one coordinate.
    fn length(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

impl JwtKey {
    /// From a SubjectPublicKeyInfo in DER: ECDSA on P-256, P-384 or P-521, or RSA.
    ///
    /// # Errors
    /// In words: it is malformed, of another kind, or there is no `kid` (JWT-SVID s.6.1).
    pub fn from_spki(kid: &str, spki: Vec<u8>) -> Result<Self, String> {
        if kid.is_empty() {
            return Err("a key for JWT-SVIDs has no `kid`".into());
        }
        let material = material(&spki).map_err(|why| format!("the key `{kid}` for JWT-SVIDs {why}"))?;
        Ok(Self { kid: kid.to_owned(), spki, material })
    }

    /// How tokens name it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// As a JWK (RFC 7517 s.4), without `use`: what is in a bundle for JWT-SVIDs is for nothing else.
    fn jwk(&self) -> Value {
        match &self.material {
            Material::Ec { curve, point } => {
                let (x, y) = point[1..].split_at(curve.length());
                json!({
                    "kty": "EC", "kid": self.kid, "crv": curve.name(),
                    "x": BASE64URL.encode(x), "y": BASE64URL.encode(y),
                })
            }
            Material::Rsa { n, e } => {
                json!({"kty": "RSA", "kid": self.kid, "n": BASE64URL.encode(n), "e": BASE64URL.encode(e)})
            }
        }
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKey({})", self.kid)
    }
}

fn material(spki: &[u8]) -> Result<Material, String> {
    let (rest, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|error| format!("is malformed: {error}"))?;
    if !rest.is_empty() {
        return Err("is malformed: bytes follow it".into());
    }
    match info.parsed().map_err(|error| format!("is malformed: {error}"))? {
        PublicKey::EC(point) => {
            let parameters = info.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            let curve = match parameters {
                Some(oid) if oid == OID_EC_P256 => Curve::P256,
                Some(oid) if oid == OID_NIST_EC_P384 => Curve::P384,
                Some(oid) if oid == OID_NIST_EC_P521 => Curve::P521,
                _ => return Err("is on a curve that JWT-SVIDs do not have; P-256, P-384 and P-521 are".into()),
            };
            let point = point.data().to_vec();
            if point.first() != Some(&4) || point.len() != 1 + 2 * curve.length() {
                return Err("is no uncompressed point of its curve".into());
            }
            Ok(Material::Ec { curve, point })
        }
        PublicKey::RSA(key) => Ok(Material::Rsa { n: unsigned(key.modulus), e: unsigned(key.exponent) }),
        _ => Err("is neither ECDSA nor RSA".into()),
    }
}

/// A positive DER integer whose top bit is set has a leading zero byte that is no part of the number.
fn unsigned(integer: &[u8]) -> Vec<u8> {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    integer[zeros..].to_vec()
}

/// The keys under which a trust domain's JWT-SVIDs are issued. They judge tokens and nothing else (Workload API s.6.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtBundle {
    trust_domain: TrustDomain,
    keys: Vec<JwtKey>,
}

impl JwtBundle {
    /// From keys with a `kid` of its own each. Without any, no token of the trust domain is valid (JWT-SVID s.6.2).
    ///
    /// # Errors
    /// In words: two keys have one `kid`.
    pub fn new(trust_domain: TrustDomain, keys: Vec<JwtKey>) -> Result<Self, String> {
        let mut kids = BTreeSet::new();
        if let Some(twice) = keys.iter().find(|key| !kids.insert(key.kid())) {
            return Err(format!("two keys for JWT-SVIDs are called `{}`", twice.kid));
        }
        Ok(Self { trust_domain, keys })
    }

    /// Without keys.
    pub fn empty(trust_domain: TrustDomain) -> Self {
        Self { trust_domain, keys: Vec::new() }
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// All keys.
    pub fn keys(&self) -> &[JwtKey] {
        &self.keys
    }

    /// The key of this name.
    pub fn key(&self, kid: &str) -> Option<&JwtKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// As a JWK Set (RFC 7517 s.5), which has keys for JWT-SVIDs only and nothing of SPIFFE.
    pub fn jwks(&self) -> String {
        json!({"keys": self.keys.iter().map(JwtKey::jwk).collect::<Vec<_>>()}).to_string()
    }
}
