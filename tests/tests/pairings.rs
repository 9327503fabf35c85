//! The same suite on every pairing of data planes: caller's first, callee's second.

use weft_tests::sidecar::DataPlane::{Envoy, Weft};
use weft_tests::suite;

#[test]
fn weft_weft() {
    suite::run(Weft, Weft);
}

#[test]
fn envoy_envoy() {
    suite::run(Envoy, Envoy);
}

#[test]
fn weft_envoy() {
    suite::run(Weft, Envoy);
}

#[test]
fn envoy_weft() {
    suite::run(Envoy, Weft);
}
