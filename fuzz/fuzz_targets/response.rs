//! What an app answers: however its bytes arrive, they are the same response or refused.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use weft_fuzz::same_in_pieces;
use weft_proxy_http::fuzz::response;

fuzz_target!(|input: &[u8]| {
    let [method, first, second, bytes @ ..] = input else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(method % 3)].clone();
    same_in_pieces(bytes, [*first, *second], |pieces| response(&method, pieces));
});
