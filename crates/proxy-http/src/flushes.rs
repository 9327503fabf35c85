//! When all that was queued on an HTTP/2 connection has left.
//!
//! h2 writes by the connection's own task, tells nobody what has left, and forgets what is queued of a stream that is reset. But each turn of that
//! task ends with a flush of its writer, if it comes to its end: whoever sees that knows.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often a connection had nothing left to write.
#[derive(Default)]
pub(crate) struct Flushes {
    count: Cell<u64>,
    /// Nothing was written since the last flush.
    is_flushed: Cell<bool>,
    waiting: Cell<Vec<Waker>>,
}

impl Flushes {
    pub(crate) fn count(&self) -> u64 {
        self.count.get()
    }

    /// Waits until what was queued when the count was `count` has left.
    pub(crate) async fn after(&self, count: u64) {
        poll_fn(|cx| {
            if self.count.get() > count {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.take();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            self.waiting.set(waiting);
            Poll::Pending
        })
        .await;
    }

    /// To be called when the connection has done all that it can for now.
    pub(crate) fn turn_ends(&self) {
        if self.is_flushed.get() {
            self.count.set(self.count.get() + 1);
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }
}

/// A connection that takes note of its flushes.
pub(crate) struct Flushed<S> {
    io: S,
    flushes: Rc<Flushes>,
}

impl<S> Flushed<S> {
    pub(crate) fn new(io: S) -> (Self, Rc<Flushes>) {
        let flushes = Rc::<Flushes>::default();
        (Self { io, flushes: flushes.clone() }, flushes)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flushed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.flushes.is_flushed.set(false);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.flushes.is_flushed.set(false);
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flushes.is_flushed.set(false);
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.flushes.is_flushed.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
