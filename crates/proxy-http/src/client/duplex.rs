//! An HTTP/1.1 connection that stopped being one.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::way::{Stream, Way};

/// A connection as a stream of bytes, with what was read of it already in front.
pub(super) struct H1Duplex {
    pub(super) stream: Rc<RefCell<Stream>>,
    pub(super) unread: Bytes,
}

impl AsyncRead for H1Duplex {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf);
        }
        let size = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H1Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}

impl Way for H1Duplex {
    fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
        self.stream.borrow_mut().is_broken(cx)
    }

    fn reset(&mut self) {
        self.stream.borrow_mut().reset();
    }
}
