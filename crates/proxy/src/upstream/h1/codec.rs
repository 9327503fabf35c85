//! HTTP/1.1 as bytes (RFC 9112): heads out, heads in, bodies in. No I/O.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Frame;

/// A response's head, or its trailers, may have so many bytes.
const HEAD_MAX: usize = 64 * 1024;
/// And so many fields.
const FIELDS_MAX: usize = 256;
/// The line of a chunk's size, with its extensions.
const CHUNK_LINE_MAX: usize = 4096;

/// What an endpoint sent is not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the head of the response cannot be read")]
    Head,
    #[error("the head of the response is larger than {HEAD_MAX} bytes")]
    HeadTooLarge,
    #[error("the response has several content lengths, or one that is no number")]
    ContentLength,
    #[error("the response has a transfer coding other than chunked")]
    TransferCoding,
    #[error("a chunk of the response is framed wrongly")]
    Chunk,
    #[error("the trailers of the response cannot be read")]
    Trailers,
    #[error("the response ended in the middle of its body")]
    Short,
}

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// There is none.
    Nothing,
    /// So many bytes, as its head says.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Appends the head of a request and says how its body is to be sent.
pub(super) fn put_head(out: &mut BytesMut, request: &Request<()>, has_body: bool) -> Sending {
    let headers = request.headers();
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let sending = match (has_body, declared) {
        (false, _) => Sending::Nothing,
        (true, Some(length)) => Sending::Length(length),
        (true, None) => Sending::Chunked,
    };
    out.reserve(64 + headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>());
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.extend_from_slice(b" ");
    let target = request.uri().path_and_query().map_or("/", |path| path.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in headers {
        // What frames the body is said by us.
        if name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING {
            put_field(out, name, value.as_bytes());
        }
    }
    let expects_body = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    match sending {
        Sending::Nothing if expects_body => put_field(out, &header::CONTENT_LENGTH, b"0"),
        Sending::Nothing => {}
        Sending::Length(length) => put_field(out, &header::CONTENT_LENGTH, length.to_string().as_bytes()),
        Sending::Chunked => put_field(out, &header::TRANSFER_ENCODING, b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
    sending
}

fn put_field(out: &mut BytesMut, name: &HeaderName, value: &[u8]) {
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
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

/// A response's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) body: Decoder,
    /// Whether the connection can carry another request after the body.
    pub(super) reusable: bool,
}

/// Takes a head off the front of `read`, with the 1xx ones before it (but 101). `None`: more bytes are needed.
pub(super) fn take_head(read: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
    loop {
        let Some((mut response, version_11)) = take_one_head(read)? else { return Ok(None) };
        let status = response.status();
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let (body, delimited) = framing(method, &response, version_11)?;
        if body == Decoder::ChunkSize {
            response.headers_mut().remove(header::CONTENT_LENGTH); // overridden (RFC 9112 s.6.3)
        }
        let connection = |option: &str| has_option(response.headers(), option);
        let kept = if version_11 { !connection("close") } else { connection("keep-alive") };
        return Ok(Some(Head { response, body, reusable: kept && delimited }));
    }
}

fn take_one_head(read: &mut BytesMut) -> Result<Option<(Response<()>, bool)>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if read.len() <= HEAD_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Malformed::HeadTooLarge),
        Err(_) => return Err(Malformed::Head),
    };
    let version_11 = parsed.version == Some(1);
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| Malformed::Head)?;
    let places = Places::of(read, parsed.headers);
    let head = read.split_to(length).freeze();
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_11;
    *response.headers_mut() = places.headers(&head).ok_or(Malformed::Head)?;
    Ok(Some((response, version_11)))
}

/// Where names and values are in a head, so that values can share its bytes.
struct Places(Vec<[usize; 4]>);

impl Places {
    fn of(whole: &[u8], fields: &[httparse::Header<'_>]) -> Self {
        let start = whole.as_ptr() as usize;
        let at = |part: &[u8]| part.as_ptr() as usize - start;
        let place = |field: &httparse::Header<'_>| {
            let (name, value) = (at(field.name.as_bytes()), at(field.value));
            [name, name + field.name.len(), value, value + field.value.len()]
        };
        Self(fields.iter().map(place).collect())
    }

    fn headers(&self, head: &Bytes) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.0.len());
        for &[name, name_end, value, value_end] in &self.0 {
            let name = HeaderName::from_bytes(&head[name..name_end]).ok()?;
            let value = HeaderValue::from_maybe_shared(head.slice(value..value_end)).ok()?;
            headers.try_append(name, value).ok()?;
        }
        Some(headers)
    }
}

/// RFC 9112 s.6.3. The second value says whether the end of the body can be told from the end of the connection.
fn framing(method: &Method, response: &Response<()>, version_11: bool) -> Result<(Decoder, bool), Malformed> {
    let status = response.status();
    if *method == Method::HEAD
        || matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return Ok((Decoder::Ended, true));
    }
    let length = content_length(response.headers())?;
    let mut codings = response.headers().get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() && version_11;
        // Both framings at once may be an attempt at smuggling: chunked counts, and the connection is not used again.
        return if is_chunked { Ok((Decoder::ChunkSize, length.is_none())) } else { Err(Malformed::TransferCoding) };
    }
    Ok(match length {
        Some(0) => (Decoder::Ended, true),
        Some(length) => (Decoder::Length(length), true),
        None => (Decoder::UntilClose, false),
    })
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
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

fn has_option(headers: &HeaderMap, option: &str) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(option)))
}

/// Where in a response's body we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
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
    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Malformed> {
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
                Self::ChunkSize => match httparse::parse_chunk_size(read) {
                    _ if !read[0].is_ascii_hexdigit() => return Err(Malformed::Chunk),
                    Ok(httparse::Status::Complete((length, size))) if length <= CHUNK_LINE_MAX => {
                        read.advance(length);
                        *self = if size == 0 { Self::Trailers } else { Self::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) if read.len() <= CHUNK_LINE_MAX => return Ok(None),
                    _ => return Err(Malformed::Chunk),
                },
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
            Ok(httparse::Status::Complete((length, fields))) if length <= HEAD_MAX => {
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
    pub(super) fn close(&mut self) -> Result<(), Malformed> {
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
    pub(super) fn has_ended(&self) -> bool {
        *self == Self::Ended
    }
}

fn take(read: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let size = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
    (read.split_to(size).freeze(), left - size as u64)
}

#[cfg(test)]
mod tests;
