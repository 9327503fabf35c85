use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

use super::*;

fn csr(key: &KeyPair, spoil: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    spoil(&mut params);
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let key = KeyPair::generate().unwrap();
    let greedy = csr(&key, |params| {
        params.subject_alt_names = vec![uri("spiffe://acme.internal/ns/weft/sa/server").unwrap()];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    });
    let requested = requested_key(&greedy).unwrap();
    assert_eq!(requested.subject_public_key_info(), key.subject_public_key_info());
    let domain: TrustDomain = "acme.internal".parse().unwrap();
    let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
    let ca = Ca::root(&domain, now, day).unwrap();
    let id: SpiffeId = "spiffe://acme.internal/ns/prod/sa/web".parse().unwrap();
    let leaf = ca.leaf(&requested, &id, None, &Names::default(), now, now + day).unwrap();
    assert_eq!(certificate::check_leaf(&certificate::parse(&leaf).unwrap()).unwrap(), id);
    let numbered = || ca.numbered_leaf(&requested, &id, None, &Names::default(), now, now + day).unwrap();
    let ((one, serial), (_, other)) = (numbered(), numbered());
    assert_eq!(certificate::serial_of(&one).unwrap(), serial);
    assert_eq!((serial.len(), serial != other), (40, true), "{serial}, {other}");
}

#[test]
fn a_root_vouches_for_the_next_one() {
    let domain: TrustDomain = "acme.internal".parse().unwrap();
    let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
    let (old, new) = (Ca::root(&domain, now, day).unwrap(), Ca::root(&domain, now, 2 * day).unwrap());
    let vouched = old.vouch_for(&new, &domain, now, now + 5 * day).unwrap();
    let (of_new, vouched) = (certificate::parse(new.certificate()).unwrap(), certificate::parse(&vouched).unwrap());
    assert_eq!(vouched.subject().as_raw(), of_new.subject().as_raw());
    assert_eq!(vouched.public_key().raw, of_new.public_key().raw);
    assert_eq!(vouched.issuer().as_raw(), certificate::parse(old.certificate()).unwrap().subject().as_raw());
    assert_eq!(certificate::validity(&vouched).1, old.not_after, "it ends with the first of the two");
    assert_eq!(certificate::check_signing(&vouched, &domain), Ok(()));
}

#[test]
fn a_request_must_be_signed_by_its_own_p256_key() {
    let request = KeyRequest::new().unwrap();
    let genuine = requested_key(&request.csr).unwrap();
    let mut lenient = 0;
    for at in 0..request.csr.len() {
        let mut forged = request.csr.clone();
        forged[at] ^= 1 << (at % 8);
        // What is not signed (tags around the signature) may be read leniently, but never yields another key.
        if let Ok(key) = requested_key(&forged) {
            assert_eq!(key, genuine, "byte {at}");
            lenient += 1;
        }
    }
    assert!(lenient < 5, "{lenient}");
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        assert!(matches!(requested_key(&csr(&key, |_| {})), Err(CaError::UnsupportedKey)));
    }
}

#[test]
fn a_ca_survives_its_bytes_and_a_foreign_key_is_noticed() {
    let domain: TrustDomain = "acme.internal".parse().unwrap();
    let make = || Ca::root(&domain, SystemTime::now(), Duration::from_secs(3600)).unwrap();
    let (one, two) = (make(), make());
    let again = Ca::from_bytes(&one.to_bytes()).unwrap();
    assert_eq!((again.certificate(), again.pin()), (one.certificate(), one.pin()));
    let bytes = one.to_bytes();
    for cut in [0, 3, 4, 100, bytes.len() - 1] {
        assert!(Ca::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mixed = [&one.to_bytes()[..4 + one.certificate.len()], two.issuer.key().serialized_der()].concat();
    assert!(matches!(Ca::from_bytes(&mixed), Err(CaError::Stored(_))));
}

#[test]
fn serial_numbers_are_positive_long_and_never_the_same() {
    let serials: std::collections::BTreeSet<_> = (0..1000).map(|_| serial().to_bytes()).collect();
    assert_eq!(serials.len(), 1000);
    assert!(serials.iter().all(|octets| octets.len() == 20 && octets[0] & 0x80 == 0 && octets[0] != 0));
}

proptest::proptest! {
    #[test]
    fn a_request_from_a_stranger_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = requested_key(&bytes);
    }
}
