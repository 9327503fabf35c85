//! The first bytes of whoever connects to the Workload API: in whatever pieces they come, the same bytes are mended, `%` and `/` into `-`, and no
//! others.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_workload_api::authority::Mend;

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (size, whole, sent) = input;
    // Without its preface hardly any input would get to the first frame.
    let preface: &[u8] = if whole { b"" } else { b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" };
    let before = [preface, sent].concat();
    let mut at_once = before.clone();
    Mend::default().mend(&mut at_once);
    for (was, is) in before.iter().zip(&at_once) {
        assert!(was == is || matches!(was, b'%' | b'/') && *is == b'-');
    }
    let mut in_pieces = before;
    let mut mend = Mend::default();
    in_pieces.chunks_mut(usize::from(size).max(1)).for_each(|piece| mend.mend(piece));
    assert_eq!(in_pieces, at_once);
});
