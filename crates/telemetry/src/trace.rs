//! W3C trace context (`traceparent`, level 1) and `x-request-id`: carried on when they are there, made when they are not.

use rand::Rng;

/// A `traceparent`: version 00, 16 bytes of trace id, 8 bytes of parent id, flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    /// Trace id, never all zeros.
    pub trace_id: [u8; 16],
    /// The span that this hop is; what the next hop sees as its parent.
    pub span_id: [u8; 8],
    /// Bit 0 is `sampled`.
    pub flags: u8,
}

impl TraceContext {
    /// Continues the trace of `header` with a span of its own, or begins a new one (not sampled) when the header is absent or
    /// breaks Trace Context s.3.2.
    pub fn continue_or_begin(header: Option<&[u8]>, rng: &mut impl Rng) -> Self {
        let span_id = nonzero(rng);
        match header.and_then(parse) {
            Some(parent) => Self { span_id, ..parent },
            None => Self { trace_id: nonzero(rng), span_id, flags: 0 },
        }
    }

    /// What a `traceparent` says, unless it breaks Trace Context s.3.2.
    pub fn read(header: &[u8]) -> Option<Self> {
        parse(header)
    }

    /// The header's value, 55 bytes of ASCII.
    pub fn header(&self) -> [u8; 55] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        hex(&self.trace_id, &mut out[3..35]);
        hex(&self.span_id, &mut out[36..52]);
        hex(&[self.flags], &mut out[53..55]);
        out
    }

    /// The trace id in 32 hexadecimal digits.
    pub fn trace_id_hex(&self) -> [u8; 32] {
        let mut out = [0; 32];
        hex(&self.trace_id, &mut out);
        out
    }
}

/// A random (version 4) UUID in its 36-character text form, as Envoy makes for `x-request-id`.
pub fn request_id(rng: &mut impl Rng) -> [u8; 36] {
    let mut bytes: [u8; 16] = rng.random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut digits = [0; 32];
    hex(&bytes, &mut digits);
    let mut out = [b'-'; 36];
    for (from, to) in [(0..8, 0..8), (8..12, 9..13), (12..16, 14..18), (16..20, 19..23), (20..32, 24..36)] {
        out[to].copy_from_slice(&digits[from]);
    }
    out
}

/// 16 random bytes in hexadecimal: the id of a decision.
pub fn decision_id(rng: &mut impl Rng) -> [u8; 32] {
    let mut out = [0; 32];
    hex(&rng.random::<[u8; 16]>(), &mut out);
    out
}

fn parse(header: &[u8]) -> Option<TraceContext> {
    // A later version may be longer, if what follows is set apart by a dash; version ff is forbidden.
    if header.len() < 55 || (header.len() > 55 && (header.starts_with(b"00") || header[55] != b'-')) {
        return None;
    }
    if header[2] != b'-' || header[35] != b'-' || header[52] != b'-' {
        return None;
    }
    if unhex::<1>(&header[..2])? == [0xff] {
        return None;
    }
    let trace_id = unhex(&header[3..35])?;
    let span_id = unhex(&header[36..52])?;
    let [flags] = unhex(&header[53..55])?;
    (trace_id != [0; 16] && span_id != [0; 8]).then_some(TraceContext { trace_id, span_id, flags: flags & 1 })
}

fn nonzero<const N: usize>(rng: &mut impl Rng) -> [u8; N] {
    let mut bytes = [0; N];
    while bytes == [0; N] {
        rng.fill_bytes(&mut bytes);
    }
    bytes
}

fn hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_with_a_new_span() {
        let header = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::continue_or_begin(Some(header), &mut rand::rng());
        assert_eq!(&context.header()[..36], &header[..36]);
        assert_ne!(&context.header()[36..52], &header[36..52]);
        assert_eq!(context.flags, 1);
    }

    #[test]
    fn a_broken_header_begins_a_new_trace() {
        for bad in [
            &b""[..],
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
        ] {
            let context = TraceContext::continue_or_begin(Some(bad), &mut rand::rng());
            assert_ne!(
                &context.trace_id_hex()[..],
                b"4bf92f3577b34da6a3ce929d0e0e4736",
                "{}",
                String::from_utf8_lossy(bad)
            );
            assert_eq!(parse(&context.header()).map(|c| c.trace_id), Some(context.trace_id));
        }
    }

    #[test]
    fn request_ids_are_version_4_uuids() {
        let id = request_id(&mut rand::rng());
        assert_eq!((id[8], id[13], id[14], id[18], id[23]), (b'-', b'-', b'4', b'-', b'-'));
        assert!(b"89ab".contains(&id[19]));
    }
}
