//! A request's body on its way upstream: counted, never collected.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use weft_telemetry::Failure;

use crate::error::{BodyError, is_malformed};
use crate::headers::{Reserved, strip_identity, strip_trailers};
use crate::server::ClientBody;

/// A request's body on its way upstream. Counts its bytes where the log can read them.
pub struct RequestBody {
    incoming: Option<ClientBody>,
    received: Rc<Cell<u64>>,
    state: Rc<Cell<BodyState>>,
    /// What only the mesh may say is taken out of trailers too.
    reserved: Option<Arc<Reserved>>,
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
pub struct Progress(Rc<Cell<BodyState>>);

impl Progress {
    /// Whether the last byte was read from the client.
    pub fn ended(&self) -> bool {
        self.0.get() == BodyState::Ended
    }

    /// What the client did wrong, if it is the client's fault that the request cannot be sent.
    pub fn broken(&self) -> Option<Failure> {
        match self.0.get() {
            BodyState::Open | BodyState::Ended => None,
            BodyState::Gone => Some(Failure::ClientGone),
            BodyState::Malformed => Some(Failure::BadRequest),
        }
    }
}

impl RequestBody {
    /// Passes `incoming` on.
    pub fn new(incoming: ClientBody, received: Rc<Cell<u64>>, reserved: &Arc<Reserved>) -> Self {
        let is_empty = incoming.is_end_stream();
        Self {
            incoming: (!is_empty).then_some(incoming),
            received,
            state: Rc::new(Cell::new(if is_empty { BodyState::Ended } else { BodyState::Open })),
            reserved: (!is_empty).then(|| reserved.clone()),
        }
    }

    /// For the timer of the request.
    pub fn progress(&self) -> Progress {
        Progress(self.state.clone())
    }

    /// No body.
    pub fn empty() -> Self {
        let state = Rc::new(Cell::new(BodyState::Ended));
        Self { incoming: None, received: Rc::default(), state, reserved: None }
    }

    /// Whether there is nothing to send, so that the request can be sent again.
    pub fn is_empty(&self) -> bool {
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
                } else if let (Some(trailers), Some(reserved)) = (frame.trailers_mut(), &this.reserved) {
                    strip_trailers(trailers);
                    strip_identity(trailers, reserved);
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
