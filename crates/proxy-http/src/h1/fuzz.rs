//! For the fuzz targets `request` and `response`: messages as a connection reads them, out of bytes that are there already.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Uri};

use super::{Decoder, Malformed, Said, take_request, take_response};

/// What came after a head.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Body {
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// What came after the message.
    pub rest: Vec<u8>,
}

/// What an app answered.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Answered {
    /// What came before the answer.
    pub interim: Vec<(StatusCode, HeaderMap)>,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
    /// Whether the connection can carry another request.
    pub reusable: bool,
}

/// What a client asked.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Body,
    pub keep_alive: bool,
}

/// The response to a request of this method, whose bytes arrive in these pieces before the connection ends.
///
/// # Errors
/// Why it is no response, or no whole one.
pub fn response<'a>(method: &Method, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Answered, String> {
    let mut pieces = pieces.into_iter();
    let mut read = BytesMut::new();
    let mut interim = Vec::new();
    let head = loop {
        match head(&mut read, &mut pieces, |read| take_response(read, method)).map_err(|error| error.to_string())? {
            Said::Answer(head) => break head,
            Said::Interim(head) => interim.push((head.status(), head.headers().clone())),
        }
    };
    let body = body(&mut read, &mut pieces, head.body).map_err(|error| error.to_string())?;
    let (parts, ()) = head.response.into_parts();
    Ok(Answered { interim, status: parts.status, headers: parts.headers, body, reusable: head.reusable })
}

/// The request whose bytes arrive in these pieces.
///
/// # Errors
/// Why it is no request, or no whole one.
pub fn request<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Asked, String> {
    let mut pieces = pieces.into_iter();
    let mut read = BytesMut::new();
    let head = head(&mut read, &mut pieces, take_request).map_err(|error| error.to_string())?;
    let body =
        head.body.and_then(|decoder| body(&mut read, &mut pieces, decoder)).map_err(|error| error.to_string())?;
    let (parts, ()) = head.request.into_parts();
    Ok(Asked { method: parts.method, uri: parts.uri, headers: parts.headers, body, keep_alive: head.asked.keep_alive })
}

fn head<'a, T>(
    read: &mut BytesMut,
    pieces: &mut impl Iterator<Item = &'a [u8]>,
    take: impl Fn(&mut BytesMut) -> Result<Option<T>, Malformed>,
) -> Result<T, Malformed> {
    loop {
        if !read.is_empty()
            && let Some(head) = take(read)?
        {
            return Ok(head);
        }
        read.extend_from_slice(pieces.next().ok_or(Malformed::Short)?);
    }
}

fn body<'a>(
    read: &mut BytesMut,
    pieces: &mut impl Iterator<Item = &'a [u8]>,
    mut decoder: Decoder,
) -> Result<Body, Malformed> {
    let (mut data, mut trailers) = (Vec::new(), None);
    loop {
        match decoder.next(read)?.map(|frame| frame.into_data()) {
            Some(Ok(more)) => data.extend_from_slice(&more),
            Some(Err(frame)) => trailers = frame.into_trailers().ok(),
            None if decoder.has_ended() => break,
            None => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None => break decoder.close()?,
            },
        }
    }
    pieces.for_each(|piece| read.extend_from_slice(piece));
    Ok(Body { data, trailers, rest: read.to_vec() })
}
