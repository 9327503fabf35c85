//! Certificates and signing requests from a stranger: a damaged one is nobody's.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::{CertificateDer, UnixTime};
use weft_authority::{Authority, KeyProof, Lives};
use weft_fuzz::edited;
use weft_identity::{IdentityState, LiveIdentity, Names, Svid, TrustBundle};
use weft_model::{SpiffeId, TrustDomain};
use weft_store::Store;

struct Mesh {
    domain: TrustDomain,
    id: SpiffeId,
    csr: Vec<u8>,
    key: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    /// As a sidecar of the same issuer judges, and as one that knows only the root.
    judges: [std::sync::Arc<IdentityState>; 2],
    now: UnixTime,
}

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let domain: TrustDomain = "acme.internal".parse().expect("legal");
    let now = SystemTime::now();
    let store = Store::open(folder.path()).expect("an empty store");
    let authority = runtime.block_on(Authority::open(store, domain.clone(), "self", Lives::default(), now));
    let authority = authority.expect("opens");
    let key = rcgen::KeyPair::generate().expect("a key");
    let csr = rcgen::CertificateParams::default().serialize_request(&key).expect("a request").der().to_vec();
    let id: SpiffeId = "spiffe://acme.internal/ns/prod/sa/web".parse().expect("legal");
    let day = Duration::from_secs(24 * 3600);
    let proof = KeyProof::check(&csr).expect("its own key");
    let issued = authority.issue(&proof, &id, None, day, &Names::local(), now).expect("issues");
    let bundle = (*authority.bundle()).clone();
    let sibling = LiveIdentity::empty();
    sibling.set(authority.own_svid(&Names::default(), day, now).expect("issues"), bundle.clone());
    let stranger = LiveIdentity::empty();
    stranger.set_bundle(bundle.clone());
    Mesh {
        domain,
        id,
        csr,
        key: key.serialize_der(),
        chain: issued.chain,
        root: bundle.roots()[0].clone(),
        judges: [sibling.load_full(), stranger.load_full()],
        now: UnixTime::now(),
    }
});

fuzz_target!(|input: &[u8]| {
    let [which, edits @ ..] = input else { return };
    let mesh = &*MESH;
    let [leaf, issuer] = &mesh.chain[..] else { unreachable!("a leaf and its issuer") };
    match which % 4 {
        0 => {
            let damaged = CertificateDer::from(edited(leaf, edits));
            for judge in &mesh.judges {
                if let Ok(id) = judge.verify_client(&[damaged.clone(), issuer.clone()], mesh.now) {
                    assert_eq!((&id, &damaged), (&mesh.id, leaf));
                }
            }
            if let Ok(svid) = Svid::from_der(vec![damaged], &mesh.key) {
                assert!(svid.id().as_str().starts_with("spiffe://"));
            }
        }
        1 => {
            let damaged = CertificateDer::from(edited(issuer, edits));
            for judge in &mesh.judges {
                let chain = [leaf.clone(), damaged.clone()];
                assert_eq!(judge.verify_client(&chain, mesh.now).is_ok(), damaged == *issuer);
            }
        }
        2 => {
            // What is not signed over can differ: how the signature itself is wrapped.
            if let Ok(proof) = KeyProof::check(&edited(&mesh.csr, edits)) {
                assert_eq!(Some(proof.hash()), KeyProof::check(&mesh.csr).ok().map(|proof| proof.hash()));
            }
        }
        _ => {
            let damaged = CertificateDer::from(edited(&mesh.root, edits));
            let _ = TrustBundle::new(mesh.domain.clone(), vec![damaged]);
        }
    }
});
