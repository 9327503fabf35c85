//! Whether a chain of certificates is one that an `x509pop` entry means. Pure: time is given.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use weft_identity::certificate::{parse, validity};
use weft_identity::tls;
use weft_model::intent::{Star, Wildcard, X509pop};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// The CAs of an entry.
///
/// # Errors
/// In words: there is none, or one is no certificate of a CA.
pub(crate) fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let found = found.map_err(|error| format!("it is no PEM text: {error}"))?;
    for certificate in &found {
        let parsed = parse(certificate).map_err(|error| error.to_string())?;
        if !matches!(parsed.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca) {
            return Err(format!("the certificate of {} is not that of a CA", subject_of(&parsed)));
        }
        webpki::anchor_from_trusted_cert(certificate).map_err(|error| error.to_string())?;
    }
    if found.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(found) }
}

/// Judges a chain whose first key its sender holds.
///
/// # Errors
/// In words: under whom it was not issued, or what of it is not what the entry says.
pub(crate) fn judge(entry: &X509pop, star: &Star, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
    let [leaf, rest @ ..] = chain else { return Err("there is no certificate".to_owned()) };
    let parsed = parse(leaf).map_err(|error| error.to_string())?;
    issued_under(&entry.ca, leaf, rest, now)?;
    match parsed.key_usage() {
        Ok(Some(usage)) if usage.value.digital_signature() => {}
        _ => return Err("the key usage of the machine's certificate lacks digitalSignature".to_owned()),
    }
    matches(entry, star, &parsed, leaf)
}

fn issued_under(
    ca: &str,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), String> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let authorities = authorities(ca)?;
    // Of a trust anchor webpki looks at no validity.
    let lives = |certificate: &&CertificateDer<'static>| {
        parse(certificate).is_ok_and(|parsed| {
            let (begins, ends) = validity(&parsed);
            begins <= now && now <= ends
        })
    };
    let anchors: Result<Vec<_>, _> =
        authorities.iter().filter(lives).map(|certificate| webpki::anchor_from_trusted_cert(certificate)).collect();
    let anchors = anchors.map_err(|error| error.to_string())?;
    if anchors.is_empty() {
        return Err("no certificate of the entry's `ca` is valid now".to_owned());
    }
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
    let algorithms = tls::provider().signature_verification_algorithms.all;
    let usage = webpki::KeyUsage::client_auth();
    let verified =
        leaf.verify_for_usage(algorithms, &anchors, rest, UnixTime::since_unix_epoch(since), usage, None, None);
    verified.map(drop).map_err(|error| match error {
        webpki::Error::CertExpired { .. } => {
            "the machine's certificate, or one that leads to its CA, has expired".to_owned()
        }
        webpki::Error::CertNotValidYet { .. } => {
            "the machine's certificate, or one that leads to its CA, is not valid yet: is a clock wrong?".to_owned()
        }
        webpki::Error::UnknownIssuer => {
            "the machine's certificate does not lead to the entry's `ca`: is one in between missing from the file?"
                .to_owned()
        }
        other => format!("the machine's certificate is refused: {other}"),
    })
}

/// Whether what stands in the certificate is what the entry says.
fn matches(entry: &X509pop, star: &Star, leaf: &X509Certificate<'_>, der: &[u8]) -> Result<(), String> {
    let names = Names::of(leaf)?;
    let common: Vec<&str> = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    // Of several common names readers take different ones.
    let common = if common.len() == 1 { &common[..] } else { &[] };
    let plain = Wildcard::holds as fn(&Wildcard, &str, &Star) -> bool;
    for (what, wanted, given, holds) in [
        ("common name", &entry.common_name, common, plain),
        ("DNS names", &entry.dns_name, &names.dns, Wildcard::holds_of_name),
        ("URIs", &entry.uri, &names.uris, plain),
    ] {
        let is_it = wanted.iter().any(|wanted| given.iter().any(|given| holds(wanted, given, star)));
        if !wanted.is_empty() && !is_it {
            let given = if given.is_empty() { "none".to_owned() } else { given.join(", ") };
            return Err(format!("the {what} of the machine's certificate ({given}) is not what the entry says"));
        }
    }
    let fingerprint = fingerprint(der);
    if !entry.fingerprint.is_empty() && !entry.fingerprint.iter().any(|wanted| **wanted == fingerprint) {
        return Err(format!("the SHA-256 of the machine's certificate is {fingerprint}, not what the entry says"));
    }
    Ok(())
}

/// Subject alternative names.
struct Names<'a> {
    dns: Vec<&'a str>,
    uris: Vec<&'a str>,
}

impl<'a> Names<'a> {
    fn of(leaf: &'a X509Certificate<'_>) -> Result<Self, String> {
        let mut names = Self { dns: Vec::new(), uris: Vec::new() };
        let found = leaf.subject_alternative_name().map_err(|error| error.to_string())?;
        for name in found.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns.push(name),
                GeneralName::URI(uri) => names.uris.push(uri),
                GeneralName::Invalid(..) => return Err("a name of the machine's certificate is unreadable".to_owned()),
                _ => {}
            }
        }
        Ok(names)
    }
}

/// SHA-256 of a certificate, lower-case hexadecimal.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    hex(&Sha256::digest(der))
}

/// Whose certificate it is, in one line, for people; and a name for its key, by which the machine is known that uses it.
///
/// # Errors
/// It cannot be read.
pub(crate) fn described(leaf: &CertificateDer<'_>) -> Result<(String, String), String> {
    let parsed = parse(leaf).map_err(|error| error.to_string())?;
    let subject: String = subject_of(&parsed).chars().take(200).collect();
    let key = hex(&Sha256::digest(parsed.public_key().raw)[..16]);
    Ok((format!("{subject}, SHA-256 {}", fingerprint(leaf)), key))
}

fn subject_of(certificate: &X509Certificate<'_>) -> String {
    let subject = certificate.subject().to_string();
    if subject.is_empty() { "no subject".to_owned() } else { subject }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
        SanType,
    };
    use weft_model::Span;

    use super::*;

    fn authority(name: &str) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        (certificate.clone(), Issuer::from_ca_cert_der(&certificate, key).expect("an issuer"))
    }

    fn pem(certificate: &CertificateDer<'_>) -> String {
        weft_identity::files::certificates_pem(std::slice::from_ref(certificate))
    }

    fn leaf(issuer: &Issuer<'_, KeyPair>, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["m1.dc1.example".into()]).expect("a name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "m1");
        params.subject_alt_names.push(SanType::URI("urn:machine:m1".try_into().expect("ASCII")));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        params.signed_by(&KeyPair::generate().expect("a key"), issuer).expect("a certificate").der().clone()
    }

    fn entry(ca: &str) -> X509pop {
        let ca_span = Span { file: "mesh.yaml".into(), line: 1, column: 1 };
        X509pop {
            ca: ca.into(),
            ca_span,
            common_name: Vec::new(),
            dns_name: vec![Wildcard("*.dc1.example".into())],
            uri: Vec::new(),
            fingerprint: Vec::new(),
        }
    }

    fn wildcards(text: &str) -> Vec<Wildcard> {
        vec![Wildcard("nobody".into()), Wildcard(text.into())]
    }

    #[test]
    fn each_value_of_an_entry_must_hold() {
        let (certificate, issuer) = authority("dc1");
        let node = leaf(&issuer, |_| {});
        let now = SystemTime::now();
        let judge = |entry: &X509pop, star: &Star| judge(entry, star, std::slice::from_ref(&node), now);
        let entry = entry(&pem(&certificate));
        assert_eq!(judge(&entry, &Star::Any), Ok(()));
        assert_eq!(judge(&entry, &Star::Is("m1".into())), Ok(()));
        assert!(judge(&entry, &Star::Is("m2".into())).expect_err("another's").contains("m1.dc1.example"));
        let fingerprint = vec![fingerprint(&node).into()];
        let all =
            X509pop { common_name: wildcards("m*"), uri: wildcards("urn:machine:*"), fingerprint, ..entry.clone() };
        assert_eq!(judge(&all, &Star::Any), Ok(()));
        for (one, why) in [
            (X509pop { common_name: wildcards("m2"), ..all.clone() }, "common name"),
            (X509pop { uri: wildcards("urn:x"), ..all.clone() }, "URIs"),
            (X509pop { dns_name: wildcards("m1.dc2.example"), ..all.clone() }, "DNS names"),
            (X509pop { fingerprint: vec!["00".into()], ..all.clone() }, "SHA-256"),
        ] {
            assert!(judge(&one, &Star::Any).expect_err(why).contains(why));
        }
        let (text, key) = described(&node).expect("it is one");
        assert!(text.starts_with("CN=m1, SHA-256 ") && key.len() == 32, "{text}");
    }

    #[test]
    fn only_a_certificate_for_signatures_of_clients_that_lives_and_leads_to_the_ca_is_taken() {
        let (certificate, issuer) = authority("dc1");
        let (other, _) = authority("dc2");
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        let refused = |ca: &CertificateDer<'_>, change: fn(&mut CertificateParams), now| {
            judge(&entry(&pem(ca)), &Star::Any, &[leaf(&issuer, change)], now).expect_err("it must be refused")
        };
        assert!(refused(&other, |_| {}, now).contains("does not lead"));
        assert!(refused(&certificate, |params| params.key_usages.clear(), now).contains("digitalSignature"));
        let only = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        assert!(refused(&certificate, only, now).contains("digitalSignature"));
        let server = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        };
        assert!(refused(&certificate, server, now).contains("refused"));
        let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert!(refused(&certificate, ca, now).contains("refused"));
        let old = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        assert!(refused(&certificate, old, now).contains("expired"));
        assert!(refused(&certificate, |_| {}, now + 4_000 * 366 * day).contains("valid now"));
        let two = |params: &mut CertificateParams| params.distinguished_name.push(DnType::OrganizationName, "x");
        let both = X509pop { common_name: wildcards("m1"), ..entry(&pem(&certificate)) };
        assert_eq!(judge(&both, &Star::Any, &[leaf(&issuer, two)], now), Ok(()));
    }

    #[test]
    fn what_is_no_ca_is_told() {
        let (certificate, issuer) = authority("dc1");
        assert!(authorities(&pem(&certificate)).is_ok());
        assert!(authorities("").expect_err("nothing").contains("no certificate"));
        assert!(authorities(&pem(&leaf(&issuer, |_| {}))).expect_err("a leaf").contains("CN=m1 is not that of a CA"));
        assert!(authorities("-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n").is_err());
    }
}
