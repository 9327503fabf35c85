//! A request's body on its way to the app: framed, and sent by a task of its own where it is not there as a whole.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use tokio::io::AsyncWriteExt;
use tokio::task::AbortHandle;

use super::duplex::H1Duplex;
use crate::h1::{Broken, Encoder};
use crate::request_body::RequestBody;
use crate::way::Stream;

/// The bytes of a request that are to be written next.
pub(super) struct Outgoing {
    pub(super) bytes: BytesMut,
    pub(super) encoder: Encoder,
    /// Whether the body has ended: after `bytes` there is nothing.
    pub(super) ended: bool,
}

impl Outgoing {
    /// Appends the next frame of the body. It is broken if the client broke off, or sent another length than it had said.
    pub(super) fn poll_fill(&mut self, body: &mut RequestBody, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => Some(frame),
            Some(Err(_)) => return Poll::Ready(Err(Broken)),
            None => None,
        };
        self.ended = self.encoder.put(&mut self.bytes, frame, body.is_end_stream())?;
        Poll::Ready(Ok(()))
    }
}

impl Upload {
    /// Begins to send `out` and what comes after it.
    pub(super) fn start(stream: Rc<RefCell<Stream>>, mut out: Outgoing, mut body: RequestBody) -> Self {
        let state = Rc::<UploadState>::default();
        let told = state.clone();
        let task = tokio::task::spawn_local(async move {
            let whole = send_rest(&stream, &mut out, &mut body).await.is_ok();
            told.outcome.set(Some(if whole { Outcome::Whole } else { Outcome::Broken }));
            if let Some(reader) = told.reader.take() {
                reader.wake();
            }
        });
        Self { state, task: task.abort_handle() }
    }
}

/// Sends a body as fast as the app reads; the client is read no faster than that.
async fn send_rest(stream: &Rc<RefCell<Stream>>, out: &mut Outgoing, body: &mut RequestBody) -> Result<(), Broken> {
    loop {
        let mut way = H1Duplex { stream: stream.clone(), unread: Bytes::new() };
        // An app that reads no more may have answered: what it says is read by the request, so this is no error of the response.
        if way.write_all(&out.bytes).await.is_err() || way.flush().await.is_err() {
            return std::future::pending().await;
        }
        out.bytes.clear();
        if out.ended {
            return Ok(());
        }
        poll_fn(|cx| out.poll_fill(body, cx)).await?;
    }
}

/// A request's body on its way, beside the response. Ends with this value.
pub(super) struct Upload {
    state: Rc<UploadState>,
    task: AbortHandle,
}

#[derive(Default)]
struct UploadState {
    outcome: Cell<Option<Outcome>>,
    /// Who waits for the response, to be told when there will be none.
    reader: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it has left.
    Whole,
    /// The client broke off.
    Broken,
}

impl Upload {
    /// How it ended, if it has. If not, `reader` is woken when it does.
    pub(super) fn outcome(&self, reader: Option<&Waker>) -> Option<Outcome> {
        let outcome = self.state.outcome.get();
        if let (None, Some(reader)) = (outcome, reader) {
            self.state.reader.set(Some(reader.clone()));
        }
        outcome
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.task.abort();
    }
}
