//! A response's body on its way to the client. It carries the exchange, so that the log line is written when the last byte
//! has left, or when the client or the endpoint broke off.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use weft_proxy_http::client::{H2Connection, StreamCount};
use weft_proxy_http::headers::strip_trailers;
use weft_proxy_http::{BodyError, Progress, TimedBody, UpstreamBody, is_against_protocol, is_malformed, is_reset};
use weft_telemetry::Failure;

use crate::deadline::Deadline;
use crate::exchange::Exchange;
use crate::upstream::{ActiveCount, EndpointPool};

/// What a response holds until its end.
pub(crate) struct Held {
    pub(crate) pool: Rc<EndpointPool>,
    /// An HTTP/2 stream counts on its connection; an HTTP/1.1 connection is in the body.
    pub(crate) _stream: Option<(Rc<H2Connection>, StreamCount)>,
    pub(crate) _active: ActiveCount,
}

/// The body that the client is sent.
pub(crate) struct ResponseBody {
    inner: UpstreamBody,
    exchange: Option<Box<Exchange>>,
    held: Option<Held>,
    deadline: Option<Deadline>,
    /// Bytes to come by `content-length`, if that says it. An HTTP/1.1 client has the whole body with the last of them, and
    /// nobody waits for the end of an HTTP/2 stream that comes in a frame of its own.
    left: Option<u64>,
    /// Of the request's body: a request that breaks off breaks its response.
    request: Option<Progress>,
    /// How long the client may take nothing of it.
    patience: Option<Duration>,
}

impl ResponseBody {
    /// A body that ends the exchange with its own end.
    pub(crate) fn new(inner: UpstreamBody, exchange: Box<Exchange>) -> Self {
        let patience = exchange.listener.patience();
        let mut body =
            Self { inner, exchange: Some(exchange), held: None, deadline: None, left: None, request: None, patience };
        if body.inner.is_end_stream() {
            body.finish();
        }
        body
    }

    /// A body that gives its connection back at its end, and fails at `deadline`. Of `length` bytes, if that is known.
    pub(crate) fn from_upstream(
        inner: UpstreamBody,
        exchange: Box<Exchange>,
        held: Held,
        deadline: Option<Deadline>,
        length: Option<u64>,
        request: Option<Progress>,
    ) -> Self {
        let ended = inner.is_end_stream() || length == Some(0);
        let patience = exchange.listener.patience();
        let mut body =
            Self { inner, exchange: Some(exchange), held: Some(held), deadline, left: length, request, patience };
        if ended {
            body.finish();
        }
        body
    }

    /// No body; the exchange ends elsewhere.
    pub(crate) fn bare() -> Self {
        let inner = UpstreamBody::Whole(None);
        Self { inner, exchange: None, held: None, deadline: None, left: None, request: None, patience: None }
    }

    fn finish(&mut self) {
        self.deadline = None;
        let released = if let UpstreamBody::H1(body) = &mut self.inner { body.release() } else { None };
        if let (Some(held), Some(connection)) = (self.held.take(), released) {
            held.pool.give_back(connection);
        }
        if let Some(mut exchange) = self.exchange.take() {
            exchange.complete = true;
        }
    }

    fn fail(&mut self, failure: Failure) {
        let clients = self.request.as_ref().and_then(Progress::broken);
        if let Some(exchange) = &mut self.exchange {
            exchange.failure.get_or_insert(clients.unwrap_or(failure));
        }
        self.exchange = None;
        self.held = None;
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(self.poll_overdue(cx));
                return Poll::Ready(Some(Err("the request took longer than the route allows".into())));
            }
        };
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                if let (Some(data), Some(left)) = (frame.data_ref(), &mut self.left) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                if let Some(exchange) = &mut self.exchange {
                    match (frame.data_ref(), frame.trailers_ref()) {
                        (Some(data), _) => exchange.sent += data.len() as u64,
                        (None, Some(trailers)) => exchange.note_grpc_status(trailers),
                        _ => {}
                    }
                }
                if self.left == Some(0) && !self.inner.is_end_stream() {
                    // An end that is there already is taken, so that dropping the stream resets nothing.
                    let _ = Pin::new(&mut self.inner).poll_frame(cx);
                }
                if self.inner.is_end_stream() || self.left == Some(0) {
                    self.finish();
                }
            }
            Some(Err(error)) => {
                let to_sidecar = self.exchange.as_ref().is_some_and(|exchange| exchange.upstream_id.is_some());
                self.fail(match to_sidecar {
                    _ if is_malformed(error) => Failure::AppProtocol,
                    false if is_against_protocol(error) => Failure::AppProtocol,
                    // A sidecar resets what its app has broken off.
                    _ if is_reset(error, !to_sidecar) => Failure::AppReset,
                    true => Failure::UpstreamClosed,
                    false => Failure::AppClosed,
                });
            }
            None => self.finish(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl TimedBody for ResponseBody {
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        ready!(deadline.poll(cx));
        self.fail(Failure::RequestTimeout);
        Poll::Ready(())
    }

    fn patience(&self) -> Option<Duration> {
        self.patience
    }

    fn give_up(&mut self) {
        self.fail(Failure::ClientStalled);
    }
}
