//! What of a stream's queue has left.
//!
//! h2 forgets what is queued of a stream that is reset, and tells nobody what has left. But it drops what it has written: whoever is in what
//! it was given knows.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// The pieces of one stream that h2 still holds.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<Pieces>>);

#[derive(Default)]
struct Pieces {
    count: usize,
    waiting: Option<Waker>,
}

/// Bytes that tell when they are dropped.
struct Piece {
    data: Bytes,
    held: Held,
}

impl Held {
    /// The same bytes, counted for as long as they live.
    pub(crate) fn hold(&self, data: Bytes) -> Bytes {
        self.with(|pieces| pieces.count += 1);
        Bytes::from_owner(Piece { data, held: self.clone() })
    }

    /// Ready when none is held.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|pieces| {
            if pieces.count == 0 {
                return Poll::Ready(());
            }
            pieces.waiting = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Pieces) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let waiting = self.held.with(|pieces| {
            pieces.count -= 1;
            pieces.waiting.take_if(|_| pieces.count == 0)
        });
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}
