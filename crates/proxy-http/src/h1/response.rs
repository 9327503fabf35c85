//! Heads of responses (RFC 9112 s.4).

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::SizeHint;

use super::fields::{
    LineEnds, Places, content_length, declared_length, is_chunked, keep_alive_timeout, keeps_alive, line_ends,
    put_field, put_fields, size,
};
use super::{Decoder, Encoder, FIELDS_MAX, HEAD_MAX, Malformed};

/// What an app says to a request.
#[derive(Debug)]
pub(crate) enum Said {
    /// A head that comes before the answer (RFC 9110 s.15.2). Others may follow, and the answer must.
    Interim(Response<()>),
    /// The head of the answer.
    Answer(ResponseHead),
}

/// A response's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) response: Response<()>,
    pub(crate) body: Decoder,
    /// Whether the connection can carry another request after the body.
    pub(crate) reusable: bool,
    /// How long the app keeps an idle connection, if it says.
    pub(crate) kept_for: Option<Duration>,
}

/// Takes a head off the front of `read`. `None`: more bytes are needed.
pub(crate) fn take_response(read: &mut BytesMut, method: &Method) -> Result<Option<Said>, Malformed> {
    let Some((mut response, version_11)) = take_one(read)? else { return Ok(None) };
    let status = response.status();
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Some(Said::Interim(response)));
    }
    let (body, delimited) = framing(method, &mut response, version_11)?;
    let reusable = keeps_alive(response.headers(), version_11) && delimited;
    let kept_for = keep_alive_timeout(response.headers());
    Ok(Some(Said::Answer(ResponseHead { response, body, reusable, kept_for })))
}

fn take_one(read: &mut BytesMut) -> Result<Option<(Response<()>, bool)>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    let length = match parser.parse_response_with_uninit_headers(&mut parsed, read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if read.len() <= HEAD_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Malformed::HeadTooLarge),
        Err(_) => return Err(Malformed::Head),
    };
    if line_ends(&read[..length]) == LineEnds::Mixed {
        return Err(Malformed::LineEnds);
    }
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

/// RFC 9112 s.6.3. The second value says whether the end of the body can be told from the end of the connection. Leaves no
/// content length in the head that the next reader could take for another one.
fn framing(method: &Method, response: &mut Response<()>, version_11: bool) -> Result<(Decoder, bool), Malformed> {
    let headers = response.headers_mut();
    let length = content_length(headers)?;
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if !has_body(method, response.status()) {
        return Ok((Decoder::Ended, true));
    }
    let headers = response.headers_mut();
    if is_chunked(headers, version_11)? {
        // Both framings at once may be an attempt at smuggling: chunked counts, and the connection is not used again.
        headers.remove(header::CONTENT_LENGTH);
        return Ok((Decoder::ChunkSize, length.is_none()));
    }
    Ok(match length {
        Some(0) => (Decoder::Ended, true),
        Some(length) => (Decoder::Length(length), true),
        None => (Decoder::UntilClose, false),
    })
}

/// Whether bytes follow the head of a response to `method`, whatever its fields say (RFC 9112 s.6.3).
fn has_body(method: &Method, status: StatusCode) -> bool {
    let never = [StatusCode::SWITCHING_PROTOCOLS, StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    !never && *method != Method::HEAD && !(*method == Method::CONNECT && status.is_success())
}

/// What of a request decides how it can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Whether the connection is to stay open after the response.
    pub(crate) keep_alive: bool,
    /// Whether the client reads trailers (RFC 9110 s.10.1.4).
    pub(crate) trailers: bool,
}

impl Asked {
    /// Of a request that cannot be read.
    pub(crate) fn unknown() -> Self {
        Self { method: Method::GET, version: Version::HTTP_11, keep_alive: false, trailers: false }
    }

    /// Whether such a response makes the connection a tunnel.
    pub(crate) fn switches(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self.method == Method::CONNECT && status.is_success())
    }
}

/// Appends a head that comes before the answer. No body follows it.
pub(crate) fn put_interim(out: &mut BytesMut, head: &Response<()>) {
    put_status_line(out, head.status(), head.headers());
    put_fields(out, head.headers());
    out.extend_from_slice(b"\r\n");
}

/// With room for the fields.
fn put_status_line(out: &mut BytesMut, status: StatusCode, headers: &HeaderMap) {
    out.reserve(64 + size(headers));
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Appends the head of a response and says how its body is to be sent. A connection whose end is the end of the body cannot
/// stay open: see [`Encoder::UntilClose`].
pub(crate) fn put_response(out: &mut BytesMut, response: &Response<()>, asked: &Asked, body: &SizeHint) -> Encoder {
    let (headers, status) = (response.headers(), response.status());
    let declared = declared_length(headers);
    let encoder = if !has_body(&asked.method, status) {
        Encoder::Nothing
    } else if let Some(length) = declared.or(body.exact()) {
        Encoder::Length(length)
    } else if asked.version == Version::HTTP_11 {
        Encoder::Chunked
    } else {
        Encoder::UntilClose
    };
    put_status_line(out, status, headers);
    put_fields(out, headers);
    match (encoder, declared) {
        // The length of what a GET would bring (RFC 9110 s.8.6).
        (Encoder::Nothing, Some(length)) if asked.method == Method::HEAD || status == StatusCode::NOT_MODIFIED => {
            Encoder::Length(length).put_framing(out);
        }
        _ => encoder.put_framing(out),
    }
    if !asked.switches(status) {
        if !asked.keep_alive || encoder == Encoder::UntilClose {
            put_field(out, &header::CONNECTION, b"close");
        } else if asked.version == Version::HTTP_10 {
            put_field(out, &header::CONNECTION, b"keep-alive");
        }
    }
    out.extend_from_slice(b"\r\n");
    encoder
}
