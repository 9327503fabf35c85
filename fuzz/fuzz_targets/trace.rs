//! A `traceparent` from a stranger: a trace goes on exactly if the header is what Trace Context s.3.2 says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use weft_telemetry::trace::TraceContext;

fuzz_target!(|header: &[u8]| {
    let context = TraceContext::continue_or_begin(Some(header), &mut SmallRng::seed_from_u64(1));
    assert_eq!(context.trace_id_hex().as_slice() == trace_id(header).unwrap_or_default(), trace_id(header).is_some());
    let next = context.header();
    let again = TraceContext::continue_or_begin(Some(&next), &mut SmallRng::seed_from_u64(2));
    assert_eq!((again.trace_id, again.flags), (context.trace_id, context.flags));
    assert_ne!(again.span_id, context.span_id);
});

/// By the letter of the specification: fields between dashes.
fn trace_id(header: &[u8]) -> Option<&[u8]> {
    let fields: Vec<&[u8]> = header.split(|byte| *byte == b'-').collect();
    let [version, trace, parent, flags, rest @ ..] = &fields[..] else { return None };
    let hex = |field: &[u8], length| {
        field.len() == length && field.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
    };
    let some = |field: &[u8]| field.iter().any(|byte| *byte != b'0');
    let legal = hex(version, 2) && *version != b"ff" && (*version != b"00" || rest.is_empty());
    (legal && hex(trace, 32) && some(trace) && hex(parent, 16) && some(parent) && hex(flags, 2)).then_some(trace)
}
