//! What binds whoever issues and no validator is taken, on purpose: other implementations issue it.

use super::*;

const KEY_USAGE: [u64; 4] = [2, 5, 29, 15];
const BASIC_CONSTRAINTS: [u64; 4] = [2, 5, 29, 19];
const SAN: [u64; 4] = [2, 5, 29, 17];
const NAME_CONSTRAINTS: [u64; 4] = [2, 5, 29, 30];

fn extension(oid: &[u64], content: Vec<u8>, is_critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(is_critical);
    extension
}

/// DER: tag, length below 128, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
}

/// The extension of a certificate: its critical flag, if it is there.
fn criticality(certificate: &CertificateDer<'_>, oid: &[u64]) -> Option<bool> {
    let parsed = parse(certificate).unwrap();
    let oid = x509_parser::der_parser::oid::Oid::from(oid).unwrap();
    parsed.extensions().iter().find(|extension| extension.oid == oid).map(|extension| extension.critical)
}

#[test]
fn an_uncritical_san_without_a_subject_is_taken() {
    let pki = pki("acme.internal");
    let mut params = good();
    params.subject_alt_names.clear();
    params.custom_extensions.push(extension(&SAN, der(0x30, &der(0x86, BOARD.as_bytes())), false));
    let leaf = sign(&params, pki.issuing.issuer());
    assert_eq!(criticality(&leaf, &SAN), Some(false));
    assert_eq!(judge(&pki, &leaf, &[pki.issuing.certificate().clone()]).unwrap().as_str(), BOARD);
}

#[test]
fn key_usage_that_is_not_critical_is_taken() {
    let pki = pki("acme.internal");
    let mut params = good();
    params.key_usages.clear();
    params.custom_extensions.push(extension(&KEY_USAGE, vec![3, 2, 7, 0x80], false));
    let leaf = sign(&params, pki.issuing.issuer());
    assert_eq!(criticality(&leaf, &KEY_USAGE), Some(false));
    assert!(judge(&pki, &leaf, &[pki.issuing.certificate().clone()]).is_ok());
}

#[test]
fn basic_constraints_that_are_absent_mean_a_leaf() {
    let pki = pki("acme.internal");
    let mut params = good();
    params.is_ca = IsCa::NoCa;
    let leaf = sign(&params, pki.issuing.issuer());
    assert_eq!(criticality(&leaf, &BASIC_CONSTRAINTS), None);
    assert!(judge(&pki, &leaf, &[pki.issuing.certificate().clone()]).is_ok());
}

/// As SPIRE issues them (X.509-SVID appendix A).
#[test]
fn a_leaf_with_key_agreement_and_encipherment_and_a_subject_is_taken() {
    let pki = pki("acme.internal");
    let mut params = good();
    params.key_usages.extend([KeyUsagePurpose::KeyAgreement, KeyUsagePurpose::KeyEncipherment]);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "SPIRE");
    assert!(judge(&pki, &sign(&params, pki.issuing.issuer()), &[pki.issuing.certificate().clone()]).is_ok());
}

/// A root by itself, signed by its own key, and a leaf below it.
fn root_of(change: impl FnOnce(&mut CertificateParams)) -> (CertificateDer<'static>, CertificateDer<'static>) {
    let mut params = good();
    params.distinguished_name.push(rcgen::DnType::CommonName, "a root");
    params.subject_alt_names = vec![uri("spiffe://acme.internal")];
    params.extended_key_usages.clear();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap().der().clone();
    (root, sign(&good(), &Issuer::new(params, key)))
}

fn judged_below(root: &CertificateDer<'static>, leaf: &CertificateDer<'_>) -> Result<SpiffeId, String> {
    let bundle = TrustBundle::new("acme.internal".parse().unwrap(), vec![root.clone()]);
    let bundle = bundle.map_err(|error| error.to_string())?;
    verify(&bundle, None, leaf, &[], UnixTime::now(), Role::Server).map_err(|error| error.to_string())
}

/// An organization's CA often cannot carry one (X.509-SVID s.3.2).
#[test]
fn a_root_without_a_uri_san_is_a_bundle() {
    let (root, leaf) = root_of(|params| params.subject_alt_names.clear());
    assert_eq!(judged_below(&root, &leaf).unwrap().as_str(), BOARD);
    let (root, leaf) = root_of(|_| {});
    assert!(judged_below(&root, &leaf).is_ok());
}

#[test]
fn a_signing_certificate_with_a_path_is_refused() {
    for id in ["spiffe://acme.internal/ca", "spiffe://acme.internal/"] {
        let (root, leaf) = root_of(|params| params.subject_alt_names = vec![uri(id)]);
        let error = judged_below(&root, &leaf).unwrap_err();
        assert!(error.contains(&format!("its URI SAN is {id}, not spiffe://acme.internal")), "{error}");
    }
}

/// A CA that is held to names by constraints on URIs (X.509-SVID s.4.2) vouches for no SPIFFE ID, within them or not: they are not read.
#[test]
fn uri_name_constraints_fail_closed() {
    for host in ["acme.internal", ".internal", "other.test"] {
        let subtree = der(0x30, &der(0x86, host.as_bytes()));
        let permitted = der(0x30, &der(0xA0, &subtree));
        let (root, leaf) = root_of(|params| {
            params.custom_extensions.push(extension(&NAME_CONSTRAINTS, permitted, true));
        });
        let refused = judged_below(&root, &leaf).expect_err(host);
        assert!(refused.to_lowercase().contains("name"), "{host}: {refused}");
    }
    let dns = der(0x30, &der(0xA0, &der(0x30, &der(0x82, b"other.test"))));
    let (root, leaf) = root_of(|params| params.custom_extensions.push(extension(&NAME_CONSTRAINTS, dns, true)));
    assert!(judged_below(&root, &leaf).is_ok(), "those on other names say nothing of it");
}
