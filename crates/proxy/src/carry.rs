//! Bytes both ways between a client and an endpoint, until both have ended: what tunnels and TCP services do once they are open.
//!
//! An end of one direction is passed on as one, and the other goes on. Everything else is a break, and reaches both ends as one:
//! nobody takes half a message for a whole. That is so too when the proxy itself gives up in the middle.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep};
use weft_proxy_http::Way;
use weft_telemetry::Failure;

use crate::exchange::Exchange;

/// What one read takes, at most: a TLS record's worth.
const READ_MAX: usize = 16 * 1024;
/// How often an end that is not being read is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Carries bytes for an exchange, which counts them as they move and is told who broke off. When one side has ended, the other may
/// go on for `bound`, or as long as it likes.
pub(crate) async fn carry<C, E>(exchange: &mut Exchange, client: &mut C, endpoint: &mut E, bound: Option<Duration>)
where
    C: Way + ?Sized,
    E: Way + ?Sized,
{
    let carried = both_ways(client, endpoint, bound, |from, bytes| match from {
        Side::Client => exchange.add_received(bytes as u64),
        Side::Endpoint => exchange.add_sent(bytes as u64),
    })
    .await;
    if let Err(broken) = carried {
        exchange.failure = Some(match broken.by {
            Side::Client => Failure::ClientGone,
            Side::Endpoint if exchange.upstream_id.is_some() => Failure::UpstreamClosed,
            Side::Endpoint => Failure::AppClosed,
        });
        if broken.by == Side::Endpoint {
            exchange.transport_reason = Some(broken.explain());
        }
    }
    exchange.complete = true;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Endpoint,
}

impl Side {
    fn broke(self) -> impl FnOnce(io::Error) -> Broken {
        move |error| Broken { by: self, error }
    }
}

/// Who broke off, and what was seen of it.
#[derive(Debug)]
struct Broken {
    by: Side,
    error: io::Error,
}

impl Broken {
    fn explain(&self) -> String {
        match self.error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "the connection was reset".to_owned(),
            io::ErrorKind::UnexpectedEof => "the connection was cut off".to_owned(),
            _ => self.error.to_string(),
        }
    }
}

/// Tells `count` of the bytes that crossed the client's end: by whom they were sent, and how many.
async fn both_ways<C, E>(
    client: &mut C,
    endpoint: &mut E,
    bound: Option<Duration>,
    mut count: impl FnMut(Side, usize),
) -> Result<(), Broken>
where
    C: Way + ?Sized,
    E: Way + ?Sized,
{
    let (up, down) = (Direction::new(Side::Client, Side::Endpoint), Direction::new(Side::Endpoint, Side::Client));
    let mut carrying = Carrying { client, endpoint, up, down, look: None, last_words: None, is_over: false };
    let carried = poll_fn(|cx| carrying.poll(cx, bound, &mut count)).await;
    if carried.is_err() {
        // What was taken before the break leaves before it: HTTP/2 writes by a task of its own.
        tokio::task::yield_now().await;
    }
    carried
}

/// Both directions. If it is dropped before its end, both ends see a break.
struct Carrying<'a, C: Way + ?Sized, E: Way + ?Sized> {
    client: &'a mut C,
    endpoint: &'a mut E,
    up: Direction,
    down: Direction,
    /// When to look again after an end that is not being read.
    look: Option<Pin<Box<Sleep>>>,
    /// Until when the one that has not ended may go on.
    last_words: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl<C: Way + ?Sized, E: Way + ?Sized> Carrying<'_, C, E> {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        bound: Option<Duration>,
        count: &mut impl FnMut(Side, usize),
    ) -> Poll<Result<(), Broken>> {
        let up = self.up.poll(cx, self.client, self.endpoint, count);
        // Also when that failed: one that reads no more may have said something before.
        let down = self.down.poll(cx, self.endpoint, self.client, count);
        match (up?, down?) {
            (Poll::Ready(()), Poll::Ready(())) => {
                self.is_over = true;
                return Poll::Ready(Ok(()));
            }
            (Poll::Pending, Poll::Pending) => {}
            (up, _) => {
                if let Some(bound) = bound {
                    let last = self.last_words.get_or_insert_with(|| Box::pin(tokio::time::sleep(bound)));
                    if last.as_mut().poll(cx).is_ready() {
                        self.cut(up.is_ready());
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
        self.poll_look(cx).map(Err)
    }

    /// One side has ended and the other does not. The first has been heard out; the second is not.
    fn cut(&mut self, client_ended: bool) {
        self.is_over = true;
        if client_ended { self.client.reset() } else { self.endpoint.reset() }
    }

    /// Ready when an end broke that nobody reads, because it has ended its direction or the other end takes no more.
    fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let (client_unread, endpoint_unread) = (self.up.is_unread(), self.down.is_unread());
        if !client_unread && !endpoint_unread {
            return Poll::Pending;
        }
        let broke = |side: Side| Poll::Ready(side.broke()(io::ErrorKind::ConnectionReset.into()));
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_EVERY)));
        while look.as_mut().poll(cx).is_ready() {
            if client_unread && self.client.is_broken(cx) {
                return broke(Side::Client);
            }
            if endpoint_unread && self.endpoint.is_broken(cx) {
                return broke(Side::Endpoint);
            }
            look.as_mut().reset(Instant::now() + LOOK_EVERY);
        }
        Poll::Pending
    }
}

impl<C: Way + ?Sized, E: Way + ?Sized> Drop for Carrying<'_, C, E> {
    fn drop(&mut self) {
        if !self.is_over {
            self.client.reset();
            self.endpoint.reset();
        }
    }
}

/// One direction, up to its end, which is passed on. While nothing moves it holds no memory.
struct Direction {
    reader: Side,
    writer: Side,
    /// What was read and could not be written yet, from `written` on.
    rest: Vec<u8>,
    written: usize,
    is_flushed: bool,
    /// Whether the reader came to the end.
    has_end: bool,
    /// Whether the writer was told.
    is_over: bool,
}

impl Direction {
    fn new(reader: Side, writer: Side) -> Self {
        Self { reader, writer, rest: Vec::new(), written: 0, is_flushed: true, has_end: false, is_over: false }
    }

    fn poll<R: Way + ?Sized, W: Way + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &mut impl FnMut(Side, usize),
    ) -> Poll<Result<(), Broken>> {
        let (reader, writer) = (self.reader, self.writer);
        let (mut from, mut to) = (Pin::new(from), Pin::new(to));
        while !self.is_over {
            while self.has_rest() {
                let written = ready!(to.as_mut().poll_write(cx, &self.rest[self.written..]));
                self.written += self.count_written(written, count)?;
            }
            if self.has_end {
                ready!(to.as_mut().poll_shutdown(cx)).map_err(writer.broke())?;
                self.is_over = true;
                break;
            }
            let mut space = [MaybeUninit::uninit(); READ_MAX];
            let mut read = ReadBuf::uninit(&mut space);
            match from.as_mut().poll_read(cx, &mut read) {
                Poll::Ready(read) => read.map_err(reader.broke())?,
                Poll::Pending => {
                    (self.rest, self.written) = (Vec::new(), 0);
                    if !self.is_flushed {
                        ready!(to.as_mut().poll_flush(cx)).map_err(writer.broke())?;
                        self.is_flushed = true;
                    }
                    return Poll::Pending;
                }
            }
            let mut bytes = read.filled();
            self.has_end = bytes.is_empty();
            if reader == Side::Client {
                count(reader, bytes.len());
            }
            while !bytes.is_empty() {
                self.is_flushed = false;
                let Poll::Ready(written) = to.as_mut().poll_write(cx, bytes) else {
                    self.rest.clear();
                    self.rest.extend_from_slice(bytes);
                    self.written = 0;
                    return Poll::Pending;
                };
                bytes = &bytes[self.count_written(written, count)?..];
            }
        }
        Poll::Ready(Ok(()))
    }

    fn count_written(&self, written: io::Result<usize>, count: &mut impl FnMut(Side, usize)) -> Result<usize, Broken> {
        let written = match written {
            Ok(0) => return Err(self.writer.broke()(io::ErrorKind::WriteZero.into())),
            written => written.map_err(self.writer.broke())?,
        };
        if self.writer == Side::Client {
            count(self.reader, written);
        }
        Ok(written)
    }

    fn has_rest(&self) -> bool {
        self.written < self.rest.len()
    }

    /// Whether the reader is left alone at the moment.
    fn is_unread(&self) -> bool {
        self.has_end || self.has_rest()
    }
}

#[cfg(test)]
mod tests;
