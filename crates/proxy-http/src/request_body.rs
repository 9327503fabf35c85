//! A request's body on its way upstream: counted, and kept for another attempt as long as that is cheap.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::Instant;
use weft_telemetry::Failure;

use crate::error::{BodyError, is_malformed};
use crate::headers::{Reserved, strip_identity, strip_trailers};
use crate::server::ClientBody;
use crate::timed::TimedBody;

/// So many bytes of a body are kept until its response begins. What is longer is sent once only.
pub const KEPT_MAX: usize = 64 * 1024;

/// A request's body on its way upstream. Counts its bytes where the log can read them.
pub struct RequestBody {
    /// `None`: there is nothing to send.
    source: Option<Rc<RefCell<Source>>>,
    /// How many of the kept pieces this one has given out.
    given: usize,
    watched: Rc<Watched>,
}

/// Where the bytes come from, and what is kept of them.
struct Source {
    incoming: ClientBody,
    received: Rc<Cell<u64>>,
    /// What only the mesh may say is taken out of trailers too.
    reserved: Arc<Reserved>,
    kept: Vec<Piece>,
    kept_bytes: usize,
    /// More has been read than is kept.
    is_partial: bool,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// What has been read of a body before it is sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// From its first byte on; what came in one piece is not cut.
    pub bytes: Bytes,
    /// Whether this is all of it.
    pub is_whole: bool,
}

/// How far to read a body before it is sent on, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// To its end, unless it proves to be longer than this.
    EndOrMoreThan(usize),
    /// Until so many bytes have come, however much follows.
    Have(usize),
}

/// How far a request's body has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyState {
    Open,
    /// The last byte was read from the client, at that time.
    Ended(Instant),
    /// The client went away.
    Gone,
    /// The client broke the framing.
    Malformed,
}

struct Watched {
    state: Cell<BodyState>,
    waiting: Cell<Option<Waker>>,
}

impl Watched {
    fn new(state: BodyState) -> Rc<Self> {
        Rc::new(Self { state: Cell::new(state), waiting: Cell::new(None) })
    }

    fn reach(&self, state: BodyState) {
        self.state.set(state);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }
}

/// Tells how far a request's body has come, to whom does not hold it.
#[derive(Clone)]
pub struct Progress(Rc<Watched>);

impl Progress {
    /// Whether the last byte was read from the client.
    pub fn ended(&self) -> bool {
        matches!(self.0.state.get(), BodyState::Ended(_))
    }

    /// Ready when the last byte was read from the client. For one task at a time.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Instant> {
        if let BodyState::Ended(at) = self.0.state.get() {
            return Poll::Ready(at);
        }
        self.0.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// What the client did wrong, if it is the client's fault that the request cannot be sent.
    pub fn broken(&self) -> Option<Failure> {
        match self.0.state.get() {
            BodyState::Open | BodyState::Ended(_) => None,
            BodyState::Gone => Some(Failure::ClientGone),
            BodyState::Malformed => Some(Failure::BadRequest),
        }
    }
}

/// Makes the body anew for another attempt. As long as it lives, what is read is kept.
#[derive(Clone)]
pub struct Again {
    source: Option<Rc<RefCell<Source>>>,
    watched: Rc<Watched>,
}

impl Again {
    /// The whole body; `None` if more of it was read than is kept, or if the client broke it off.
    pub fn body(&self) -> Option<RequestBody> {
        let is_whole = self.source.as_ref().is_none_or(|source| !source.borrow().is_partial);
        let is_broken = matches!(self.watched.state.get(), BodyState::Gone | BodyState::Malformed);
        (is_whole && !is_broken).then(|| RequestBody {
            source: self.source.clone(),
            given: 0,
            watched: self.watched.clone(),
        })
    }
}

impl RequestBody {
    /// Passes on what comes of a request that began at `began`.
    pub fn new(incoming: ClientBody, received: Rc<Cell<u64>>, reserved: &Arc<Reserved>, began: Instant) -> Self {
        if incoming.is_end_stream() {
            return Self { source: None, given: 0, watched: Watched::new(BodyState::Ended(began)) };
        }
        let source = Source {
            incoming,
            received,
            reserved: reserved.clone(),
            kept: Vec::new(),
            kept_bytes: 0,
            is_partial: false,
        };
        Self { source: Some(Rc::new(RefCell::new(source))), given: 0, watched: Watched::new(BodyState::Open) }
    }

    /// No body.
    pub fn empty() -> Self {
        Self { source: None, given: 0, watched: Watched::new(BodyState::Ended(Instant::now())) }
    }

    /// For the timer of the request.
    pub fn progress(&self) -> Progress {
        Progress(self.watched.clone())
    }

    /// For another attempt, should this one prove to have done nothing.
    pub fn again(&self) -> Again {
        Again { source: self.source.clone(), watched: self.watched.clone() }
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.source.is_none()
    }

    /// Reads the beginning of a body of which nothing has been sent, and keeps it to be sent. Trailers are kept too.
    ///
    /// It is held in memory in one piece, not much longer than was asked for: at most by what one read brings.
    ///
    /// # Errors
    /// The client broke it off, or broke its framing.
    pub async fn read_ahead(&mut self, until: Until) -> Result<Ahead, BodyError> {
        let Some(shared) = self.source.clone() else { return Ok(Ahead { bytes: Bytes::new(), is_whole: true }) };
        let (Until::EndOrMoreThan(bound) | Until::Have(bound)) = until;
        let mut bytes = BytesMut::new();
        let is_whole = poll_fn(|cx| {
            let source = &mut *shared.borrow_mut();
            loop {
                let frame = match source.poll_next(&self.watched, cx) {
                    // There may be more to come, which nobody waits for.
                    Poll::Pending if until == Until::Have(bytes.len()) => return Poll::Ready(Ok(false)),
                    next => ready!(next),
                };
                match frame {
                    None => return Poll::Ready(Ok(true)),
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => bytes.extend_from_slice(&data),
                        Err(frame) => source.kept.extend(frame.into_trailers().ok().map(Piece::Trailers)),
                    },
                }
                if source.incoming.is_end_stream() {
                    return Poll::Ready(Ok(true));
                }
                if bytes.len() > bound {
                    return Poll::Ready(Ok(false));
                }
            }
        })
        .await?;
        let bytes = bytes.freeze();
        let source = &mut *shared.borrow_mut();
        source.kept_bytes = bytes.len();
        if !bytes.is_empty() {
            source.kept.insert(0, Piece::Data(bytes.clone()));
        }
        Ok(Ahead { bytes, is_whole })
    }
}

impl Source {
    /// The next frame from the client, and how far the body has come with it.
    fn poll_next(&mut self, watched: &Watched, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = ready!(self.incoming.poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.received.set(self.received.get() + data.len() as u64);
                } else if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                    strip_identity(trailers, &self.reserved);
                }
            }
            Some(Err(error)) => {
                watched.reach(if is_malformed(error) { BodyState::Malformed } else { BodyState::Gone });
                return Poll::Ready(frame);
            }
            None => {}
        }
        if frame.is_none() || self.incoming.is_end_stream() {
            watched.reach(BodyState::Ended(Instant::now()));
        }
        Poll::Ready(frame)
    }

    /// Keeps a piece that was read, or gives up keeping any.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        self.kept_bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.kept_bytes <= KEPT_MAX {
            self.kept.push(piece);
        } else {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.kept = Vec::new();
        self.is_partial = true;
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(shared) = &this.source else { return Poll::Ready(None) };
        let is_wanted_again = Rc::strong_count(shared) > 1;
        let source = &mut *shared.borrow_mut();
        if let Some(piece) = source.kept.get(this.given) {
            this.given += 1;
            return Poll::Ready(Some(Ok(match piece.clone() {
                Piece::Data(data) => Frame::data(data),
                Piece::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        let frame = ready!(source.poll_next(&this.watched, cx));
        if let Some(Ok(frame)) = &frame {
            if is_wanted_again && !source.is_partial {
                source.keep(frame);
            } else if !source.is_partial {
                source.forget();
            }
            this.given = source.kept.len();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.as_ref().is_none_or(|source| {
            let source = source.borrow();
            self.given == source.kept.len() && source.incoming.is_end_stream()
        })
    }
}

/// A client may take as long as it likes, and so may an endpoint: the time of a request is kept by whoever waits for its answer.
impl TimedBody for RequestBody {
    fn poll_overdue(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn give_up(&mut self) {}
}
