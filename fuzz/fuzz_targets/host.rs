//! A `Host` or `:authority` from a stranger: policies see one spelling, whichever data plane asks, and it names what is routed.
#![no_main]

use http::Method;
use http::uri::Authority;
use libfuzzer_sys::fuzz_target;
use weft_policy::host::normalize;
use weft_proxy_config::host_key;

fuzz_target!(|text: &str| {
    let normal = normalize(text);
    assert_eq!(normalize(&normal), normal, "normalising twice changes {text:?}");
    if let Ok(authority) = Authority::try_from(text) {
        for (strip_port, method) in [(true, Method::GET), (false, Method::GET), (true, Method::CONNECT)] {
            let key = host_key(authority.as_str(), strip_port, &method);
            assert_eq!(host_key(&key, strip_port, &method), key, "{text:?}");
            assert_eq!(normalize(&key), normal, "{text:?} is routed as {key:?}");
        }
    }
});
