//! How long a route lets a request take.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;
use weft_proxy_http::Progress;

/// A route's timeout. Counts from the end of the request (Envoy's `RouteAction.timeout`): a client may take as long as it likes to
/// send one, and an endpoint that answers meanwhile may do so for as long.
pub(crate) struct Deadline {
    bound: Duration,
    request: Progress,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// For a request whose body tells when it has ended. `None` and zero are for ever.
    pub(crate) fn new(bound: Option<Duration>, request: Progress) -> Option<Self> {
        let bound = bound.filter(|bound| !bound.is_zero())?;
        Some(Self { bound, request, timer: None })
    }

    /// Ready when the time is up.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.is_none() {
            let end = ready!(self.request.poll_ended(cx));
            self.timer = Some(Box::pin(tokio::time::sleep_until(end + self.bound)));
        }
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// The time was up, which was this long.
pub(crate) struct Overdue(pub(crate) Duration);

/// What comes of `answer`, if it comes before the time is up.
pub(crate) async fn within<T>(
    deadline: &mut Option<Deadline>,
    mut answer: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Overdue> {
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Ok(answer)),
        Poll::Pending => {
            let Some(deadline) = deadline else { return Poll::Pending };
            deadline.poll(cx).map(|()| Err(Overdue(deadline.bound)))
        }
    })
    .await
}
