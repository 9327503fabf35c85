//! Header fields (RFC 9112 s.5), and what they say of a message's framing and of its connection.

use std::time::Duration;

use crate::headers::has_option;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::Malformed;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

pub(super) fn put_field(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the fields of a head, but for those that frame the body: what they say is said by the writer.
pub(super) fn put_fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            put_field(out, name, value.as_bytes());
        }
    }
}

/// How many bytes `put_fields` appends, at most.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// The content length that a head of our own making declares.
pub(super) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How the lines of a head end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnds {
    Crlf,
    /// As a reader may take it (RFC 9112 s.2.2).
    Lf,
    /// A reader that takes CRLF only sees other fields than one that takes both.
    Mixed,
}

/// How the lines of a head end that was read to its end: httparse takes no CR but before an LF.
pub(super) fn line_ends(head: &[u8]) -> LineEnds {
    let count = |wanted| memchr::memchr_iter(wanted, head).count();
    match (count(b'\r'), count(b'\n')) {
        (0, _) => LineEnds::Lf,
        (carriage_returns, lines) if carriage_returns == lines => LineEnds::Crlf,
        _ => LineEnds::Mixed,
    }
}

/// Where names and values are in a head, so that values can share its bytes.
pub(super) struct Places(Vec<[usize; 4]>);

impl Places {
    pub(super) fn of(whole: &[u8], fields: &[httparse::Header<'_>]) -> Self {
        let start = whole.as_ptr() as usize;
        let at = |part: &[u8]| part.as_ptr() as usize - start;
        let place = |field: &httparse::Header<'_>| {
            let (name, value) = (at(field.name.as_bytes()), at(field.value));
            [name, name + field.name.len(), value, value + field.value.len()]
        };
        Self(fields.iter().map(place).collect())
    }

    pub(super) fn headers(&self, head: &Bytes) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.0.len());
        for &[name, name_end, value, value_end] in &self.0 {
            let name = HeaderName::from_bytes(&head[name..name_end]).ok()?;
            let value = HeaderValue::from_maybe_shared(head.slice(value..value_end)).ok()?;
            headers.try_append(name, value).ok()?;
        }
        Some(headers)
    }
}

/// The content length, which may be said several times (RFC 9110 s.8.6), but not in several ways.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut known = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for part in value.as_bytes().split(|&b| b == b',') {
            let digits = part.trim_ascii();
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
            if length.is_none() || known.is_some_and(|known| Some(known) != length) {
                return Err(Malformed::ContentLength);
            }
            known = length;
        }
    }
    Ok(known)
}

/// Whether the body comes in chunks. No other coding is understood, and HTTP/1.0 knows none.
pub(super) fn is_chunked(headers: &HeaderMap, version_11: bool) -> Result<bool, Malformed> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(false) };
    let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() && version_11;
    if is_chunked { Ok(true) } else { Err(Malformed::TransferCoding) }
}

/// Whether the connection stays open after the message (RFC 9112 s.9.3).
pub(super) fn keeps_alive(headers: &HeaderMap, version_11: bool) -> bool {
    if version_11 {
        !has_option(headers, &header::CONNECTION, "close")
    } else {
        has_option(headers, &header::CONNECTION, "keep-alive")
    }
}

/// How long the sender keeps an idle connection, if it says (`Keep-Alive: timeout=5`, RFC 2068 s.19.7.1.1). Whole seconds.
pub(super) fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(KEEP_ALIVE).iter().filter_map(|value| value.to_str().ok());
    let mut parameters = values.flat_map(|value| value.split(',')).filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}
