//! The name of a CA in what it signs, byte for byte.
//!
//! Path validation compares the issuer's name with the CA's own. rcgen keeps a name as a map, so that of two organizational units or
//! domain components one is lost, and it refuses names whose parts have several attributes. CAs of organizations have such names.

use rcgen::{CertificateParams, DistinguishedName, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SigningKey};
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::x509::X509Name;

use crate::certificate;

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// What rcgen signs by, and the name that has to be put in place of its own, if it would write another one.
pub(crate) fn issuer(
    certificate: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    key: KeyPair,
) -> Result<(Issuer<'static, KeyPair>, Option<Vec<u8>>), rcgen::Error> {
    if is_simple(parsed.subject()) {
        return Ok((Issuer::from_ca_cert_der(certificate, key)?, None));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let identifier = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
        _ => None,
    });
    if let Some(identifier) = identifier {
        params.key_identifier_method = KeyIdMethod::PreSpecified(identifier);
    }
    Ok((Issuer::new(params, key), Some(parsed.subject().as_raw().to_vec())))
}

/// Whether rcgen reads and writes this name without a loss: each attribute once, alone, and of a kind of string that it knows.
fn is_simple(name: &X509Name<'_>) -> bool {
    let mut seen = Vec::new();
    name.iter_rdn().all(|part| {
        let mut attributes = part.iter();
        let (Some(attribute), None) = (attributes.next(), attributes.next()) else { return false };
        let oid = attribute.attr_type().to_id_string();
        let known = matches!(attribute.attr_value().tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String);
        let first = !seen.contains(&oid);
        seen.push(oid);
        known && first
    })
}

/// The same certificate by an issuer of this name (a Name in DER), signed anew.
///
/// # Errors
/// In words: it is no certificate, or signing failed.
pub(crate) fn replace(
    signed: &CertificateDer<'_>,
    name: &[u8],
    key: &KeyPair,
) -> Result<CertificateDer<'static>, String> {
    replace_part(signed, |certificate| certificate.issuer().as_raw(), name, key)
}

/// The same for the subject, to make CAs with such names.
#[cfg(test)]
pub(crate) fn replace_subject(signed: &CertificateDer<'_>, name: &[u8], key: &KeyPair) -> CertificateDer<'static> {
    replace_part(signed, |certificate| certificate.subject().as_raw(), name, key).unwrap()
}

fn replace_part(
    signed: &CertificateDer<'_>,
    part: impl for<'a> FnOnce(&'a X509Certificate<'_>) -> &'a [u8],
    name: &[u8],
    key: &KeyPair,
) -> Result<CertificateDer<'static>, String> {
    let unreadable = |why: &str| format!("the certificate that was made is unreadable: {why}");
    let parsed = certificate::parse(signed).map_err(|error| unreadable(&error.to_string()))?;
    let (whole, old) = (parsed.tbs_certificate.as_ref(), part(&parsed));
    let content = content_of(whole).ok_or_else(|| unreadable("its length"))?;
    // The name stands in these very bytes: the parser gives a part of them.
    let at = (old.as_ptr() as usize).checked_sub(content.as_ptr() as usize);
    let at = at.filter(|at| at + old.len() <= content.len()).ok_or_else(|| unreadable("its name"))?;
    let content = [&content[..at], name, &content[at + old.len()..]].concat();
    let body = element(SEQUENCE, &content);
    let signature = key.sign(&body).map_err(|error| error.to_string())?;
    let algorithm = algorithm_of(signed, whole).ok_or_else(|| unreadable("its signature algorithm"))?;
    let bits = element(BIT_STRING, &[&[0], &*signature].concat());
    Ok(CertificateDer::from(element(SEQUENCE, &[&body, algorithm, &bits].concat())))
}

/// The signature algorithm that follows the part that is signed, as it stands there.
fn algorithm_of<'a>(signed: &'a [u8], body: &[u8]) -> Option<&'a [u8]> {
    let rest = content_of(signed)?.get(body.len()..)?;
    rest.get(..rest.len() - content_and_rest(rest)?.1.len())
}

fn content_of(element: &[u8]) -> Option<&[u8]> {
    content_and_rest(element).map(|(content, _)| content)
}

/// The content of the first DER element, and what follows it.
fn content_and_rest(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = *bytes.get(1)? as usize;
    let (length, start) = if first < 0x80 {
        (first, 2)
    } else {
        let octets = bytes.get(2..2 + (first & 0x7f))?;
        (
            octets.iter().try_fold(0usize, |length, octet| Some(length.checked_mul(256)? + *octet as usize))?,
            2 + octets.len(),
        )
    };
    bytes.get(start..)?.split_at_checked(length)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|octet| **octet == 0).count()..];
    let mut bytes = vec![tag];
    match length {
        [] => bytes.push(0),
        [short] if *short < 0x80 => bytes.push(*short),
        long => {
            bytes.push(0x80 | long.len() as u8);
            bytes.extend_from_slice(long);
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_the_shortest_length() {
        for (length, start) in [(0, 2), (127, 2), (128, 3), (255, 3), (256, 4), (70_000, 5)] {
            let bytes = element(SEQUENCE, &vec![7; length]);
            assert_eq!(bytes.len(), start + length);
            let (content, rest) = content_and_rest(&bytes).unwrap();
            assert!(content.len() == length && rest.is_empty(), "{length}");
        }
        for short in [&[][..], &[0x30], &[0x30, 2, 0], &[0x30, 0x82, 1], &[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1]] {
            assert!(content_and_rest(short).is_none(), "{short:?}");
        }
    }
}
