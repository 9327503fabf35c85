use super::*;
use crate::trust::Kind;

#[tokio::test]
async fn nothing_is_handed_out_under_a_root_that_may_be_forgotten_before_it_is_known_who_lives_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, now) = (Store::open(folder.path()).unwrap(), SystemTime::now());
    let open = Authority::open(store, "acme.internal".parse().unwrap(), "self", Lives::default(), now);
    let authority = open.await.unwrap();
    let request = KeyProof::check(&KeyRequest::new().unwrap().csr).unwrap();
    let id: SpiffeId = "spiffe://acme.internal/ns/prod/sa/web".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let issue = || authority.issue(&request, &id, None, hour, &Names::default(), now).unwrap();
    let early = issue();
    let stolen = early.under.clone();
    authority.taint(Kind::X509, &stolen, "a drill").await.unwrap();
    // All steps at once, since nobody holds anything: the root is gone when the slow answer wants to leave.
    authority.advance(now).await.unwrap();
    assert!(authority.published().borrow().trust.x509.keys().iter().all(|root| root.id != stolen));
    assert!(!authority.hold("holder/slow".to_owned(), &early, None, 1, now));
    let again = issue();
    assert!(again.under != stolen && authority.hold("holder/slow".to_owned(), &again, None, 3, now));
    // One that was taken note of in time is waited for.
    let second = again.under.clone();
    authority.taint(Kind::X509, &second, "another").await.unwrap();
    authority.holds("holder/slow", u64::MAX);
    authority.advance(now).await.unwrap();
    assert!(authority.must_renew("holder/slow"), "it is told to, and the root stays until it has");
    assert!(authority.hold("holder/slow".to_owned(), &issue(), None, 9, now));
    authority.advance(now).await.unwrap();
    assert!(authority.published().borrow().trust.x509.keys().iter().all(|root| root.id != second));
    assert!(!authority.must_renew("holder/slow"));
}
