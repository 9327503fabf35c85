//! What stands in one certificate, and the rules of X.509-SVID that it must keep by itself, whoever issued it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use weft_model::{SpiffeId, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::fault::PeerError;

/// Parses one DER certificate, the whole input.
pub fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerError::Malformed("bytes follow it".into())),
        Err(error) => Err(PeerError::Malformed(error.to_string())),
    }
}

/// The SPIFFE ID of a leaf and the rules of X.509-SVID s.5.2; says nothing about who issued it or when it is valid.
pub fn check_leaf(leaf: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    let malformed = |error: x509_parser::error::X509Error| PeerError::Malformed(error.to_string());
    let uris = uri_sans(leaf)?;
    let id: SpiffeId = match uris.as_slice() {
        [] => return Err(PeerError::NoUriSan),
        [uri] => uri.parse()?,
        several => return Err(PeerError::SeveralUriSans(several.len())),
    };
    if leaf.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(PeerError::IsCa(id));
    }
    let Some(usage) = leaf.key_usage().map_err(malformed)? else {
        return Err(PeerError::KeyUsage(id, "the extension is missing"));
    };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(PeerError::KeyUsage(id, "a leaf must not have keyCertSign or cRLSign"));
    }
    if !usage.value.digital_signature() {
        return Err(PeerError::KeyUsage(id, "a leaf must have digitalSignature"));
    }
    if let Some(extended) = leaf.extended_key_usage().map_err(malformed)?
        && !(extended.value.server_auth && extended.value.client_auth)
    {
        return Err(PeerError::ExtendedKeyUsage(id));
    }
    Ok(id)
}

fn uri_sans<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, PeerError> {
    let names = certificate.subject_alternative_name().map_err(|error| PeerError::Malformed(error.to_string()))?;
    let mut uris = Vec::with_capacity(1);
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => {
                return Err(PeerError::Malformed("a subject alternative name is unreadable".into()));
            }
            _ => {}
        }
    }
    Ok(uris)
}

/// The rules of X.509-SVID s.3.2 for a certificate that signs others in `trust_domain`.
pub fn check_signing(certificate: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Result<(), String> {
    if !matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca) {
        return Err("its basic constraints do not say CA:TRUE".into());
    }
    if !matches!(certificate.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign()) {
        return Err("its key usage lacks keyCertSign".into());
    }
    match uri_sans(certificate).map_err(|error| error.to_string())?.as_slice() {
        [] => Ok(()),
        [uri] if *uri == trust_domain.id() => Ok(()),
        [uri] => Err(format!("its URI SAN is {uri}, not {}", trust_domain.id())),
        several => Err(format!("it has {} URI SANs", several.len())),
    }
}

/// The trust domain in a signing certificate's URI SAN.
pub fn signing_domain(certificate: &X509Certificate<'_>) -> Result<TrustDomain, PeerError> {
    match uri_sans(certificate)?.as_slice() {
        [uri] => Ok(uri.strip_prefix("spiffe://").unwrap_or(uri).parse()?),
        several => {
            Err(PeerError::Malformed(format!("its root has {} URI SANs, not the trust domain alone", several.len())))
        }
    }
}

/// The start and the end of its life.
pub fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs());
    let validity = certificate.validity();
    (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
}

/// The end of the first of several certificates in DER, one after the other.
///
/// # Errors
/// It is no certificate.
pub fn end_of_first(chain: &[u8]) -> Result<SystemTime, PeerError> {
    let (_, first) = X509Certificate::from_der(chain).map_err(|error| PeerError::Malformed(error.to_string()))?;
    Ok(validity(&first).1)
}

/// Several certificates in DER, one after the other, as the Workload API has them (s.5.2.1).
///
/// # Errors
/// What is there is no certificate, or not all of it is.
pub fn split(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, PeerError> {
    let mut all = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|error| PeerError::Malformed(error.to_string()))?;
        all.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    Ok(all)
}

/// The serial number, upper-case hexadecimal as `openssl x509 -serial` prints it.
///
/// # Errors
/// It is no certificate.
pub fn serial_of(certificate: &CertificateDer<'_>) -> Result<String, PeerError> {
    Ok(serial_in(&parse(certificate)?))
}

/// The same of one that is parsed.
pub(crate) fn serial_in(certificate: &X509Certificate<'_>) -> String {
    hex(certificate.raw_serial())
}

/// The machine that a leaf was issued to: the `serialNumber` of its subject (RFC 4519 s.2.31), which only a workload that is enrolled with
/// the key of its machine has.
///
/// # Errors
/// It is no certificate.
pub fn machine_of(certificate: &CertificateDer<'_>) -> Result<Option<String>, PeerError> {
    Ok(machine_in(&parse(certificate)?))
}

/// The same of one that is parsed.
pub(crate) fn machine_in(certificate: &X509Certificate<'_>) -> Option<String> {
    let machine = certificate.subject().iter_by_oid(&OID_X509_SERIALNUMBER).next();
    machine.and_then(|attribute| attribute.as_str().ok()).map(str::to_owned)
}

/// Upper-case hexadecimal, as `openssl x509 -serial` prints a serial number.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    // A positive DER integer whose top bit is set has a leading zero byte that is no part of the number.
    let bytes = if let [0, rest @ ..] = bytes { rest } else { bytes };
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02X}"); // writing to a String cannot fail
        text
    })
}
