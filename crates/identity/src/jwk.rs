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

    /// Its object identifier in DER (RFC 5480 s.2.1.1.1).
    fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
            Self::P384 => &[6, 5, 0x2b, 0x81, 4, 0, 0x22],
            Self::P521 => &[6, 5, 0x2b, 0x81, 4, 0, 0x23],
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
        let mut members = members(&self.material);
        members["kid"] = self.kid.clone().into();
        members
    }

    /// The same for a document that has keys of other uses too (JWT-SVID s.6.1).
    pub(crate) fn jwk_for_bundle(&self) -> Value {
        let mut members = self.jwk();
        members["use"] = JWT_SVID.into();
        members
    }

    /// From the members of a JWK (RFC 7518 s.6.2.1 and s.6.3.1).
    ///
    /// # Errors
    /// In words: there is no `kid`, or the members are no key.
    pub(crate) fn from_jwk(kid: &str, members: &Members) -> Result<Self, String> {
        let spki = members.spki().map_err(|why| format!("the key `{kid}` for JWT-SVIDs {why}"))?;
        Self::from_spki(kid, spki)
    }
}

/// The `use` of keys for JWT-SVIDs (JWT-SVID s.6.1).
pub(crate) const JWT_SVID: &str = "jwt-svid";
/// The `use` of certificates that sign X.509-SVIDs (X.509-SVID s.6.1).
pub(crate) const X509_SVID: &str = "x509-svid";

/// The members of a JWK that say which key it is.
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct Members {
    pub(crate) kty: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Members {
    /// As SubjectPublicKeyInfo, DER (RFC 5480 s.2.1.1, RFC 8017 A.1).
    fn spki(&self) -> Result<Vec<u8>, String> {
        let bytes = |name: &str, text: &Option<String>| {
            let text = text.as_deref().ok_or_else(|| format!("has no `{name}`"))?;
            BASE64URL.decode(text).map_err(|error| format!("has a `{name}` that is not base64url: {error}"))
        };
        let bits = |content: &[u8]| der(3, &[&[0], content].concat());
        match self.kty.as_deref() {
            Some("EC") => {
                let curve = [Curve::P256, Curve::P384, Curve::P521].into_iter();
                let curve = curve.into_iter().find(|curve| Some(curve.name()) == self.crv.as_deref());
                let curve = curve.ok_or("is on a curve that JWT-SVIDs do not have; P-256, P-384 and P-521 are")?;
                let (x, y) = (bytes("x", &self.x)?, bytes("y", &self.y)?);
                if x.len() != curve.length() || y.len() != curve.length() {
                    return Err("has coordinates of another length than its curve's".into());
                }
                let algorithm = der(0x30, &[EC_PUBLIC_KEY, curve.oid()].concat());
                Ok(der(0x30, &[algorithm, bits(&[&[4][..], &x, &y].concat())].concat()))
            }
            Some("RSA") => {
                let number = |bytes: Vec<u8>| {
                    let plain = unsigned(&bytes);
                    let sign: &[u8] = if plain.first().is_none_or(|first| first & 0x80 != 0) { &[0] } else { &[] };
                    der(2, &[sign, &plain].concat())
                };
                let key = der(0x30, &[number(bytes("n", &self.n)?), number(bytes("e", &self.e)?)].concat());
                let algorithm = der(0x30, &[RSA_ENCRYPTION, &[5, 0]].concat());
                Ok(der(0x30, &[algorithm, bits(&key)].concat()))
            }
            _ => Err("is neither ECDSA nor RSA".into()),
        }
    }
}

/// id-ecPublicKey and rsaEncryption, as object identifiers in DER.
const EC_PUBLIC_KEY: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const RSA_ENCRYPTION: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];

/// One element of DER (X.690 s.8.1).
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut element = vec![tag];
    if length < 128 {
        element.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
        element.push(0x80 | bytes.len() as u8);
        element.extend_from_slice(bytes);
    }
    element.extend_from_slice(content);
    element
}

/// As members of a JWK: what a key consists of.
pub(crate) fn members(material: &Material) -> Value {
    match material {
        Material::Ec { curve, point } => {
            let (x, y) = point[1..].split_at(curve.length());
            json!({
                "kty": "EC", "crv": curve.name(),
                "x": BASE64URL.encode(x), "y": BASE64URL.encode(y),
            })
        }
        Material::Rsa { n, e } => {
            json!({"kty": "RSA", "n": BASE64URL.encode(n), "e": BASE64URL.encode(e)})
        }
    }
}

impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtKey({})", self.kid)
    }
}

pub(crate) fn material(spki: &[u8]) -> Result<Material, String> {
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

#[derive(serde::Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
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

    /// From a JWK Set (RFC 7517 s.5) as the Workload API has it, where `use` may be missing (Workload API s.6.2.2). Keys of other types or
    /// uses are passed over.
    ///
    /// # Errors
    /// In words: it is no JWK Set, or a key for JWT-SVIDs in it is none.
    pub fn read(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, String> {
        let set: JwkSet = serde_json::from_slice(text).map_err(|error| format!("it is no JWK Set: {error}"))?;
        let mut keys = Vec::new();
        for (at, key) in set.keys.into_iter().enumerate() {
            let usage = key["use"].as_str();
            if !matches!(key["kty"].as_str(), Some("EC" | "RSA")) || usage.is_some_and(|usage| usage == X509_SVID) {
                continue;
            }
            let kid = key["kid"].as_str().unwrap_or_default().to_owned();
            let members: Members = serde_json::from_value(key).map_err(|error| format!("keys[{at}]: {error}"))?;
            keys.push(JwtKey::from_jwk(&kid, &members).map_err(|why| format!("keys[{at}]: {why}"))?);
        }
        Self::new(trust_domain, keys)
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
