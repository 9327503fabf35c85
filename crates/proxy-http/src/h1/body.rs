//! Bodies (RFC 9112 s.6 and s.7): framed on their way out, taken apart on their way in.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Frame;

use super::fields::{LineEnds, Places, line_ends, put_field};
use super::{FIELDS_MAX, HEAD_MAX, Malformed};

/// The line of a chunk's size, with its extensions.
pub(super) const CHUNK_LINE_MAX: usize = 4096;

/// The body is not as long as its head said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// How a body is framed on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// There is none.
    Nothing,
    /// So many bytes are to come, as the head says.
    Length(u64),
    /// In chunks.
    Chunked,
    /// As it is; it ends with the connection.
    UntilClose,
}

impl Encoder {
    /// Appends the field that tells the reader.
    pub(super) fn put_framing(self, out: &mut BytesMut) {
        match self {
            Self::Nothing | Self::UntilClose => {}
            Self::Length(length) => {
                put_field(out, &header::CONTENT_LENGTH, length.to_string().as_bytes());
            }
            Self::Chunked => put_field(out, &header::TRANSFER_ENCODING, b"chunked"),
        }
    }

    /// Appends a frame, or the end of the body. `last`: nothing comes after the frame. Says whether the body has ended.
    pub(crate) fn put(&mut self, out: &mut BytesMut, frame: Option<Frame<Bytes>>, last: bool) -> Result<bool, Broken> {
        let is_trailers = frame.as_ref().is_some_and(Frame::is_trailers);
        let ended = frame.is_none() || is_trailers || last;
        let data = frame.as_ref().and_then(Frame::data_ref);
        match self {
            Self::Nothing => {}
            Self::UntilClose => data.into_iter().for_each(|data| out.extend_from_slice(data)),
            Self::Length(left) => {
                let data = data.map_or(&[][..], |data| data);
                *left = left.checked_sub(data.len() as u64).ok_or(Broken)?;
                out.extend_from_slice(data);
                if ended && *left > 0 {
                    return Err(Broken);
                }
            }
            Self::Chunked => {
                data.into_iter().for_each(|data| put_chunk(out, data));
                if ended {
                    put_last_chunk(out, frame.as_ref().and_then(Frame::trailers_ref));
                }
            }
        }
        Ok(ended)
    }
}

/// Appends one chunk. An empty one would end the body, and is left out.
pub(super) fn put_chunk(out: &mut BytesMut, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    out.reserve(data.len() + 20);
    out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a chunked body.
pub(super) fn put_last_chunk(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        put_field(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Where in a body that comes we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// So many bytes are to come.
    Length(u64),
    /// Everything until the connection ends.
    UntilClose,
    /// Before a chunk's size.
    ChunkSize,
    /// In a chunk, with so many bytes to come.
    Chunk(u64),
    /// After a chunk's data.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    /// At the end.
    Ended,
}

impl Decoder {
    /// Takes the next frame off the front of `read`. `None`: the body has ended, or more bytes are needed.
    pub(crate) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
        loop {
            match *self {
                Self::Ended => return Ok(None),
                _ if read.is_empty() => return Ok(None),
                Self::UntilClose => return Ok(Some(Frame::data(read.split().freeze()))),
                Self::Length(left) => {
                    let (data, left) = take(read, left);
                    *self = if left == 0 { Self::Ended } else { Self::Length(left) };
                    return Ok(Some(Frame::data(data)));
                }
                Self::Chunk(left) => {
                    let (data, left) = take(read, left);
                    *self = if left == 0 { Self::ChunkEnd } else { Self::Chunk(left) };
                    return Ok(Some(Frame::data(data)));
                }
                Self::ChunkSize => {
                    let Some((length, size)) = chunk_line(read)? else { return Ok(None) };
                    read.advance(length);
                    *self = if size == 0 { Self::Trailers } else { Self::Chunk(size) };
                }
                Self::ChunkEnd => match &read[..] {
                    [b'\r', b'\n', ..] => {
                        read.advance(2);
                        *self = Self::ChunkSize;
                    }
                    [b'\r'] => return Ok(None),
                    _ => return Err(Malformed::Chunk),
                },
                Self::Trailers => return self.trailers(read),
            }
        }
    }

    fn trailers(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
        if read.starts_with(b"\r\n") {
            read.advance(2);
            *self = Self::Ended;
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        match httparse::parse_headers(read, &mut fields) {
            // The line of the last chunk ended in CRLF, and so must these.
            Ok(httparse::Status::Complete((length, fields)))
                if length <= HEAD_MAX && line_ends(&read[..length]) == LineEnds::Crlf =>
            {
                let places = Places::of(read, fields);
                let bytes = read.split_to(length).freeze();
                *self = Self::Ended;
                Ok(Some(Frame::trailers(places.headers(&bytes).ok_or(Malformed::Trailers)?)))
            }
            Ok(httparse::Status::Partial) if read.len() <= HEAD_MAX => Ok(None),
            _ => Err(Malformed::Trailers),
        }
    }

    /// The end of the connection came: the end of the body, or a break.
    pub(crate) fn close(&mut self) -> Result<(), Malformed> {
        match self {
            Self::Ended => Ok(()),
            Self::UntilClose => {
                *self = Self::Ended;
                Ok(())
            }
            _ => Err(Malformed::Short),
        }
    }

    /// Whether nothing is to come.
    pub(crate) fn has_ended(&self) -> bool {
        *self == Self::Ended
    }
}

/// Reads the line of a chunk's size (RFC 9112 s.7.1): how long it is, and the size. `None`: more bytes are needed.
///
/// Extensions mean nothing to us, and are not taken apart. But a line that another reader could end elsewhere is refused: no
/// control character but a tab may be in it, and a quoted string ends before the line does.
fn chunk_line(read: &[u8]) -> Result<Option<(usize, u64)>, Malformed> {
    let line = &read[..read.len().min(CHUNK_LINE_MAX)];
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let mut size = 0_u64;
    for digit in line[..digits].iter().filter_map(|&b| char::from(b).to_digit(16)) {
        size = size.checked_mul(16).ok_or(Malformed::Chunk)? + u64::from(digit);
    }
    let rest = &line[digits..];
    let control = rest.iter().position(|&b| b.is_ascii_control() && b != b'\t');
    let (extensions, end) = rest.split_at(control.unwrap_or(rest.len()));
    // Whitespace may stand before a semicolon, and some senders fill up the line with it.
    let is_extension = extensions.trim_ascii_start().first().is_none_or(|&b| b == b';');
    if digits == 0 || !is_extension {
        return Err(Malformed::Chunk);
    }
    match end {
        [b'\r', b'\n', ..] if !has_open_quote(extensions) => Ok(Some((digits + extensions.len() + 2, size))),
        [] | [b'\r'] if read.len() < CHUNK_LINE_MAX => Ok(None),
        _ => Err(Malformed::Chunk),
    }
}

/// Whether a quoted string (RFC 9110 s.5.6.4) has no end.
fn has_open_quote(text: &[u8]) -> bool {
    let (mut open, mut escaped) = (false, false);
    for &byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if open => escaped = true,
            b'"' => open = !open,
            _ => {}
        }
    }
    open
}

fn take(read: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let size = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
    (read.split_to(size).freeze(), left - size as u64)
}
