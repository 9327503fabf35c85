//! An HTTP/2 stream's bytes, for both ends of a connection: bodies out, bodies in, and both at once as a tunnel.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::BodyError;
use crate::flushes::Flushes;
use crate::held::Held;
use crate::timed::{Patience, TimedBody};
use crate::way::Way;

/// Receive window of a stream: what one slow reader can make us hold.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// Receive window of a connection: as many slow readers as a sidecar puts on one connection do not hold up a fast one.
pub const CONNECTION_WINDOW: u32 = 256 * STREAM_WINDOW;
/// Streams of a connection that may break the rules of HTTP/2 before it is closed for all that share it.
pub const STREAM_ERRORS_MAX: usize = 64 * 1024;
/// What the frames of a few bytes that nobody has read yet may cost a connection, in h2's measure of up to 256 a frame, before it
/// is closed for all that share it: about a million frames. A slow reader's window full of gRPC's smallest messages, of seven
/// bytes, costs a twenty-eighth of that.
pub const SMALL_FRAMES_MAX: usize = 256 * 1024 * 1024;

/// How a stream ends whose body breaks off: h2 forgets what is queued when it resets.
pub(crate) enum BreakOff {
    /// At once: what has not left of a request had better not begin.
    Request,
    /// After what was said of an answer has left.
    Answer(Said),
}

/// What was said of an answer.
pub(crate) struct Said {
    flushes: Rc<Flushes>,
    /// How often all that was queued had left when the head was.
    head: u64,
    /// The body's pieces; none before the first that is not the last.
    body: Option<Held>,
}

/// How long a head alone may take to leave a connection that is never out of work.
const HEAD_BOUND: Duration = Duration::from_secs(1);

/// Sends a body as fast as the peer's window opens; where it comes from is read no faster than that. A body that breaks off, or
/// whose time is up while the window is closed, resets the stream.
pub(crate) async fn send_body(mut body: impl TimedBody, mut stream: SendStream<Bytes>, mut off: BreakOff) {
    loop {
        let frame = match poll_fn(|cx| poll_next(&mut body, &mut stream, cx)).await {
            Next::Frame(frame) => frame,
            Next::Gone => return,
            Next::Broken => return off.reset(stream, &mut body).await,
            Next::End => {
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
        };
        match frame.into_data() {
            Ok(mut data) => {
                while data.has_remaining() {
                    let room = match room(&mut stream, data.len(), &mut body).await {
                        Room::Bytes(room) => room,
                        Room::Gone => return,
                        // Nobody reads: what is queued would not be either.
                        Room::Lost => return stream.send_reset(Reason::CANCEL),
                    };
                    let part = data.split_to(room.min(data.len()));
                    let last = data.is_empty() && body.is_end_stream();
                    let part = if last { part } else { off.hold(part) };
                    if stream.send_data(part, last).is_err() || last {
                        return;
                    }
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let _ = stream.send_trailers(trailers);
                    return;
                }
            }
        }
    }
}

impl BreakOff {
    /// After an answer whose head was just queued on a connection with these flushes.
    pub(crate) fn answer(flushes: Rc<Flushes>) -> Self {
        let head = flushes.count();
        Self::Answer(Said { flushes, head, body: None })
    }

    /// The next piece of the body, if it is one that may have to leave before a reset.
    fn hold(&mut self, part: Bytes) -> Bytes {
        match self {
            Self::Request => part,
            Self::Answer(said) => said.body.get_or_insert_default().hold(part),
        }
    }

    async fn reset(self, mut stream: SendStream<Bytes>, body: &mut impl TimedBody) {
        let Self::Answer(said) = self else { return stream.send_reset(Reason::CANCEL) };
        let mut left = pin!(said.left());
        let mut patience = Patience::default();
        let ended = poll_fn(|cx| {
            let gone = stream.poll_reset(cx).is_ready() || patience.poll_lost(body, cx).is_ready();
            if gone { Poll::Ready(()) } else { left.as_mut().poll(cx) }
        });
        ended.await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    }
}

impl Said {
    /// Waits until it has left, whatever else the connection carries.
    async fn left(&self) {
        match &self.body {
            Some(body) => poll_fn(|cx| body.poll_left(cx)).await,
            None => drop(tokio::time::timeout(HEAD_BOUND, self.flushes.after(self.head)).await),
        }
    }
}

enum Next {
    Frame(Frame<Bytes>),
    End,
    /// The body broke off.
    Broken,
    /// The peer wants no more.
    Gone,
}

fn poll_next(body: &mut impl TimedBody, stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Next> {
    if stream.poll_reset(cx).is_ready() {
        return Poll::Ready(Next::Gone);
    }
    Poll::Ready(match ready!(Pin::new(body).poll_frame(cx)) {
        Some(Ok(frame)) => Next::Frame(frame),
        Some(Err(_)) => Next::Broken,
        None => Next::End,
    })
}

enum Room {
    Bytes(usize),
    /// The stream is over.
    Gone,
    /// The body is not to be offered any longer.
    Lost,
}

/// Waits for window.
async fn room(stream: &mut SendStream<Bytes>, wanted: usize, body: &mut impl TimedBody) -> Room {
    stream.reserve_capacity(wanted);
    let mut patience = Patience::default();
    loop {
        match stream.capacity() {
            0 => {}
            room => return Room::Bytes(room),
        }
        let opened = poll_fn(|cx| match stream.poll_capacity(cx) {
            Poll::Ready(opened) => Poll::Ready(Ok(opened)),
            Poll::Pending => patience.poll_lost(body, cx).map(Err),
        });
        match opened.await {
            Ok(Some(Ok(_))) => {}
            Ok(_) => return Room::Gone,
            Err(()) => return Room::Lost,
        }
    }
}

/// The next frame of a body. The window is given back when the bytes are taken: a slow reader slows the writer and fills no memory.
pub fn poll_frame(stream: &mut h2::RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    if let Some(data) = ready!(stream.poll_data(cx)) {
        let data = match data {
            Ok(data) => data,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        let _ = stream.flow_control().release_capacity(data.len());
        return Poll::Ready(Some(Ok(Frame::data(data))));
    }
    match ready!(stream.poll_trailers(cx)) {
        Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
        Ok(None) => Poll::Ready(None),
        Err(error) => Poll::Ready(Some(Err(error.into()))),
    }
}

/// The two halves of an HTTP/2 stream as one stream of bytes.
pub struct H2Duplex {
    send: SendStream<Bytes>,
    receive: RecvStream,
    unread: Bytes,
    /// What the peer is told when the other end of the tunnel broke.
    reason: Reason,
    /// What lives as long as the stream: a connection of ours, and its place on it.
    _held: Option<Box<dyn Any>>,
}

impl H2Duplex {
    /// `held` is what is kept as long as the stream. A break is told as a WebSocket's (RFC 8441 s.5).
    pub fn new(send: SendStream<Bytes>, receive: RecvStream, held: Option<Box<dyn Any>>) -> Self {
        Self { send, receive, unread: Bytes::new(), reason: Reason::CANCEL, _held: held }
    }

    /// Says otherwise what a break is told as.
    pub fn breaks_as(&mut self, reason: Reason) {
        self.reason = reason;
    }
}

impl Way for H2Duplex {
    fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
        self.send.poll_reset(cx).is_ready()
    }

    fn reset(&mut self) {
        self.send.send_reset(self.reason);
    }
}

impl AsyncRead for H2Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let part = this.unread.split_to(this.unread.len().min(buf.remaining()));
        buf.put_slice(&part);
        let _ = this.receive.flow_control().release_capacity(part.len());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(buf.len());
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let taken = buf.len().min(this.send.capacity());
        this.send.send_data(Bytes::copy_from_slice(&buf[..taken]), false).map_err(io_error)?;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send.send_data(Bytes::new(), true).map_err(io_error))
    }
}

fn io_error(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}
