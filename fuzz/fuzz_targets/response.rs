//! What an app answers: however its bytes arrive, they are the same response or refused.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use weft_proxy::fuzz::receive;

fuzz_target!(|input: &[u8]| {
    let [method, first, second, bytes @ ..] = input else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(method % 3)].clone();
    let whole = receive(&method, [bytes]);
    let (one, rest) = bytes.split_at(usize::from(*first).min(bytes.len()));
    let (two, three) = rest.split_at(usize::from(*second).min(rest.len()));
    let mut cut = vec![receive(&method, [one, two, three])];
    if bytes.len() < 1000 {
        cut.push(receive(&method, bytes.chunks(1)));
    }
    for cut in cut {
        match (&whole, &cut) {
            (Ok(whole), Ok(cut)) => assert_eq!(whole, cut),
            (Err(_), Err(_)) => {}
            _ => panic!("at once {whole:?}, in pieces {cut:?}"),
        }
    }
});
