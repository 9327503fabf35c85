//! `:authority` over a Unix socket, made legal.
//!
//! gRPC's C core (and with it Python, C++, Ruby) sends the percent-encoded path of the socket there, Java the path as it is. Neither is an
//! authority (RFC 3986 s.3.2), and the HTTP/2 library below resets such a request before anybody sees it. Nothing here reads the value, so
//! each `%` and `/` in it becomes `-` on the way in: no length changes, and both ends' tables of headers stay equal (RFC 7541 s.2.3.2).
//! What is Huffman-coded is left as it is: those clients code nothing so.

/// Frames begin after it (RFC 9113 s.3.4).
const PREFACE: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const FRAME_HEADER: usize = 9;
/// Types and flags of frames (RFC 9113 s.6.2, s.6.10).
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The header's name, and its place in the static table (RFC 7541 appendix A).
const NAME: &[u8] = b":authority";
const INDEX: usize = 1;

/// Where a connection's bytes are, from its first one on. Public for the fuzz target of the same name.
pub struct Mend {
    frame: Frame,
    block: Block,
}

enum Frame {
    /// So many bytes mean nothing here.
    Skip(usize),
    /// The header of a frame, as far as it has come.
    Header([u8; FRAME_HEADER], usize),
    /// The length of the padding, of a frame with so many bytes and a priority or not.
    Padding { length: usize, priority: usize },
    /// So many bytes until the block of header fields, so many of those, and so many of padding.
    Fields { before: usize, fields: usize, padding: usize },
}

/// Where a block of header fields is (RFC 7541 s.6).
enum Block {
    /// At the beginning of a field.
    Field,
    /// In a number that goes on (s.5.1): what it is so far, the next shift, and what it is of.
    Number(usize, u32, Of),
    /// At the length of a string (s.5.2).
    Length(Text),
    /// In a string: bytes that are left, and how much of [`NAME`] it was so far.
    Name { left: usize, matched: Option<usize> },
    /// In a string: bytes that are left, and whether they are to be legal.
    Value { left: usize, is_authority: bool },
}

#[derive(Clone, Copy)]
enum Of {
    /// A field without a string follows.
    Nothing,
    /// The name of a field.
    Index,
    /// A string that is plain or not.
    Length(Text, bool),
}

#[derive(Clone, Copy)]
enum Text {
    Name,
    Value { is_authority: bool },
}

impl Default for Mend {
    fn default() -> Self {
        Self { frame: Frame::Skip(PREFACE), block: Block::Field }
    }
}

impl Mend {
    /// Mends the bytes that come next.
    pub fn mend(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            at += match &mut self.frame {
                Frame::Skip(0) => {
                    self.frame = Frame::Header([0; FRAME_HEADER], 0);
                    0
                }
                Frame::Skip(left) => {
                    let skipped = (bytes.len() - at).min(*left);
                    *left -= skipped;
                    skipped
                }
                Frame::Header(header, have) => {
                    header[*have] = bytes[at];
                    *have += 1;
                    if *have == FRAME_HEADER {
                        self.frame = frame(*header);
                    }
                    1
                }
                Frame::Padding { length, priority } => {
                    let padding = usize::from(bytes[at]);
                    let fields = length.saturating_sub(1 + *priority + padding);
                    self.frame = Frame::Fields { before: *priority, fields, padding };
                    1
                }
                Frame::Fields { before: before @ 1.., .. } => {
                    *before -= 1;
                    1
                }
                Frame::Fields { fields: 0, padding, .. } => {
                    self.frame = Frame::Skip(*padding);
                    0
                }
                Frame::Fields { fields, .. } => {
                    *fields -= 1;
                    self.block.take(&mut bytes[at]);
                    1
                }
            };
        }
    }
}

/// What follows this header of a frame.
fn frame(header: [u8; FRAME_HEADER]) -> Frame {
    let [a, b, c, kind, flags, ..] = header;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
    match kind {
        HEADERS if flags & PADDED != 0 => Frame::Padding { length, priority },
        HEADERS => Frame::Fields { before: priority, fields: length.saturating_sub(priority), padding: 0 },
        CONTINUATION => Frame::Fields { before: 0, fields: length, padding: 0 },
        _ => Frame::Skip(length),
    }
}

impl Block {
    /// Takes the next byte of a block, and mends it.
    fn take(&mut self, byte: &mut u8) {
        *self = match *self {
            Self::Field => match *byte {
                indexed @ 0x80.. => Self::number(indexed, 7, Of::Nothing),
                literal @ 0x40.. => Self::number(literal, 6, Of::Index),
                resize @ 0x20.. => Self::number(resize, 5, Of::Nothing),
                literal => Self::number(literal, 4, Of::Index),
            },
            Self::Number(so_far, shift, of) => {
                let more = usize::from(*byte & 0x7f).checked_shl(shift).unwrap_or(usize::MAX);
                let number = so_far.saturating_add(more);
                if *byte & 0x80 == 0 {
                    Self::after(number, of)
                } else {
                    Self::Number(number, shift.saturating_add(7), of)
                }
            }
            Self::Length(text) => Self::number(*byte, 7, Of::Length(text, *byte & 0x80 == 0)),
            Self::Name { left, matched } => {
                let matched = matched.filter(|so_far| NAME.get(*so_far) == Some(byte)).map(|so_far| so_far + 1);
                Self::name(left - 1, matched)
            }
            Self::Value { left, is_authority } => {
                if is_authority && matches!(*byte, b'%' | b'/') {
                    *byte = b'-';
                }
                Self::value(left - 1, is_authority)
            }
        };
    }

    /// A number that begins in the lower bits of a byte.
    fn number(byte: u8, bits: u8, of: Of) -> Self {
        let most = (1 << bits) - 1;
        let number = usize::from(byte & most);
        if number < usize::from(most) { Self::after(number, of) } else { Self::Number(number, 0, of) }
    }

    fn after(number: usize, of: Of) -> Self {
        match of {
            Of::Nothing => Self::Field,
            Of::Index if number == 0 => Self::Length(Text::Name),
            Of::Index => Self::Length(Text::Value { is_authority: number == INDEX }),
            Of::Length(Text::Name, is_plain) => Self::name(number, is_plain.then_some(0)),
            Of::Length(Text::Value { is_authority }, is_plain) => Self::value(number, is_authority && is_plain),
        }
    }

    fn name(left: usize, matched: Option<usize>) -> Self {
        match left {
            0 => Self::Length(Text::Value { is_authority: matched == Some(NAME.len()) }),
            _ => Self::Name { left, matched },
        }
    }

    fn value(left: usize, is_authority: bool) -> Self {
        if left == 0 { Self::Field } else { Self::Value { left, is_authority } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "%2Frun%2Fweb.sock";
    const LEGAL: &str = "-2Frun-2Fweb.sock";

    fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let name = if name.is_empty() { Vec::new() } else { text(name) };
        [vec![first], name, text(value)].concat()
    }

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], content].concat()
    }

    /// What a client sends whose `:authority` is this: as literal name and by its index, once split over two frames, with all that may stand
    /// around it, and with what looks alike.
    fn sent(authority: &str) -> Vec<u8> {
        let block = [
            &[0x3f, 0xe1, 0x1f][..], // the table's size
            &[0x83, 0x86],           // POST, http
            &literal(0x40, ":authority", authority),
            &literal(0x40, ":authoritz", "%/"),
            &literal(0x40, ":authority:", "%/"),
            &literal(0x44, "", "/SpiffeWorkloadAPI/FetchX509SVID"),
            &literal(0x00, "x-long", &"/%".repeat(50)),
            &[0x7f, 0x01, 0x02, b'%', b'/'], // a name by an index of two bytes
            &literal(0x41, "", authority),
            &literal(0x01, "", authority),
            &literal(0x11, "", authority),
            &[0x41, 0x82, b'%', b'/'], // Huffman-coded
        ]
        .concat();
        let (first, rest) = block.split_at(12);
        let padded = [&[3, 0, 0, 0, 0, 7], &block[..], b"%/%"].concat();
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, &[0, 3, 0, 0, 0, 100]),
            frame(HEADERS, 0, first),
            frame(CONTINUATION, 4, rest),
            frame(0, 1, b"%/ a message %/"),
            frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
            frame(HEADERS, 4 | PRIORITY, &[&[0, 0, 0, 0, 7], &block[..]].concat()),
            frame(HEADERS, 4, &block),
        ]
        .concat()
    }

    #[test]
    fn an_authority_is_made_legal_and_nothing_else_is_touched_however_the_bytes_come() {
        let (before, expected) = (sent(PATH), sent(LEGAL));
        assert_ne!(before, expected);
        for size in (1..60).chain([before.len()]) {
            let mut bytes = before.clone();
            let mut mend = Mend::default();
            bytes.chunks_mut(size).for_each(|chunk| mend.mend(chunk));
            assert!(bytes == expected, "in pieces of {size}");
        }
        let mut java = sent("/run/web/my.sock.");
        Mend::default().mend(&mut java);
        assert_eq!(java, sent("-run-web-my.sock."));
    }

    #[test]
    fn whatever_comes_has_an_end() {
        let mut mend = Mend::default();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..2000 {
            let mut bytes: Vec<u8> = (0..97)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state as u8
                })
                .collect();
            let length = bytes.len();
            mend.mend(&mut bytes);
            assert_eq!(bytes.len(), length);
        }
        // A number without an end.
        let mut bytes = [sent("x"), frame(HEADERS, 4, &[&[0x7f][..], &[0xff; 300]].concat())].concat();
        Mend::default().mend(&mut bytes);
    }
}
