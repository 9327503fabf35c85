//! A join token from whoever wants in: what is accepted prints as it came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_identity::JoinToken;

fuzz_target!(|text: &str| {
    for text in [text, &format!("weft.{text}")] {
        if let Ok(token) = text.parse::<JoinToken>() {
            assert_eq!(token.text(), text.trim());
        }
    }
});
