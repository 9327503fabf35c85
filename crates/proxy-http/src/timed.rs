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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body::Frame;
    use tokio::time::Instant;

    use super::*;

    struct Answer {
        patience: Option<Duration>,
        due: Pin<Box<Sleep>>,
        given_up: bool,
    }

    impl Answer {
        fn new(patience: Option<Duration>, due: Duration) -> Self {
            Self { patience, due: Box::pin(tokio::time::sleep(due)), given_up: false }
        }
    }

    impl Body for Answer {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'e'; 1024])))))
        }
    }

    impl TimedBody for Answer {
        fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            self.due.as_mut().poll(cx)
        }

        fn patience(&self) -> Option<Duration> {
            self.patience
        }

        fn give_up(&mut self) {
            self.given_up = true;
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let mut answer = Answer::new(Some(Duration::from_secs(300)), HOUR);
        let mut patience = Patience::default();
        let begun = Instant::now();
        let early = tokio::time::timeout(Duration::from_secs(299), poll_fn(|cx| patience.poll_lost(&mut answer, cx)));
        assert!(early.await.is_err());
        // It took something: the time begins again.
        patience.renew();
        poll_fn(|cx| patience.poll_lost(&mut answer, cx)).await;
        assert_eq!((begun.elapsed().as_secs(), answer.given_up), (599, true));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ends_when_its_time_is_up_also_while_nobody_reads() {
        let mut answer = Answer::new(None, Duration::from_secs(2));
        let begun = Instant::now();
        poll_fn(|cx| Patience::default().poll_lost(&mut answer, cx)).await;
        assert_eq!((begun.elapsed().as_secs(), answer.given_up), (2, false));
    }
}
