//! HTTP/1.1 as bytes (RFC 9112): heads and bodies, in and out, for both ends of a connection. No I/O.
//!
//! What a client sends is held to the letter, since two readers of one message must not find two requests in it; what an app
//! sends is read as leniently as that allows. Where a line ends is never a matter of goodwill: the lines of a head all end in
//! CRLF, or all in a bare LF, which RFC 9112 s.2.2 lets a reader take; those of chunks and trailers end in CRLF.

mod body;
mod fields;
#[doc(hidden)]
pub mod fuzz;
mod request;
mod response;
#[cfg(test)]
mod tests;

use weft_telemetry::Failure;

pub(crate) use body::{Broken, Decoder, Encoder};
pub(crate) use fields::size as fields_size;
pub(crate) use request::{RequestHead, put_request, take_request};
pub(crate) use response::{Asked, ResponseHead, Said, put_interim, put_response, take_response};

/// A head, or trailers, may have so many bytes.
pub(crate) const HEAD_MAX: usize = 64 * 1024;
/// And so many fields.
const FIELDS_MAX: usize = 256;

/// What came is not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A head cannot be read.
    #[error("the head is not one of HTTP/1.1 (RFC 9112 s.2.1)")]
    Head,
    /// Two readers could see two heads in it.
    #[error("some lines of the head end in CRLF, and some in a bare LF (RFC 9112 s.2.2)")]
    LineEnds,
    /// A head is larger than we keep.
    #[error("the head has more than {HEAD_MAX} bytes or {FIELDS_MAX} fields")]
    HeadTooLarge,
    /// The target does not suit the method.
    #[error("the target is not in a form that the method takes (RFC 9112 s.3.2)")]
    Target,
    /// The length is not one number.
    #[error("there are several content lengths, or one that is no number (RFC 9112 s.6.3)")]
    ContentLength,
    /// A coding that we cannot undo.
    #[error("no transfer coding but chunked is understood (RFC 9112 s.6.1)")]
    TransferCoding,
    /// A length and chunks.
    #[error("send a content-length or a transfer-encoding, not both (RFC 9112 s.6.1)")]
    TwoFramings,
    /// A chunk cannot be read.
    #[error("a chunk is framed wrongly (RFC 9112 s.7.1)")]
    Chunk,
    /// Trailers cannot be read.
    #[error("the trailers cannot be read (RFC 9112 s.7.1.2)")]
    Trailers,
    /// The connection ended before the message.
    #[error("the message ended in the middle of its body")]
    Short,
}

impl Malformed {
    /// What a client that sends such a thing is told.
    pub fn failure(self) -> Failure {
        if self == Self::HeadTooLarge { Failure::HeadTooLarge } else { Failure::BadRequest }
    }
}
