//! The three kinds of certificate that a mesh has (root, issuing CA, leaf) and the signing requests that leaves start from.
//!
//! Pure but for the random keys and serial numbers: times are given. The mesh's own keys are ECDSA P-256; a CA that somebody else has made
//! may sign with any key that its certificate says.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::string::PrintableString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use weft_model::{SpiffeId, TrustDomain};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::certificate;
use crate::issuer_name;

/// How far a certificate's life starts in the past, for workloads whose clocks are behind.
pub const BACKDATE: Duration = Duration::from_secs(30);

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The request cannot be read.
    #[error("the certificate signing request is malformed: {0}")]
    MalformedRequest(String),
    /// The request's key is of another kind.
    #[error("the certificate signing request must be for an ECDSA P-256 key, signed with SHA-256")]
    UnsupportedKey,
    /// Whoever sent the request does not hold its key.
    #[error("the signature of the certificate signing request is wrong: its sender does not hold the key")]
    BadRequestSignature,
    /// A name cannot stand in a certificate.
    #[error("`{0}` is no DNS name")]
    BadDnsName(String),
    /// Encoding or signing failed.
    #[error("cannot make the certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The stored CA cannot be read.
    #[error("the stored CA is unreadable: {0}")]
    Stored(String),
    /// The key of a CA is not the one of its certificate.
    #[error("the key is not the one that the certificate was made for")]
    OtherKey,
}

/// Host names and addresses in the certificate of a server, for clients that know no SPIFFE.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// `localhost` and the loopback addresses.
    pub fn local() -> Self {
        Self {
            dns: vec!["localhost".into()],
            ips: vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()],
        }
    }
}

/// A CA certificate with its key.
pub struct Ca {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// Its name in DER, where rcgen would write another one.
    name: Option<Vec<u8>>,
    /// The start of its life.
    pub not_before: SystemTime,
    /// The end of its life.
    pub not_after: SystemTime,
}

impl Ca {
    /// A self-signed root.
    pub fn root(domain: &TrustDomain, now: SystemTime, life: Duration) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let params = ca_params(domain, &named("root CA"), now - BACKDATE, now + life);
        let certificate = params.self_signed(&key)?;
        Self::from_parts(certificate.der().clone(), key)
    }

    /// A CA that issues leaves, signed by this root; it ends no later than the root.
    pub fn issuing(&self, domain: &TrustDomain, now: SystemTime, life: Duration) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let certificate = self.issuing_for(&key, domain, now, life)?;
        Self::from_parts(certificate, key)
    }

    /// The certificate of a CA that issues leaves (path length 0) for a key that this one may not hold; it ends no later than this one.
    ///
    /// # Errors
    /// Encoding or signing failed.
    pub fn issuing_for(
        &self,
        key: &impl PublicKeyData,
        domain: &TrustDomain,
        now: SystemTime,
        life: Duration,
    ) -> Result<CertificateDer<'static>, CaError> {
        let mut params = ca_params(domain, &named("issuing CA"), now - BACKDATE, (now + life).min(self.not_after));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        self.sign(&params, key)
    }

    /// A certificate for the key of `successor` signed by this root, so that whoever knows only this one can find the way to the other.
    /// It ends at `until`, or with either of them.
    ///
    /// # Errors
    /// Encoding or signing failed.
    pub fn vouch_for(
        &self,
        successor: &Self,
        domain: &TrustDomain,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let parsed = certificate::parse(&successor.certificate).map_err(|error| CaError::Stored(error.to_string()))?;
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let name = name.ok_or_else(|| CaError::Stored("the root has no common name".into()))?;
        let end = until.min(self.not_after).min(successor.not_after);
        let mut params = ca_params(domain, name, now - BACKDATE, end);
        params.use_authority_key_identifier_extension = true;
        self.sign(&params, successor.issuer.key())
    }

    /// A leaf for `key` (X.509-SVID s.3.1 and s.4), valid from shortly before `now` until `not_after` or this CA's own end. The machine
    /// that it is issued to, if that is known, is the `serialNumber` of the subject (RFC 4519 s.2.31).
    ///
    /// # Errors
    /// A name cannot stand in a certificate, or signing failed.
    pub fn leaf(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        machine: Option<&str>,
        names: &Names,
        now: SystemTime,
        not_after: SystemTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        self.numbered_leaf(key, id, machine, names, now, not_after).map(|(leaf, _)| leaf)
    }

    /// The same, with its serial number, upper-case hexadecimal.
    ///
    /// # Errors
    /// As of [`leaf`](Self::leaf).
    pub fn numbered_leaf(
        &self,
        key: &impl PublicKeyData,
        id: &SpiffeId,
        machine: Option<&str>,
        names: &Names,
        now: SystemTime,
        not_after: SystemTime,
    ) -> Result<(CertificateDer<'static>, String), CaError> {
        let mut params = params(now - BACKDATE, not_after.min(self.not_after));
        // Who it is stands in the URI SAN only, which is critical when there is no subject (RFC 5280 s.4.1.2.6).
        params.distinguished_name = DistinguishedName::new();
        if let Some(machine) = machine {
            let machine = PrintableString::try_from(machine.to_owned())?;
            let serial_number = DnType::CustomDnType(vec![2, 5, 4, 5]);
            params.distinguished_name.push(serial_number, DnValue::PrintableString(machine));
        }
        params.subject_alt_names = vec![uri(id.as_str())?];
        for name in &names.dns {
            let name = name.as_str().try_into().map_err(|_| CaError::BadDnsName(name.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(names.ips.iter().map(|ip| SanType::IpAddress(*ip)));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let serial = params.serial_number.as_ref().map(|serial| certificate::hex(serial.as_ref())).unwrap_or_default();
        Ok((self.sign(&params, key)?, serial))
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<CertificateDer<'static>, CaError> {
        let certificate = params.signed_by(key, &self.issuer)?;
        match &self.name {
            None => Ok(certificate.der().clone()),
            Some(name) => issuer_name::replace(certificate.der(), name, self.issuer.key()).map_err(CaError::Stored),
        }
    }

    /// For tests that forge what this CA would never make.
    #[cfg(test)]
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The private key, PKCS#8 DER: for a root that is kept apart, to be written to its file.
    pub fn key_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.issuer.key().serialize_der())
    }

    /// SHA-256 of the SubjectPublicKeyInfo, by which a workload recognises the root at first contact.
    pub fn pin(&self) -> [u8; 32] {
        Sha256::digest(self.issuer.key().subject_public_key_info()).into()
    }

    /// Length of the certificate (4 bytes, big-endian), certificate, private key as PKCS#8. To be sealed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let key = self.issuer.key().serialized_der();
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 + self.certificate.len() + key.len()));
        bytes.extend_from_slice(&(self.certificate.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.certificate);
        bytes.extend_from_slice(key);
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    /// It is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CaError> {
        let short = || CaError::Stored("it is cut short".into());
        let (length, rest) = bytes.split_first_chunk().ok_or_else(short)?;
        let (certificate, key) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?;
        Self::from_parts(CertificateDer::from(certificate.to_vec()), key).map_err(|error| match error {
            CaError::OtherKey => CaError::Stored("its key belongs to another certificate".into()),
            other => other,
        })
    }

    /// A CA that somebody else has made, with its key as PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    /// The key cannot be read, is of a kind that nothing here signs with, or belongs to another certificate.
    pub fn from_der(certificate: CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Result<Self, CaError> {
        Self::from_parts(certificate, KeyPair::try_from(key)?)
    }

    pub(crate) fn from_parts(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, CaError> {
        let parsed = certificate::parse(&certificate).map_err(|error| CaError::Stored(error.to_string()))?;
        let (not_before, not_after) = certificate::validity(&parsed);
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::OtherKey);
        }
        let (issuer, name) = issuer_name::issuer(&certificate, &parsed, key)?;
        Ok(Self { certificate, issuer, name, not_before, not_after })
    }
}

/// SHA-256 of the SubjectPublicKeyInfo of a certificate.
///
/// # Errors
/// It is no certificate.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Result<[u8; 32], CaError> {
    let parsed = certificate::parse(certificate).map_err(|error| CaError::Stored(error.to_string()))?;
    Ok(Sha256::digest(parsed.public_key().raw).into())
}

/// A private key and the request for its certificate. The request holds no name: the CA would ignore it.
pub struct KeyRequest {
    /// PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// PKCS#10 DER.
    pub csr: Vec<u8>,
}

impl KeyRequest {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new() -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key: Zeroizing::new(key.serialize_der()), csr })
    }
}

/// The public key of a request, once its signature proves that the sender holds the private one. Names in it are not looked at.
pub fn requested_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, CaError> {
    let malformed = |why: &dyn std::fmt::Display| CaError::MalformedRequest(why.to_string());
    let (rest, request) = X509CertificationRequest::from_der(csr).map_err(|error| malformed(&error))?;
    if !rest.is_empty() {
        return Err(malformed(&"bytes follow it"));
    }
    let info = &request.certification_request_info;
    let algorithm = &info.subject_pki.algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY
        || curve != Some(OID_EC_P256)
        || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256
    {
        return Err(CaError::UnsupportedKey);
    }
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &info.subject_pki.subject_public_key.data)
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| CaError::BadRequestSignature)?;
    Ok(SubjectPublicKeyInfo::from_der(info.subject_pki.raw)?)
}

/// The name of a CA. It differs from CA to CA, so that a chain is never built over the wrong one.
pub(crate) fn named(kind: &str) -> String {
    format!("{kind} {}", certificate::hex(&rand::random::<[u8; 8]>()))
}

pub(crate) fn ca_params(
    domain: &TrustDomain,
    name: &str,
    not_before: SystemTime,
    not_after: SystemTime,
) -> CertificateParams {
    let mut params = params(not_before, not_after);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Weft");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![uri(&domain.id()).expect("a trust domain is ASCII")];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = whole_seconds(not_before);
    params.not_after = whole_seconds(not_after);
    params.serial_number = Some(serial());
    params
}

/// Positive, 158 random bits in the 20 octets that RFC 5280 s.4.1.2.2 allows; the top bits are set so that its length is fixed.
fn serial() -> SerialNumber {
    let mut octets: [u8; 20] = rand::random();
    octets[0] = octets[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&octets)
}

fn uri(text: &str) -> Result<SanType, CaError> {
    Ok(SanType::URI(text.try_into()?))
}

/// A time for a log line, like `2026-01-31T12:00:00Z` (RFC 3339).
pub fn rfc3339(time: SystemTime) -> String {
    whole_seconds(time).format(&Rfc3339).unwrap_or_default() // a year beyond 9999 has no such form
}

fn whole_seconds(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(time).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
