//! Heads of requests (RFC 9112 s.3).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::{Method, Request, Uri, Version, header};

use super::fields::{
    LineEnds, Places, content_length, declared_length, is_chunked, keeps_alive, line_ends, put_field, put_fields, size,
};
use super::{Asked, Decoder, Encoder, FIELDS_MAX, HEAD_MAX, Malformed};
use crate::headers::has_option;

/// A request's head.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) request: Request<()>,
    /// How the body is framed; an error if no two readers can be sure to agree on it.
    pub(crate) body: Result<Decoder, Malformed>,
    /// What decides how it can be answered.
    pub(crate) asked: Asked,
    /// Whether the client waits, for as long as it likes, for leave to send its body (RFC 9110 s.10.1.1).
    pub(crate) awaits_continue: bool,
}

/// Takes a head off the front of `read`. `None`: more bytes are needed.
pub(crate) fn take_request(read: &mut BytesMut) -> Result<Option<RequestHead>, Malformed> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    let length = match parsed.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => length,
        Ok(httparse::Status::Partial) if read.len() <= HEAD_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Malformed::HeadTooLarge),
        Err(_) => return Err(Malformed::Head),
    };
    if line_ends(&read[..length]) == LineEnds::Mixed {
        return Err(Malformed::LineEnds);
    }
    let version_11 = parsed.version == Some(1);
    let method = Method::from_bytes(parsed.method.unwrap_or_default().as_bytes()).map_err(|_| Malformed::Head)?;
    let target = parsed.path.unwrap_or_default();
    let start = target.as_ptr() as usize - read.as_ptr() as usize;
    let target = start..start + target.len();
    let places = Places::of(read, parsed.headers);
    let head = read.split_to(length).freeze();

    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_maybe_shared(head.slice(target)).map_err(|_| Malformed::Head)?;
    *request.version_mut() = if version_11 { Version::HTTP_11 } else { Version::HTTP_10 };
    *request.headers_mut() = places.headers(&head).ok_or(Malformed::Head)?;
    if !version_11 {
        request.headers_mut().remove(header::EXPECT); // HTTP/1.0 expects nothing (RFC 9110 s.10.1.1)
    }
    let headers = request.headers();
    let body = framing(&request, version_11);
    // What follows a CONNECT that is refused may be anything.
    let keep_alive = keeps_alive(headers, version_11) && body.is_ok() && *request.method() != Method::CONNECT;
    let asked = Asked {
        method: request.method().clone(),
        version: request.version(),
        keep_alive,
        trailers: has_option(headers, &header::TE, "trailers"),
    };
    let awaits_continue = has_option(headers, &header::EXPECT, "100-continue");
    Ok(Some(RequestHead { request, body, asked, awaits_continue }))
}

/// RFC 9112 s.6.3, without what it leaves to the reader's goodwill.
fn framing(request: &Request<()>, version_11: bool) -> Result<Decoder, Malformed> {
    let headers = request.headers();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some_and(|length| length.as_bytes().contains(&b',')) || lengths.next().is_some() {
        return Err(Malformed::ContentLength);
    }
    let length = content_length(headers)?;
    let chunked = is_chunked(headers, version_11)?;
    let (uri, is_connect) = (request.uri(), *request.method() == Method::CONNECT);
    // Authority-form for CONNECT, and for nothing else.
    if is_connect != uri.path_and_query().is_none() {
        return Err(Malformed::Target);
    }
    // What follows CONNECT is for the other end (RFC 9110 s.9.3.6).
    if is_connect {
        return Ok(Decoder::Ended);
    }
    match (length, chunked) {
        (Some(_), true) => Err(Malformed::TwoFramings),
        (None, true) => Ok(Decoder::ChunkSize),
        (None | Some(0), false) => Ok(Decoder::Ended),
        (Some(length), false) => Ok(Decoder::Length(length)),
    }
}

/// Appends the head of a request and says how its body is to be sent.
pub(crate) fn put_request(out: &mut BytesMut, request: &Request<()>, has_body: bool) -> Encoder {
    let headers = request.headers();
    let encoder = match (has_body, declared_length(headers)) {
        (false, _) => Encoder::Nothing,
        (true, Some(length)) => Encoder::Length(length),
        (true, None) => Encoder::Chunked,
    };
    out.reserve(64 + size(headers));
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.extend_from_slice(b" ");
    let target = request.uri().path_and_query().map_or("/", |path| path.as_str());
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    put_fields(out, headers);
    let expects_body = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    if encoder == Encoder::Nothing && expects_body {
        put_field(out, &header::CONTENT_LENGTH, b"0");
    }
    encoder.put_framing(out);
    out.extend_from_slice(b"\r\n");
    encoder
}
