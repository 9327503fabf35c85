//! A request as it comes from a client, in either HTTP.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::Frame;

use super::interim::Interim;
use super::wire;
use crate::error::BodyError;
use crate::h1::Malformed;
use crate::h2_stream;
use crate::way::Switched;

/// One request of a client.
pub struct ClientRequest {
    /// Method, target and fields.
    pub head: Request<()>,
    /// What follows the head.
    pub body: ClientBody,
    /// Why the body cannot be read, if so: such a request can only be refused.
    pub fault: Option<Malformed>,
    /// Where the client hears what comes before the answer.
    pub interim: Interim,
    /// For a request that wants its connection (or stream) for itself: comes when the client has been told that it has it.
    pub switched: Option<Switched>,
}

/// A request's body as it comes.
pub enum ClientBody {
    /// There is none.
    Empty,
    /// Over HTTP/1.1.
    H1(wire::Body),
    /// Over HTTP/2.
    H2(::h2::RecvStream),
}

impl ClientBody {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::H1(body) => body.poll_frame(cx),
            Self::H2(stream) => h2_stream::poll_frame(stream, cx),
        }
    }

    /// Whether nothing is to come.
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::H1(body) => body.is_end_stream(),
            Self::H2(stream) => stream.is_end_stream(),
        }
    }
}
