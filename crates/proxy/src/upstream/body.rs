//! Bodies on their way: counted, never collected.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use weft_telemetry::Failure;

use super::h1::H1Body;
use super::h2::H2Body;
use crate::config::Listener;
use crate::downstream::ClientBody;
use crate::h1::Malformed;
use crate::h2_stream;
use crate::headers::{strip_identity, strip_trailers};

/// Any failure of a body; the reader sees it as a broken message.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body on its way upstream. Counts its bytes where the log can read them.
pub(crate) struct RequestBody {
    incoming: Option<ClientBody>,
    received: Rc<Cell<u64>>,
    state: Rc<Cell<BodyState>>,
    /// Whose identity headers are taken out of trailers too.
    listener: Option<Arc<Listener>>,
}

/// How far a request's body has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyState {
    Open,
    /// The last byte was read from the client.
    Ended,
    /// The client went away.
    Gone,
    /// The client broke the framing.
    Malformed,
}

/// Tells how far a request's body has come, to whom does not hold it.
pub(crate) struct Progress(Rc<Cell<BodyState>>);

impl Progress {
    /// Whether the last byte was read from the client.
    pub(crate) fn ended(&self) -> bool {
        self.0.get() == BodyState::Ended
    }

    /// What the client did wrong, if it is the client's fault that the request cannot be sent.
    pub(crate) fn broken(&self) -> Option<Failure> {
        match self.0.get() {
            BodyState::Open | BodyState::Ended => None,
            BodyState::Gone => Some(Failure::ClientGone),
            BodyState::Malformed => Some(Failure::BadRequest),
        }
    }
}

impl RequestBody {
    /// Passes `incoming` on.
    pub(crate) fn new(incoming: ClientBody, received: Rc<Cell<u64>>, listener: &Arc<Listener>) -> Self {
        let is_empty = incoming.is_end_stream();
        Self {
            incoming: (!is_empty).then_some(incoming),
            received,
            state: Rc::new(Cell::new(if is_empty { BodyState::Ended } else { BodyState::Open })),
            listener: (!is_empty).then(|| listener.clone()),
        }
    }

    /// For the timer of the request.
    pub(crate) fn progress(&self) -> Progress {
        Progress(self.state.clone())
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        let state = Rc::new(Cell::new(BodyState::Ended));
        Self { incoming: None, received: Rc::default(), state, listener: None }
    }

    /// Whether there is nothing to send, so that the request can be sent again.
    pub(crate) fn is_empty(&self) -> bool {
        self.incoming.is_none()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let mut frame = ready!(incoming.poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.received.set(this.received.get() + data.len() as u64);
                } else if let (Some(trailers), Some(listener)) = (frame.trailers_mut(), &this.listener) {
                    strip_trailers(trailers);
                    strip_identity(trailers, listener);
                }
            }
            Some(Err(error)) => {
                this.state.set(if is_malformed(error) { BodyState::Malformed } else { BodyState::Gone });
                return Poll::Ready(frame);
            }
            None => {}
        }
        if frame.is_none() || incoming.is_end_stream() {
            this.state.set(BodyState::Ended);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(ClientBody::is_end_stream)
    }
}

/// Whether a body broke off because its sender broke the framing (a wrong chunk size), rather than the connection.
pub(crate) fn is_malformed(error: &BodyError) -> bool {
    error.downcast_ref::<Malformed>().is_some_and(|error| *error != Malformed::Short)
}

/// A response's body on its way to the client.
pub(crate) enum UpstreamBody {
    /// From an HTTP/1.1 endpoint.
    H1(H1Body),
    /// From an HTTP/2 endpoint.
    H2(H2Body),
    /// Made here.
    Whole(Option<Bytes>),
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::H1(body) => body.poll_frame(cx),
            Self::H2(body) => h2_stream::poll_frame(&mut body.stream, cx),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(body) => body.is_end_stream(),
            Self::H2(body) => body.stream.is_end_stream(),
            Self::Whole(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(body) => body.size_hint(),
            Self::H2(_) => SizeHint::default(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}
