//! A request path from a stranger: what is accepted is normal, stays as it is when normalised again, and has no dot segment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::intent::Paths;
use weft_policy::path::{normalize, split};

fuzz_target!(|raw: &str| {
    let (path, _) = split(raw);
    if let Ok(normal) = normalize(path, Paths::default()) {
        let again = normalize(&normal, Paths::default()).expect("a normal path is accepted");
        assert_eq!(again, normal, "normalising twice changes {raw:?}");
        assert!(normal.split('/').all(|segment| segment != "." && segment != ".."), "{raw:?} kept a dot segment");
        assert!(!normal.contains('\\') && !normal.contains('\0'), "{raw:?}");
    }
});
