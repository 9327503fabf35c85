//! A SPIFFE ID from a peer's certificate: what is accepted prints as it came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::SpiffeId;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("{}{}", id.trust_domain().id(), id.path()), text);
    }
});
