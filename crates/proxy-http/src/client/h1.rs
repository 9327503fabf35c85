//! Requests over HTTP/1.1 to the app. One request at a time on a connection, which is kept for the next.
//!
//! A connection has no task. The request that has it writes and reads it itself, and so does the body of the response; an idle
//! one is looked at when it is wanted and on the worker's tick. Only a request body that is not there as a whole is sent by a
//! task, since the app may answer before it has read it, and a caller may read only after it has sent everything.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use weft_telemetry::Failure;

use super::duplex::H1Duplex;
use super::upload::{Outcome, Outgoing, Upload};
use crate::error::{AttemptError, BodyError, Sent};
use crate::h1::{Broken, Decoder, Encoder, Malformed, ResponseHead, Said, put_request, take_response};
use crate::request_body::RequestBody;
use crate::server::Interim;
use crate::way::{Stream, Way};

/// What one read asks for, at least.
const READ_MIN: usize = 8 * 1024;
/// And at most, while the reads come back full.
const READ_MAX: usize = 64 * 1024;

/// The app's clock began to run before ours, and a request takes its time to get there.
const KEEP_ALIVE_MARGIN: Duration = Duration::from_secs(1);

/// One connection, free for a request.
pub struct H1Connection {
    stream: Rc<RefCell<Stream>>,
    read: BytesMut,
    read_size: usize,
    upload: Option<Upload>,
    /// Our end's address.
    pub local_address: Option<SocketAddr>,
    /// Whether it has carried a request before: only then can the app close it just as the next one is sent.
    pub used: bool,
    /// Whether it can carry another one after this.
    reusable: bool,
    /// How long it may wait for one, as the app said with its last response.
    kept_for: Option<Duration>,
    /// Whether the app has begun to answer: then it has the request.
    is_answering: bool,
    idle_since: Instant,
}

impl H1Connection {
    /// A connection that has carried nothing yet.
    pub fn new(stream: Stream) -> Self {
        Self {
            local_address: stream.local_address(),
            stream: Rc::new(RefCell::new(stream)),
            read: BytesMut::new(),
            read_size: READ_MIN,
            upload: None,
            used: false,
            reusable: false,
            kept_for: None,
            is_answering: false,
            idle_since: Instant::now(),
        }
    }

    /// Whether an idle connection can be used: the app has neither closed it nor said anything.
    pub fn is_open(&self) -> bool {
        let mut byte = [0];
        let mut stream = self.stream.borrow_mut();
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut *stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Whether it has been waiting for longer than `bound`, or for as long as the app keeps it.
    pub fn is_stale(&self, bound: Option<Duration>) -> bool {
        let bound = bound.into_iter().chain(self.kept_for.map(safe_wait)).min();
        bound.is_some_and(|bound| self.idle_since.elapsed() >= bound)
    }

    /// Sends a request and waits for the head of its response; heads that come before it are passed on as they come. The head of
    /// the request comes back with an error, if the app had not begun to answer: whether it may be sent again is for the caller to
    /// say.
    pub async fn send(
        mut self,
        head: Request<()>,
        mut body: RequestBody,
        interim: &mut Interim,
    ) -> Result<Response<H1Body>, (AttemptError, Option<Request<()>>)> {
        self.is_answering = false;
        match self.exchange(&head, &mut body, interim).await {
            Ok(ResponseHead { response, body, reusable, kept_for }) => {
                self.used = true;
                self.reusable = reusable;
                self.kept_for = kept_for;
                Ok(response.map(|()| H1Body { connection: Some(self), decoder: body }))
            }
            Err(error) => Err((error, (!self.is_answering).then_some(head))),
        }
    }

    async fn exchange(
        &mut self,
        head: &Request<()>,
        body: &mut RequestBody,
        interim: &mut Interim,
    ) -> Result<ResponseHead, AttemptError> {
        let mut bytes = BytesMut::new();
        let encoder = put_request(&mut bytes, head, !body.is_empty());
        let mut out = Outgoing { bytes, encoder, ended: encoder == Encoder::Nothing };
        if !out.ended {
            // One look: a small body mostly came with its head, and leaves with it.
            let looked = poll_fn(|cx| Poll::Ready(out.poll_fill(body, cx))).await;
            if looked == Poll::Ready(Err(Broken)) {
                return Err(AttemptError::new(Failure::ClientGone, Sent::NotProcessed, "the request's body broke off"));
            }
        }
        // If a part has left, the app may have answered before it read, and closed: then the answer counts.
        if let Err((error, 0)) = self.write(&mut out.bytes).await {
            return Err(closed(Sent::NotProcessed, &error));
        }
        if !out.ended {
            self.upload = Some(Upload::start(self.stream.clone(), out, std::mem::replace(body, RequestBody::empty())));
        }
        poll_fn(|cx| self.poll_head(cx, head.method(), interim)).await
    }

    /// Writes all of it. An error says how many bytes had left.
    async fn write(&self, bytes: &mut BytesMut) -> Result<(), (io::Error, usize)> {
        let mut written = 0;
        while written < bytes.len() {
            let write =
                |cx: &mut Context<'_>| Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &bytes[written..]);
            match poll_fn(write).await {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
                Ok(more) => written += more,
                Err(error) => return Err((error, written)),
            }
        }
        bytes.clear();
        let flush = |cx: &mut Context<'_>| Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx);
        poll_fn(flush).await.map_err(|error| (error, written))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        interim: &mut Interim,
    ) -> Poll<Result<ResponseHead, AttemptError>> {
        loop {
            while !self.read.is_empty() {
                self.is_answering = true;
                let malformed = |error| AttemptError::new(Failure::AppProtocol, Sent::Perhaps, error);
                match take_response(&mut self.read, method).map_err(malformed)? {
                    Some(Said::Answer(head)) => return Poll::Ready(Ok(head)),
                    Some(Said::Interim(head)) => interim.pass_on(head),
                    None => break,
                }
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Err(closed(Sent::Perhaps, &io::ErrorKind::UnexpectedEof.into()))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(closed(Sent::Perhaps, &error))),
            }
        }
    }

    /// Reads once. `Ok(0)` is the end of the connection.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(upload) = &self.upload {
            match upload.outcome(Some(cx.waker())) {
                Some(Outcome::Broken) => return Poll::Ready(Err(io::Error::other("the request's body broke off"))),
                Some(Outcome::Whole) => self.upload = None,
                None => {}
            }
        }
        self.read.reserve(self.read_size);
        let mut stream = self.stream.borrow_mut();
        let count = ready!(pin!(stream.read_buf(&mut self.read)).poll(cx))?;
        if count >= self.read_size {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Whether the request's body has left as a whole.
    fn has_sent_all(&self) -> bool {
        self.upload.as_ref().is_none_or(|upload| upload.outcome(None) == Some(Outcome::Whole))
    }
}

/// How long a connection can be used that the app keeps for `timeout`. A request on one that is being closed fails, and one that is not
/// idempotent is not sent again.
fn safe_wait(timeout: Duration) -> Duration {
    timeout - KEEP_ALIVE_MARGIN.min(timeout / 2)
}

fn closed(sent: Sent, error: &io::Error) -> AttemptError {
    AttemptError::new(Failure::AppClosed, sent, error)
}

/// A response's body as it comes. Has the connection, until it is given back.
pub struct H1Body {
    connection: Option<H1Connection>,
    decoder: Decoder,
}

impl H1Body {
    /// The connection, if the response has been read to its end and another request can follow.
    pub fn release(&mut self) -> Option<H1Connection> {
        let mut connection = self.connection.take_if(|connection| {
            self.decoder.has_ended() && connection.reusable && connection.read.is_empty() && connection.has_sent_all()
        })?;
        connection.upload = None;
        connection.read = BytesMut::new(); // an idle connection holds no memory
        connection.read_size = READ_MIN;
        connection.idle_since = Instant::now();
        Some(connection)
    }

    /// What can be read and written after a response with status 101.
    pub fn into_way(self) -> Option<impl Way> {
        self.connection.map(|connection| H1Duplex { stream: connection.stream, unread: connection.read.freeze() })
    }

    /// Whether nothing is to come.
    pub fn is_end_stream(&self) -> bool {
        self.decoder.has_ended()
    }

    /// How much is to come, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        match self.decoder {
            Decoder::Length(left) => SizeHint::with_exact(left),
            Decoder::Ended => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match self.decoder.next(&mut connection.read) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.decoder.has_ended() => return Poll::Ready(None),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(connection.poll_fill(cx)) {
                Ok(0) => {
                    let ended: Result<(), Malformed> = self.decoder.close();
                    return Poll::Ready(ended.err().map(|error| Err(error.into())));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
        }
    }
}
