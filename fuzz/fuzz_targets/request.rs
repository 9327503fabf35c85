//! What a client asks: however its bytes arrive, they are the same request or refused; and no request has two framings.
#![no_main]

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use libfuzzer_sys::fuzz_target;
use weft_fuzz::same_in_pieces;
use weft_proxy_http::fuzz::request;

fuzz_target!(|input: &[u8]| {
    let [first, second, bytes @ ..] = input else { return };
    same_in_pieces(bytes, [*first, *second], |pieces| request(pieces));
    if let Ok(asked) = request([bytes]) {
        let lengths = asked.headers.get_all(CONTENT_LENGTH).iter().count();
        let codings = asked.headers.get_all(TRANSFER_ENCODING).iter().count();
        assert!(lengths + codings <= 1, "{asked:?}");
    }
});
