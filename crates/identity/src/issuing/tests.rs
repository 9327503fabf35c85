use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyUsagePurpose, PKCS_ED25519, PKCS_RSA_SHA256};
use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::ca::requested_key;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn domain() -> TrustDomain {
    "acme.internal".parse().unwrap()
}

/// A root as organizations have them: nothing of SPIFFE in it. Its name is given as DER, in place of the one that rcgen wrote.
fn organization(algorithm: &'static rcgen::SignatureAlgorithm, name: Option<&[u8]>) -> Ca {
    let key = KeyPair::generate_for(algorithm).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Example CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = (SystemTime::now() + 10 * DAY).into();
    let mut certificate = params.self_signed(&key).unwrap().der().clone();
    if let Some(name) = name {
        // Issuer and subject are the same bytes.
        certificate = crate::issuer_name::replace(&certificate, name, &key).unwrap();
        certificate = crate::issuer_name::replace_subject(&certificate, name, &key);
    }
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ca::from_der(certificate, &key).unwrap()
}

/// DC=com, DC=example, and a part with two attributes: CN and OU.
fn complex_name() -> Vec<u8> {
    let dc = |value: &str| {
        let oid = [0x06, 0x0a, 0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
        tlv(0x31, &tlv(0x30, &[&oid[..], &tlv(0x16, value.as_bytes())].concat()))
    };
    let short = |last: u8, value: &str| {
        tlv(0x30, &[&[0x06, 0x03, 0x55, 0x04, last], &tlv(0x0c, value.as_bytes())[..]].concat())
    };
    let both = tlv(0x31, &[short(3, "Example CA"), short(11, "PKI")].concat());
    tlv(0x30, &[dc("com"), dc("example"), both].concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    assert!(content.len() < 128);
    [&[tag, content.len() as u8], content].concat()
}

#[test]
fn what_a_ca_with_any_key_or_name_signs_serves() {
    let now = SystemTime::now();
    let name = complex_name();
    for upper in [
        organization(&rcgen::PKCS_ECDSA_P256_SHA256, None),
        organization(&rcgen::PKCS_ECDSA_P384_SHA384, Some(&name)),
        organization(&PKCS_ED25519, Some(&name)),
        organization(&PKCS_RSA_SHA256, None),
    ] {
        let request = IssuingRequest::new(&domain()).unwrap();
        let key = requested_key(request.csr()).unwrap();
        let issuing = upper.issuing_for(&key, &domain(), now, DAY).unwrap();
        assert!(request.is_for(&issuing) && !request.is_for(upper.certificate()));
        let ca = IssuingRequest::from_bytes(&request.to_bytes()).unwrap().complete(issuing).unwrap();
        let other = organization(&PKCS_ED25519, None);
        let roots = [other.certificate().clone(), upper.certificate().clone()];
        let root = root_of(&ca, &[], &roots, &domain(), now).unwrap();
        assert_eq!(root, upper.certificate());
        assert!(root_of(&ca, &[], &roots[..1], &domain(), now).is_err(), "a namesake");
        let own = [Ca::root(&domain(), now, DAY).unwrap().certificate().clone()];
        let why = root_of(&ca, &[], &own, &domain(), now).unwrap_err();
        assert!(why.contains("was not issued under"), "{why}");
        assert!(
            root_of(&ca, &[], &roots, &"other.internal".parse().unwrap(), now).is_err(),
            "its URI SAN is another's"
        );
        assert!(root_of(&ca, &[], &roots, &domain(), now + 2 * DAY).is_err(), "it has ended");
    }
}

#[test]
fn a_request_asks_for_what_an_issuing_ca_is() {
    let request = IssuingRequest::new(&domain()).unwrap();
    let (_, parsed) = {
        use x509_parser::prelude::FromDer;
        x509_parser::certification_request::X509CertificationRequest::from_der(request.csr()).unwrap()
    };
    let asked: Vec<String> = parsed.requested_extensions().unwrap().map(|it| format!("{it:?}")).collect();
    let asked = asked.join("\n");
    assert!(asked.contains("spiffe://acme.internal") && asked.contains("path_len_constraint: Some(0)"), "{asked}");
    let bytes = request.to_bytes();
    for cut in [0, 3, 4, 100, bytes.len() - 1] {
        assert!(IssuingRequest::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn another_key_is_no_key_of_the_ca() {
    let (one, two) = (organization(&PKCS_ED25519, None), KeyPair::generate().unwrap());
    let key = PrivateKeyDer::Pkcs8(two.serialize_der().into());
    assert!(matches!(Ca::from_der(one.certificate().clone(), &key), Err(CaError::OtherKey)));
    let request = IssuingRequest::new(&domain()).unwrap();
    assert!(matches!(request.complete(one.certificate().clone()), Err(CaError::OtherKey)));
}
