//! A policy bundle that is not what a control plane made: a sidecar reads it or refuses it, and never allows whom it does not name.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{board, decide, edited, intent};
use weft_model::SpiffeId;
use weft_policy::{Bundle, Engine, PolicyError};

static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| board(&intent()).to_bytes());

fuzz_target!(|edits: &[u8]| {
    let mut bytes = edited(&GOOD, edits);
    if let Err(PolicyError::Damaged { found, .. }) = Bundle::from_bytes(&bytes) {
        // The checksum stops accidents, not whoever can make one.
        let mut bundle: Bundle = serde_json::from_slice(&bytes).expect("it was read as far as its checksum");
        bundle.revision = found;
        bytes = bundle.to_bytes();
    }
    let Ok(bundle) = Bundle::from_bytes(&bytes) else { return };
    assert_eq!(Bundle::from_bytes(&bundle.to_bytes()).as_ref(), Ok(&bundle));
    let Ok(engine) = Engine::new(&bundle) else { return };
    for caller in &bundle.callers {
        decide(&engine, Some(&SpiffeId::for_service(&bundle.trust_domain, &caller.name)), "/api/x");
    }
    assert!(!decide(&engine, None, "/api/x"));
    assert!(!decide(&engine, Some(&"spiffe://other.domain/ns/prod/sa/web".parse().expect("legal")), "/api/x"));
});
