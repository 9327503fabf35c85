//! What an HTTP/1.1 connection's task and the reader of a request's body share.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::error::BodyError;
use crate::h1::{Decoder, Malformed, put_interim};
use crate::way::Way;

/// What one read asks for, at least.
const READ_MIN: usize = 8 * 1024;
/// And at most, while the reads come back full.
const READ_MAX: usize = 64 * 1024;
/// How often a client that is not being read is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection, and how far its client has been read.
pub(super) struct Wire {
    pub(super) io: Box<dyn Way>,
    /// What was read and is not yet used.
    pub(super) read: BytesMut,
    read_size: usize,
    /// Where in the body of the request under way we are.
    body: Decoder,
    /// Whether somebody reads that body.
    has_reader: bool,
    /// Whether the body came to an end that is none.
    broken: bool,
    /// Whether the client waits for leave to send the body: nothing of it has come.
    awaits_continue: bool,
    /// What the client is told before the answer and has not left yet.
    interim: BytesMut,
    /// Whether what has left may still be held by TLS.
    is_unflushed: bool,
    /// The connection's task, to be woken when the body is over.
    waiting: Option<Waker>,
    /// When to look again whether a client that is not being read is still there.
    look: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(super) fn new(io: Box<dyn Way>, read: BytesMut) -> Self {
        Self {
            io,
            read,
            read_size: READ_MIN,
            body: Decoder::Ended,
            has_reader: false,
            broken: false,
            awaits_continue: false,
            interim: BytesMut::new(),
            is_unflushed: false,
            waiting: None,
            look: None,
        }
    }

    pub(super) fn begin(&mut self, body: Decoder, awaits_continue: bool) {
        self.look = None;
        self.body = body;
        self.has_reader = !body.has_ended();
        self.awaits_continue = awaits_continue && self.has_reader && self.read.is_empty();
    }

    /// Gives back the memory of the last request: an idle connection holds none.
    pub(super) fn rest(&mut self) {
        self.read_size = READ_MIN;
        self.interim = BytesMut::new();
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
    }

    /// Empty lines may stand before a request (RFC 9112 s.2.2).
    pub(super) fn skip_empty_lines(&mut self) {
        while self.read.starts_with(b"\r\n") {
            self.read.advance(2);
        }
        if self.read.is_empty() {
            self.rest();
        }
    }

    /// Reads once. `Ok(0)` is the end of the connection.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let count = if self.read.is_empty() && self.read_size == READ_MIN {
            let mut space = [MaybeUninit::uninit(); READ_MIN];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
            self.read = BytesMut::from(read.filled());
            self.read.len()
        } else {
            self.read.reserve(self.read_size);
            ready!(pin!(self.io.read_buf(&mut self.read)).poll(cx))?
        };
        if count >= self.read_size {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// Ready when the client has gone away, as far as that can be seen: not while it has more to say.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.body.has_ended() {
            self.waiting = Some(cx.waker().clone());
            return if self.broken { Poll::Ready(()) } else { self.poll_broken(cx) };
        }
        if !self.read.is_empty() {
            return Poll::Pending; // the next request
        }
        match ready!(self.poll_fill(cx)) {
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(_) => Poll::Pending,
        }
    }

    /// Ready when the connection broke. Nobody may be reading it, since nobody takes the body on; so it is looked at now and then.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_EVERY)));
        while look.as_mut().poll(cx).is_ready() {
            if self.io.is_broken(cx) {
                return Poll::Ready(());
            }
            look.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        Poll::Pending
    }

    /// Takes a head that the client is to have before the answer (RFC 9110 s.15.2).
    pub(super) fn tell(&mut self, head: &Response<()>) {
        self.awaits_continue &= head.status() != StatusCode::CONTINUE;
        put_interim(&mut self.interim, head);
    }

    /// Sends what the client is to have before the answer, and is ready when the client has gone away.
    pub(super) fn poll_before_answer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_told(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(()),
            _ => self.poll_gone(cx),
        }
    }

    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.interim))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.interim.advance(count),
            }
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// The response begins. Gives what the client was to have before it and has not been sent.
    pub(super) fn begin_response(&mut self) -> BytesMut {
        self.awaits_continue = false;
        std::mem::take(&mut self.interim)
    }

    /// Whether the client, which waits for leave, has sent nothing of the body. It may still send it, or never (RFC 9110 s.10.1.1).
    pub(super) fn awaits_continue(&self) -> bool {
        self.awaits_continue
    }

    /// Whether a part of the body is left that nobody will read. What is here of it is skipped; more may be of any length.
    pub(super) fn is_abandoned(&mut self) -> bool {
        while !self.has_reader && matches!(self.body.next(&mut self.read), Ok(Some(_))) {}
        self.broken || (!self.has_reader && !self.body.has_ended())
    }

    /// Ready when the body has been read to its end (`true`), or will never be.
    pub(super) fn poll_body_over(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.is_abandoned() {
            return Poll::Ready(false);
        }
        if self.body.has_ended() {
            return Poll::Ready(true);
        }
        self.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self.body.next(&mut self.read) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.body.has_ended() => return Poll::Ready(None),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Some(Err(malformed.into()))),
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Some(Err(Malformed::Short.into())));
            }
            self.awaits_continue = false;
        }
    }

    fn wake_connection(&mut self) {
        if let Some(connection) = self.waiting.take() {
            connection.wake();
        }
    }
}

/// The body of the request under way, for whoever sends it on.
pub struct Body {
    wire: Rc<RefCell<Wire>>,
    /// Whether its end was read: from then on the wire is the next request's.
    is_over: bool,
}

impl Body {
    pub(super) fn new(wire: Rc<RefCell<Wire>>) -> Self {
        Self { wire, is_over: false }
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let wire = &mut *self.wire.borrow_mut();
        let frame = ready!(wire.poll_frame(cx));
        wire.broken |= matches!(frame, Some(Err(_)));
        self.is_over = wire.body.has_ended() || wire.broken;
        if self.is_over {
            wire.wake_connection();
        }
        Poll::Ready(frame)
    }

    pub fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.is_over {
            let mut wire = self.wire.borrow_mut();
            wire.has_reader = false;
            wire.wake_connection();
        }
    }
}

/// A connection as a stream of bytes, with what was read of it already in front.
pub(super) struct Duplex {
    wire: Rc<RefCell<Wire>>,
    _open: oneshot::Sender<()>,
}

impl Duplex {
    /// The second value comes when the first is gone.
    pub(super) fn new(wire: Rc<RefCell<Wire>>) -> (Self, oneshot::Receiver<()>) {
        let (open, ended) = oneshot::channel();
        (Self { wire, _open: open }, ended)
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self.wire.borrow_mut();
        if wire.read.is_empty() {
            return Pin::new(&mut wire.io).poll_read(cx, buf);
        }
        let size = wire.read.len().min(buf.remaining());
        buf.put_slice(&wire.read.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire.borrow_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire.borrow_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire.borrow_mut().io).poll_shutdown(cx)
    }
}

impl Way for Duplex {
    fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
        self.wire.borrow_mut().io.is_broken(cx)
    }

    fn reset(&mut self) {
        self.wire.borrow_mut().io.reset();
    }
}
