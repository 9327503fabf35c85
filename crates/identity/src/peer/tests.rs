//! Each rule of X.509-SVID s.5 is broken alone, and the error must name it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use weft_model::TrustDomain;

use super::*;
use crate::ca::{Ca, KeyRequest, Names, requested_key};
use crate::fault::OwnFault;
use crate::live::{IdentityState, LiveIdentity};

mod lenient;

type Spoil = fn(&mut CertificateParams);

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Pki {
    root: Ca,
    issuing: Ca,
    /// By itself: every chain is judged the long way.
    bundle: TrustBundle,
    /// A workload of the same issuing CA: its peers are judged the short way.
    sibling: Arc<LiveIdentity>,
}

fn pki(domain: &str) -> Pki {
    let domain: TrustDomain = domain.parse().unwrap();
    let now = SystemTime::now();
    let root = Ca::root(&domain, now, 10 * DAY).unwrap();
    let issuing = root.issuing(&domain, now, DAY).unwrap();
    let bundle = TrustBundle::new(domain.clone(), vec![root.certificate().clone()]).unwrap();
    let own: SpiffeId = format!("{}/ns/prod/sa/own", domain.id()).parse().unwrap();
    let request = KeyRequest::new().unwrap();
    let key = requested_key(&request.csr).unwrap();
    let leaf = issuing.leaf(&key, &own, None, &Names::default(), now, now + DAY).unwrap();
    let sibling = LiveIdentity::empty();
    sibling.set(Svid::from_der(vec![leaf, issuing.certificate().clone()], &request.key).unwrap(), bundle.clone());
    assert!(verified_issuer(sibling.load().svid().unwrap(), &bundle, UnixTime::now()).is_some());
    Pki { root, issuing, bundle, sibling }
}

const BOARD: &str = "spiffe://acme.internal/ns/prod/sa/board";

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// A correct leaf's parameters, to be spoilt.
fn good() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (SystemTime::now() - Duration::from_secs(30)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    params.subject_alt_names = vec![uri(BOARD)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn sign(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> CertificateDer<'static> {
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

fn judge(pki: &Pki, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    let now = UnixTime::now();
    let as_server = verify(&pki.bundle, None, leaf, rest, now, Role::Server);
    let as_client = verify(&pki.bundle, None, leaf, rest, now, Role::Client);
    assert_eq!(format!("{as_server:?}"), format!("{as_client:?}"), "both ends judge alike");
    let short_way = pki.sibling.load().verify(leaf, rest, now, Role::Server);
    assert_eq!(format!("{as_server:?}"), format!("{short_way:?}"), "the short way judges like the long one");
    as_server
}

#[test]
fn a_correct_leaf_is_who_it_says() {
    let pki = pki("acme.internal");
    let leaf = sign(&good(), pki.issuing.issuer());
    assert_eq!(judge(&pki, &leaf, &[pki.issuing.certificate().clone()]).unwrap().as_str(), BOARD);
    // Names of other types are allowed (X.509-SVID s.2), and extended key usage is optional (s.4.4).
    let mut params = good();
    params.subject_alt_names.push(SanType::DnsName("localhost".try_into().unwrap()));
    params.extended_key_usages.clear();
    let leaf = sign(&params, pki.issuing.issuer());
    assert!(judge(&pki, &leaf, &[pki.issuing.certificate().clone()]).is_ok());
    assert!(judge(&pki, &sign(&good(), pki.root.issuer()), &[]).is_ok(), "directly under the root");
}

#[test]
fn every_broken_rule_is_named() {
    let hour = time::Duration::hours(1);
    let cases: &[(&str, Spoil, &str)] = &[
        ("two URI SANs", |p| p.subject_alt_names.push(uri("spiffe://acme.internal/x")), "has 2 URI SANs"),
        ("no URI SAN", |p| p.subject_alt_names = vec![SanType::DnsName("board".try_into().unwrap())], "has no URI SAN"),
        ("no SAN at all", |p| p.subject_alt_names.clear(), "has no URI SAN"),
        (
            "another scheme",
            |p| p.subject_alt_names = vec![uri("https://acme.internal/x")],
            "does not start with spiffe://",
        ),
        ("no path", |p| p.subject_alt_names = vec![uri("spiffe://acme.internal")], "it has no path"),
        ("root path", |p| p.subject_alt_names = vec![uri("spiffe://acme.internal/")], "empty segment"),
        (
            "other trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://evil.test/ns/prod/sa/board")],
            "of another trust domain",
        ),
        (
            "similar trust domain",
            |p| p.subject_alt_names = vec![uri("spiffe://acme.internal.evil/x")],
            "of another trust domain",
        ),
        (
            "a CA",
            |p| {
                p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                p.key_usages.push(KeyUsagePurpose::KeyCertSign);
            },
            "is a CA certificate",
        ),
        (
            "may sign certificates",
            |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign),
            "must not have keyCertSign or cRLSign",
        ),
        ("may sign CRLs", |p| p.key_usages.push(KeyUsagePurpose::CrlSign), "must not have keyCertSign or cRLSign"),
        ("may not sign", |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement], "must have digitalSignature"),
        ("no key usage", |p| p.key_usages.clear(), "the extension is missing"),
        (
            "client only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            "lacks serverAuth or clientAuth",
        ),
        (
            "server only",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            "lacks serverAuth or clientAuth",
        ),
        (
            "unknown critical extension",
            |p| {
                let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                extension.set_criticality(true);
                p.custom_extensions.push(extension);
            },
            "malformed",
        ),
        (
            "the extension twice",
            |p| p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 0])),
            "malformed",
        ),
    ];
    let pki = pki("acme.internal");
    let chain = [pki.issuing.certificate().clone()];
    for (name, spoil, says) in cases {
        let mut params = good();
        spoil(&mut params);
        let error = judge(&pki, &sign(&params, pki.issuing.issuer()), &chain).expect_err(name).to_string();
        assert!(error.contains(says), "{name}: {error}");
    }

    let mut expired = good();
    expired.not_before -= hour * 3;
    expired.not_after -= hour * 2;
    let error = judge(&pki, &sign(&expired, pki.issuing.issuer()), &chain).unwrap_err();
    assert!(matches!(error, PeerError::Expired { .. }), "{error}");
    let mut early = good();
    early.not_before += hour;
    early.not_after += hour;
    let error = judge(&pki, &sign(&early, pki.issuing.issuer()), &chain).unwrap_err();
    assert!(matches!(error, PeerError::NotYetValid { .. }), "{error}");
}

#[test]
fn a_chain_must_lead_to_the_bundle_over_signing_certificates_of_the_trust_domain() {
    let ours = pki("acme.internal");
    let twin = pki("acme.internal");
    let foreign = pki("evil.test");
    let leaf = sign(&good(), ours.issuing.issuer());
    let by_twin = sign(&good(), twin.issuing.issuer());
    let refused = |leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]| judge(&ours, leaf, rest).unwrap_err();

    for rest in [vec![], vec![twin.issuing.certificate().clone()]] {
        assert!(matches!(refused(&leaf, &rest), PeerError::UnknownIssuer(..)), "the issuing CA is not shown");
    }
    let brings_its_root = [twin.issuing.certificate().clone(), twin.root.certificate().clone()];
    assert!(
        matches!(refused(&by_twin, &brings_its_root), PeerError::UnknownIssuer(..)),
        "the peer's own root proves nothing"
    );

    let by_foreign = sign(&good(), foreign.issuing.issuer());
    assert!(matches!(refused(&by_foreign, &[foreign.issuing.certificate().clone()]), PeerError::UnknownIssuer(..)));

    // A leaf that plays CA: its key signs another leaf.
    let key = KeyPair::generate().unwrap();
    let middle = good().signed_by(&key, ours.issuing.issuer()).unwrap().der().clone();
    let by_leaf = sign(&good(), &Issuer::from_ca_cert_der(&middle, key).unwrap());
    let error = refused(&by_leaf, &[middle, ours.issuing.certificate().clone()]);
    assert!(matches!(error, PeerError::Chain(..) | PeerError::UnknownIssuer(..)), "{error}");

    // Issuing CAs that break X.509-SVID s.3.2 although the root has signed them.
    let spoilt: [(Spoil, &str); 5] = [
        (|p| p.key_usages = vec![KeyUsagePurpose::CrlSign], "lacks keyCertSign"),
        (|p| p.subject_alt_names = vec![uri("spiffe://evil.test")], "its URI SAN is spiffe://evil.test"),
        (
            |p| p.subject_alt_names = vec![uri("spiffe://acme.internal/ns/prod/sa/ca")],
            "spiffe://acme.internal/ns/prod/sa/ca",
        ),
        (|p| p.subject_alt_names = vec![uri("spiffe://acme.internal/")], "not spiffe://acme.internal"),
        (|p| p.subject_alt_names.push(uri("spiffe://acme.internal")), "it has 2 URI SANs"),
    ];
    for (spoil, says) in spoilt {
        let mut params = good();
        params.distinguished_name.push(rcgen::DnType::CommonName, "issuing");
        params.subject_alt_names = vec![uri("spiffe://acme.internal")];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        spoil(&mut params);
        let key = KeyPair::generate().unwrap();
        let issuing = params.signed_by(&key, ours.root.issuer()).unwrap().der().clone();
        let leaf = sign(&good(), &Issuer::new(params, key));
        let error = refused(&leaf, &[issuing]).to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn bytes_that_were_changed_never_verify() {
    let pki = pki("acme.internal");
    let leaf = sign(&good(), pki.issuing.issuer());
    let chain = [pki.issuing.certificate().clone()];
    // What is wrong first may have another name for each end: one that asks for the usage of the other reads it where that was changed.
    let is_refused = |leaf: &CertificateDer<'_>| {
        let now = UnixTime::now();
        let long = [Role::Server, Role::Client].map(|role| verify(&pki.bundle, None, leaf, &chain, now, role));
        long.iter().all(Result::is_err) && pki.sibling.load().verify(leaf, &chain, now, Role::Server).is_err()
    };
    for at in 0..leaf.len() {
        let mut forged = leaf.to_vec();
        forged[at] ^= 1 << (at % 8);
        assert!(is_refused(&forged.into()), "byte {at}");
    }
    for cut in 0..leaf.len() {
        assert!(is_refused(&leaf[..cut].to_vec().into()), "cut after {cut}");
    }
    let longer: Vec<u8> = leaf.iter().copied().chain([0]).collect();
    assert!(judge(&pki, &longer.into(), &chain).unwrap_err().to_string().contains("bytes follow"));
}

#[test]
fn without_a_bundle_nobody_is_trusted() {
    let pki = pki("acme.internal");
    let leaf = sign(&good(), pki.issuing.issuer());
    let chain = [pki.issuing.certificate().clone()];
    let nobody = IdentityState::default();
    let judged = nobody.verify(&leaf, &chain, UnixTime::now(), Role::Client);
    assert!(matches!(judged, Err(PeerError::Own(OwnFault::Missing))), "{judged:?}");
    let empty = TrustBundle::new("acme.internal".parse().unwrap(), vec![]).unwrap();
    let judged = verify(&empty, None, &leaf, &chain, UnixTime::now(), Role::Client);
    assert!(matches!(judged, Err(PeerError::UnknownIssuer(..))), "{judged:?}");
}

#[test]
fn a_leaf_or_a_foreign_root_is_no_bundle() {
    let ours = pki("acme.internal");
    let leaf = sign(&good(), ours.issuing.issuer());
    let domain: TrustDomain = "acme.internal".parse().unwrap();
    for wrong in [leaf, pki("evil.test").root.certificate().clone()] {
        assert!(TrustBundle::new(domain.clone(), vec![wrong]).is_err());
    }
}

#[test]
fn the_short_way_ends_with_the_issuer_and_with_the_bundle() {
    let pki = pki("acme.internal");
    let leaf = sign(&good(), pki.issuing.issuer());
    let chain = [pki.issuing.certificate().clone()];
    let after = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + 2 * DAY.as_secs()));
    let mut params = good();
    params.not_after += 3 * DAY;
    let outlives_its_issuer = sign(&params, pki.issuing.issuer());
    let late = pki.sibling.load().verify(&outlives_its_issuer, &chain, after, Role::Server);
    assert!(matches!(late, Err(PeerError::Expired { .. })), "{late:?}");
    // Another root takes over: what was issued under the old one is refused at once.
    let twin = super::tests::pki("acme.internal");
    pki.sibling
        .set_bundle(TrustBundle::new("acme.internal".parse().unwrap(), vec![twin.root.certificate().clone()]).unwrap());
    let refused = pki.sibling.load().verify(&leaf, &chain, UnixTime::now(), Role::Server);
    assert!(matches!(refused, Err(PeerError::UnknownIssuer(..))), "{refused:?}");
}

#[test]
fn a_root_that_has_run_out_vouches_for_nobody() {
    let (old, new) = (pki("acme.internal"), pki("acme.internal"));
    let domain: TrustDomain = "acme.internal".parse().unwrap();
    let at = |days: u32| UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + days * DAY);
    // Made later, and with a longer life than that which vouched before.
    let root = Ca::root(&domain, SystemTime::now(), 30 * DAY).unwrap();
    let issuing = root.issuing(&domain, SystemTime::now(), 30 * DAY).unwrap();
    let mut params = good();
    params.not_after += 30 * DAY;
    let (by_old, by_new) = (sign(&params, old.issuing.issuer()), sign(&params, issuing.issuer()));
    let judge = |bundle: &TrustBundle, leaf: &CertificateDer<'_>, by: &Ca, days| {
        verify(bundle, None, leaf, std::slice::from_ref(by.certificate()), at(days), Role::Server)
    };
    let late = judge(&old.bundle, &by_old, &old.issuing, 12);
    assert!(matches!(&late, Err(PeerError::Own(OwnFault::BundleExpired { .. }))), "{late:?}");
    let state = new.sibling.load_full();
    assert_eq!(state.fault(at(0)), None);
    assert!(matches!(state.fault(at(12)), Some(OwnFault::Expired { .. })));

    // One that lives on goes on vouching.
    let both = vec![old.root.certificate().clone(), root.certificate().clone()];
    let both = TrustBundle::new(domain, both).unwrap();
    assert!(judge(&both, &by_new, &issuing, 12).is_ok());
    let late = judge(&both, &by_old, &old.issuing, 12);
    assert!(matches!(&late, Err(PeerError::UnknownIssuer(..) | PeerError::Expired { .. })), "{late:?}");
}

#[test]
fn what_is_wrong_with_the_own_identity_is_said_for_each_time() {
    let pki = pki("acme.internal");
    let state = pki.sibling.load_full();
    let svid = state.svid().unwrap();
    // From the certificate, not from the clock, which goes on while keys are made.
    let [begin, end] =
        [svid.not_before(), svid.not_after()].map(|time| time.duration_since(UNIX_EPOCH).unwrap().as_secs());
    let fault = |seconds| state.fault(UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    assert_eq!(LiveIdentity::empty().fault(), Some(OwnFault::Missing));
    assert_eq!((fault(begin), fault(end - 5)), (None, None));
    let id = svid.id().clone();
    assert_eq!(fault(end + 60), Some(OwnFault::Expired { id: id.clone(), ago: 60 }));
    assert_eq!(fault(begin - 3600), Some(OwnFault::NotYetValid { id, in_seconds: 3600 }));
}
