use std::slice::from_ref;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;

struct Made {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

fn make(name: &str, by: Option<&Made>, change: impl FnOnce(&mut CertificateParams)) -> Made {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let der = match by {
        None => params.self_signed(&key).unwrap(),
        Some(by) => params.signed_by(&key, &Issuer::from_params(&by.params, &by.key)).unwrap(),
    };
    Made { der: der.der().clone(), params, key }
}

fn judge(path: &[&Made]) -> Result<(), String> {
    let path: Vec<CertificateDer<'_>> = path.iter().map(|made| made.der.clone()).collect();
    check(&path, &"acme.internal".parse().unwrap(), SystemTime::now())
}

fn uri(text: &str) -> Ia5String {
    text.try_into().unwrap()
}

#[test]
fn each_thing_that_is_in_the_way_is_named() {
    let root = make("root", None, |_| {});
    assert_eq!(judge(&[&make("ca", Some(&root), |_| {}), &root]), Ok(()));
    assert_eq!(judge(&[&root]), Ok(()), "a root may sign itself");
    let named = |name: &str| vec![SanType::URI(uri(name))];
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(|it| it.is_ca = IsCa::ExplicitNoCa), "CA:TRUE"),
        (Box::new(|it| it.key_usages.clear()), "keyCertSign"),
        (
            Box::new(|it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))),
            "path length 0, and there is 1 CA below",
        ),
        (Box::new(|it| it.not_after = (SystemTime::now() - Duration::from_secs(1)).into()), "has expired"),
        (Box::new(|it| it.not_before = (SystemTime::now() + Duration::from_secs(60)).into()), "not valid yet"),
        (Box::new(move |it| it.subject_alt_names = named("spiffe://other.internal")), "spiffe://other.internal"),
        (
            Box::new(|it| it.custom_extensions.push(constraints("permitted", "other.internal"))),
            "exclude the trust domain",
        ),
        (Box::new(|it| it.custom_extensions.push(constraints("permitted", ".internal"))), "constraints on URIs"),
        (Box::new(|it| it.custom_extensions.push(constraints("excluded", ".internal"))), "exclude the trust domain"),
        (Box::new(|it| it.custom_extensions.push(constraints("excluded", "other.internal"))), "constraints on URIs"),
    ];
    for (change, why) in cases {
        let told = judge(&[&make("ca", Some(&root), change), &root]).unwrap_err();
        assert!(told.contains("`CN=ca`") && told.contains(why), "{why}: {told}");
    }
    // Also of those above: the root lets one CA be below it, and there are two.
    let tight = make("tight", None, |it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(1)));
    let ca = make("ca", Some(&tight), |_| {});
    let told = judge(&[&ca, &tight]).unwrap_err();
    assert!(told.contains("`CN=tight` has path length 1, and there are 2 CAs below"), "{told}");
    assert_eq!(judge(&[&tight]), Ok(()));
    let domain = make("ca", Some(&root), |it| it.subject_alt_names = vec![SanType::URI(uri("spiffe://acme.internal"))]);
    assert_eq!(judge(&[&domain, &root]), Ok(()));
}

/// RFC 5280 s.4.2.1.10 for one URI, which rcgen does not write.
fn constraints(which: &str, base: &str) -> CustomExtension {
    let tlv = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let tree = tlv(0x30, &tlv(0x86, base.as_bytes()));
    let content = tlv(0x30, &tlv(if which == "permitted" { 0xa0 } else { 0xa1 }, &tree));
    CustomExtension::from_oid_content(&[2, 5, 29, 30], content)
}

#[test]
fn the_way_up_is_found_whatever_the_order_and_a_gap_is_named() {
    let root = make("root", None, |_| {});
    let upper = make("upper", Some(&root), |_| {});
    let lower = make("lower", Some(&upper), |_| {});
    let namesake = make("upper", None, |_| {}); // the same name, another key
    let way = [&lower, &upper, &root].map(|made| made.der.clone());
    let all = [&namesake, &root, &upper].map(|made| made.der.clone());
    assert_eq!(path_from(&lower.der, &all, &[]).unwrap(), way, "the root is who signed itself");
    assert_eq!(path_from(&lower.der, from_ref(&upper.der), from_ref(&root.der)).unwrap(), way);
    assert_eq!(path_from(&root.der, &[], &[]).unwrap(), *from_ref(&root.der));
    // A root by choice, though somebody is above it.
    assert_eq!(path_from(&lower.der, &all, from_ref(&upper.der)).unwrap(), way[..2]);
    let told = path_from(&lower.der, from_ref(&root.der), from_ref(&root.der)).unwrap_err();
    assert!(told.contains("`CN=upper`, which signed it, is missing"), "{told}");
    let told = path_from(&root.der, &[], from_ref(&namesake.der)).unwrap_err();
    assert!(told.contains("is missing"), "a root that is not among the roots: {told}");
}
