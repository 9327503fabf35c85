//! Bodies that know how long they may take, for those who write them to a reader that may take nothing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::Sleep;

use crate::error::BodyError;

/// A body on its way out.
///
/// While it is waited for, it tells by itself when its time is up: it fails. While its reader takes nothing, nobody polls it for
/// more; then these tell.
pub trait TimedBody: Body<Data = Bytes, Error = BodyError> + Unpin + 'static {
    /// Ready when its time is up. It has then failed.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// How long a reader may take nothing of what is there; `None` is for ever.
    fn patience(&self) -> Option<Duration>;

    /// The reader took nothing for so long.
    fn give_up(&mut self);
}

/// Watches a reader that takes nothing.
#[derive(Default)]
pub(crate) struct Patience(Option<Pin<Box<Sleep>>>);

impl Patience {
    /// The reader took something.
    pub(crate) fn renew(&mut self) {
        self.0 = None;
    }

    /// Ready when the body is not to be offered any longer.
    pub(crate) fn poll_lost(&mut self, body: &mut impl TimedBody, cx: &mut Context<'_>) -> Poll<()> {
        if body.poll_overdue(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(bound) = body.patience() else { return Poll::Pending };
        let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep(bound)));
        ready!(timer.as_mut().poll(cx));
        body.give_up();
        Poll::Ready(())
    }
}
