//! The client's side of a request: HTTP/1.1 from apps, HTTP/2 from other sidecars and from apps that speak it.
//!
//! Both read requests, have them answered by `request::handle`, and write the answers; neither knows what is in them.

pub(crate) mod h1;
pub(crate) mod h2;
mod wire;

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use socket2::SockRef;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::h1::Malformed;
use crate::h2_stream;
use crate::tunnel::{Switched, Way};
use crate::upstream::BodyError;

/// One request of a client.
pub(crate) struct ClientRequest {
    pub(crate) head: Request<()>,
    pub(crate) body: ClientBody,
    /// Why the body cannot be read, if so: such a request can only be refused.
    pub(crate) fault: Option<Malformed>,
    /// For a request that wants its connection (or stream) for itself: comes when the client has been told that it has it.
    pub(crate) switched: Option<Switched>,
}

/// A request's body as it comes.
pub(crate) enum ClientBody {
    /// There is none.
    Empty,
    /// Over HTTP/1.1.
    H1(wire::Body),
    /// Over HTTP/2.
    H2(::h2::RecvStream),
}

impl ClientBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::H1(body) => body.poll_frame(cx),
            Self::H2(stream) => h2_stream::poll_frame(stream, cx),
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::H1(body) => body.is_end_stream(),
            Self::H2(stream) => stream.is_end_stream(),
        }
    }
}

/// A client's connection.
pub(crate) trait ClientIo: Way {
    /// What broke the connection, if something did: told even while nobody reads.
    fn broken(&self) -> Option<io::Error>;

    /// The end of the connection is to be a break, that no client takes for an orderly one.
    fn reset(&self);
}

impl ClientIo for TcpStream {
    fn broken(&self) -> Option<io::Error> {
        self.take_error().ok().flatten()
    }

    fn reset(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl ClientIo for TlsStream<BufReader<TcpStream>> {
    fn broken(&self) -> Option<io::Error> {
        self.get_ref().0.get_ref().broken()
    }

    fn reset(&self) {
        self.get_ref().0.get_ref().reset();
    }
}
