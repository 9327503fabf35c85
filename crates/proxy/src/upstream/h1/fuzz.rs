//! For the fuzz target `response`: the codec as a connection uses it, on bytes that are there already.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};

use super::codec::{self, Malformed};

/// What an app answered.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Received {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Whether the connection can carry another request.
    pub reusable: bool,
    /// What came after the response.
    pub rest: Vec<u8>,
}

/// The response to a request of this method, whose bytes arrive in these pieces before the connection ends.
///
/// # Errors
/// Why it is no response, or no whole one.
pub fn receive<'a>(method: &Method, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Received, String> {
    receive_from(method, pieces.into_iter()).map_err(|error| error.to_string())
}

fn receive_from<'a>(method: &Method, mut pieces: impl Iterator<Item = &'a [u8]>) -> Result<Received, Malformed> {
    let mut read = BytesMut::new();
    let head = loop {
        if !read.is_empty()
            && let Some(head) = codec::take_head(&mut read, method)?
        {
            break head;
        }
        read.extend_from_slice(pieces.next().ok_or(Malformed::Short)?);
    };
    let (mut decoder, mut body, mut trailers) = (head.body, Vec::new(), None);
    loop {
        match decoder.next(&mut read)?.map(|frame| frame.into_data()) {
            Some(Ok(data)) => body.extend_from_slice(&data),
            Some(Err(frame)) => trailers = frame.into_trailers().ok(),
            None if decoder.has_ended() => break,
            None => match pieces.next() {
                Some(piece) => read.extend_from_slice(piece),
                None => break decoder.close()?,
            },
        }
    }
    let (status, headers) = (head.response.status(), head.response.headers().clone());
    pieces.for_each(|piece| read.extend_from_slice(piece));
    Ok(Received { status, headers, body, trailers, reusable: head.reusable, rest: read.to_vec() })
}
