//! An issuing CA whose certificate somebody else signs: the request for it, and whether what came back serves.

use std::time::SystemTime;

use rcgen::{BasicConstraints, IsCa, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use weft_model::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::ca::{Ca, CaError, Names, ca_params, named};
use crate::certificate;
use crate::peer::{self, Role};
use crate::svid::TrustBundle;

/// A key, and a request (PKCS#10) that somebody certifies it as a CA of the trust domain that issues leaves.
pub struct IssuingRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

impl IssuingRequest {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(domain: &TrustDomain) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let now = SystemTime::UNIX_EPOCH; // a request has no dates
        let mut params = ca_params(domain, &named("issuing CA"), now, now);
        params.serial_number = None;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let csr = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key, csr })
    }

    /// PKCS#10 DER. It asks for the trust domain as URI SAN, a CA of path length 0, keyCertSign and cRLSign.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Whether this certificate is for the key of this request.
    pub fn is_for(&self, certificate: &CertificateDer<'_>) -> bool {
        certificate::parse(certificate).is_ok_and(|it| it.public_key().raw == self.key.subject_public_key_info())
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn public_key(&self) -> Vec<u8> {
        self.key.subject_public_key_info()
    }

    /// Length of the request (4 bytes, big-endian), request, private key as PKCS#8. To be sealed.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let key = self.key.serialized_der();
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 + self.csr.len() + key.len()));
        bytes.extend_from_slice(&(self.csr.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&self.csr);
        bytes.extend_from_slice(key);
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) gave.
    ///
    /// # Errors
    /// It is damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CaError> {
        let short = || CaError::Stored("the request for an issuing CA is cut short".into());
        let (length, rest) = bytes.split_first_chunk().ok_or_else(short)?;
        let (csr, key) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(short)?;
        Ok(Self { key: KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?, csr: csr.to_vec() })
    }

    /// The CA, with the certificate that came back.
    ///
    /// # Errors
    /// The certificate cannot be read, or is for another key.
    pub fn complete(self, certificate: CertificateDer<'static>) -> Result<Ca, CaError> {
        Ca::from_parts(certificate, self.key)
    }
}

/// The root that peers find from what this CA issues over these intermediates, by a leaf for the control plane made on trial.
///
/// # Errors
/// In words, why a peer would refuse it: each certificate by the rules of X.509-SVID s.3.2, the whole by those of a handshake.
pub fn root_of<'a>(
    ca: &Ca,
    above: &[CertificateDer<'_>],
    roots: &'a [CertificateDer<'static>],
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<&'a CertificateDer<'static>, String> {
    let chain: Vec<CertificateDer<'_>> =
        std::iter::once(ca.certificate().clone()).chain(above.iter().cloned()).collect();
    for certificate in &chain {
        let parsed = certificate::parse(certificate).map_err(|error| error.to_string())?;
        certificate::check_signing(&parsed, domain)
            .map_err(|why| format!("`{}` cannot sign for {domain}: {why}", parsed.subject()))?;
    }
    let key = KeyPair::generate().map_err(|error| error.to_string())?;
    let leaf = ca.leaf(&key, &SpiffeId::of_control_plane(domain), None, &Names::local(), now, ca.not_after);
    let leaf = leaf.map_err(|error| error.to_string())?;
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let serves = |root: &CertificateDer<'static>| {
        let bundle = TrustBundle::new(domain.clone(), vec![root.clone()]).map_err(|error| error.to_string())?;
        peer::verify(&bundle, None, &leaf, &chain, UnixTime::since_unix_epoch(seconds), Role::Server)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let mut why = "there is no root".to_owned();
    for root in roots {
        match serves(root) {
            Ok(()) => return Ok(root),
            Err(error) => why = error,
        }
    }
    Err(why)
}

#[cfg(test)]
mod tests;
