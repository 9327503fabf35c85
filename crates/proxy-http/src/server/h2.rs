//! Requests over HTTP/2 (RFC 9113), beside each other on a connection.
//!
//! The connection's task does all reading and writing of its socket, and each request has a task: what they queue in one turn of
//! the worker leaves in one write.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection as Served, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::interim::Interim;
use super::request::{ClientBody, ClientRequest};
use super::service::Service;
use crate::flushes::{Flushed, Flushes};
use crate::h1::Malformed;
use crate::h2_stream::{
    BreakOff, CONNECTION_WINDOW, H2Duplex, SMALL_FRAMES_MAX, STREAM_ERRORS_MAX, STREAM_WINDOW, send_body,
};
use crate::kind::{Kind, kind};
use crate::task::spawn_large;
use crate::way::Way;

/// Requests under way on a connection, if nobody says otherwise.
const STREAMS_MAX: u32 = 1024;
/// Heads larger than this are refused: what HTTP/1.1 may bring to the other sidecar, and what that adds.
const HEAD_MAX: usize = crate::h1::HEAD_MAX + 8 * 1024;
/// Heads larger than this are refused by h2, which tells nobody. It counts 32 bytes more a field.
const HEAD_MAX_H2: u32 = 4 * HEAD_MAX as u32;
/// Callers that leave as soon as they have asked close no connection that others share, as long as there are no more of them
/// in one read than may ask at all.
const RESETS_MAX: usize = STREAMS_MAX as usize;
/// For the client's preface.
const PREFACE_BOUND: Duration = Duration::from_secs(30);
/// A client is asked so often whether it is still there,
const PING_EVERY: Duration = Duration::from_secs(30);
/// and has so long to answer.
const PONG_BOUND: Duration = Duration::from_secs(20);

/// What a client is told that it may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// Requests at once; 1,024 if it is not said.
    pub max_streams: Option<u32>,
    /// Whether WebSockets may come by extended CONNECT (RFC 8441).
    pub websocket: bool,
}

/// Serves a connection to its end.
pub async fn serve<S>(service: &impl Service, offer: Offer, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (io, flushes) = Flushed::new(io);
    let handshake = builder(offer).handshake(io);
    let ended = match tokio::time::timeout(PREFACE_BOUND, handshake).await {
        Ok(Ok(served)) => serve_streams(service, served, flushes).await,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no HTTP/2 preface came".to_owned()),
    };
    if let Err(why) = ended {
        tracing::debug!(why, "client connection ended");
    }
}

fn builder(offer: Offer) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(offer.max_streams.unwrap_or(STREAMS_MAX))
        .max_header_list_size(HEAD_MAX_H2)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(Some(STREAM_ERRORS_MAX))
        .data_frame_budget(SMALL_FRAMES_MAX);
    if offer.websocket {
        builder.enable_connect_protocol();
    }
    builder
}

/// Begins each request that comes. When the proxy drains, tells the client once to begin no more, and ends with the last one.
async fn serve_streams<S>(
    service: &impl Service,
    mut served: Served<S, Bytes>,
    flushes: Rc<Flushes>,
) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut drained = pin!(service.drained());
    let mut told = false;
    let mut presence = served.ping_pong().map(Presence::new);
    poll_fn(|cx| {
        if !told && drained.as_mut().poll(cx).is_ready() {
            told = true;
            served.graceful_shutdown();
        }
        if presence.as_mut().is_some_and(|presence| presence.poll_lost(cx).is_ready()) {
            return Poll::Ready(Err("the client answers no ping".to_owned()));
        }
        loop {
            match served.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    spawn_large(exchange(service.clone(), request, respond, flushes.clone()));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    flushes.turn_ends();
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// One request and its response.
async fn exchange(
    service: impl Service,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    flushes: Rc<Flushes>,
) {
    let (head, receive) = request.into_parts();
    let head = Request::from_parts(head, ());
    let (mut tunnel, mut body, mut switched) = (None, ClientBody::Empty, None);
    let kind = kind(&head);
    if kind.is_tunnel() {
        let (sender, receiver) = oneshot::channel::<Box<dyn Way>>();
        (tunnel, switched) = (Some((sender, receive)), Some(receiver));
    } else if !receive.is_end_stream() {
        body = ClientBody::H2(receive);
    }
    let fault = (head_size(&head) > HEAD_MAX).then_some(Malformed::HeadTooLarge);
    let respond = Rc::new(RefCell::new(respond));
    let request = ClientRequest { head, body, fault, interim: Interim::h2(&respond), switched };
    let response = {
        let mut answering = pin!(service.answer(request));
        poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            // The client wants no answer any more.
            Poll::Pending => respond.borrow_mut().poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(response) = response else { return };
    let (head, body) = response.into_parts();
    let ended = body.is_end_stream();
    match tunnel {
        Some((sender, receive)) if head.status.is_success() => {
            if let Ok(send) = respond.borrow_mut().send_response(Response::from_parts(head, ()), false) {
                let mut way = H2Duplex::new(send, receive, None);
                if kind == Kind::Connect {
                    way.breaks_as(Reason::CONNECT_ERROR); // RFC 9113 s.8.5
                }
                let _ = sender.send(Box::new(way));
            }
        }
        _ => {
            let sent = respond.borrow_mut().send_response(Response::from_parts(head, ()), ended);
            if let Ok(stream) = sent
                && !ended
            {
                send_body(body, stream, BreakOff::answer(flushes)).await;
            }
        }
    }
}

fn head_size(head: &Request<()>) -> usize {
    let fields = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    fields.sum::<usize>() + head.uri().path_and_query().map_or(0, |path| path.as_str().len())
}

/// Whether the client is still there: a host that was switched off ends no connection.
struct Presence {
    ping: PingPong,
    asked: bool,
    /// When to ask, or to give up.
    due: Pin<Box<Sleep>>,
}

impl Presence {
    fn new(ping: PingPong) -> Self {
        Self { ping, asked: false, due: Box::pin(tokio::time::sleep(PING_EVERY)) }
    }

    /// Ready when the client did not answer in time.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked && matches!(self.ping.poll_pong(cx), Poll::Ready(Ok(_))) {
                self.asked = false;
                self.due.as_mut().reset(Instant::now() + PING_EVERY);
            }
            if self.due.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.asked || self.ping.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.asked = true;
            self.due.as_mut().reset(Instant::now() + PONG_BOUND);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http_body::Frame;
    use tokio::io::DuplexStream;
    use weft_telemetry::Failure;

    use super::*;
    use crate::error::BodyError;
    use crate::timed::TimedBody;

    /// Reads and answers `/ok`, and leaves everything else unread and unanswered.
    async fn answer(io: DuplexStream) {
        let mut served = builder(Offer::default()).handshake::<_, Bytes>(io).await.expect("a client");
        let mut held = Vec::new();
        while let Some(accepted) = served.accept().await {
            let (mut request, mut respond) = accepted.expect("the connection lasts");
            if request.uri().path() == "/ok" {
                tokio::task::spawn_local(async move {
                    while let Some(data) = request.body_mut().data().await {
                        let length = data.expect("the body comes").len();
                        request.body_mut().flow_control().release_capacity(length).expect("what was received");
                    }
                    respond.send_response(Response::new(()), true).expect("a client that waits");
                });
            } else {
                held.push((request, respond));
            }
        }
    }

    fn request(path: &str) -> Request<()> {
        Request::post(format!("http://board.prod{path}")).body(()).expect("a request")
    }

    #[tokio::test]
    async fn what_one_caller_does_ends_no_connection_that_others_share() {
        let (near, far) = tokio::io::duplex(16 << 20);
        let (mut client, connection) = h2::client::handshake(near).await.expect("room for a preface");
        tokio::spawn(connection);
        let mut left = Vec::new();
        for _ in 0..90 {
            left.push(client.send_request(request("/left"), true).expect("a request goes out").1);
        }
        tokio::task::yield_now().await;
        left.iter_mut().for_each(|stream| stream.send_reset(Reason::CANCEL));
        tokio::task::yield_now().await;
        // Only now is anything read: all in one go.
        tokio::task::LocalSet::new()
            .run_until(async {
                tokio::task::spawn_local(answer(far));
                let ok = client.send_request(request("/ok"), true).expect("a request goes out").0.await;
                assert_eq!(ok.expect("callers that left closed nothing").status(), StatusCode::OK);
                let mut slow = Vec::new();
                for _ in 0..8 {
                    let mut stream = client.send_request(request("/slow"), false).expect("a request goes out");
                    for _ in 0..30_000 {
                        stream.1.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), false).expect("it is queued");
                    }
                    slow.push(stream);
                }
                let (ok, mut stream) = client.send_request(request("/ok"), false).expect("a request goes out");
                stream.send_data(Bytes::from(vec![0; 100_000]), true).expect("it is queued");
                let ok = tokio::time::timeout(Duration::from_secs(30), ok).await.expect("no window is held up");
                assert_eq!(ok.expect("small frames that wait closed nothing").status(), StatusCode::OK);
            })
            .await;
    }

    /// Whatever the client says of why.
    #[tokio::test]
    async fn a_request_that_its_client_resets_is_no_whole_one() {
        for reason in [Reason::NO_ERROR, Reason::CANCEL] {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (mut client, connection) = h2::client::handshake(near).await.expect("room for a preface");
            tokio::spawn(connection);
            let mut served = builder(Offer::default()).handshake::<_, Bytes>(far).await.expect("a client");
            let (_answer, mut stream) = client.send_request(request("/"), false).expect("a request goes out");
            stream.send_data(Bytes::from_static(b"half"), false).expect("it is queued");
            let (request, _respond) = served.accept().await.expect("a request").expect("the connection lasts");
            tokio::spawn(async move { while served.accept().await.is_some() {} });
            let mut body = request.into_body();
            let first = poll_fn(|cx| crate::h2_stream::poll_frame(&mut body, cx)).await;
            assert_eq!(
                first.and_then(Result::ok).and_then(|frame| frame.into_data().ok()).as_deref(),
                Some(&b"half"[..])
            );
            stream.send_reset(reason);
            let next = poll_fn(|cx| crate::h2_stream::poll_frame(&mut body, cx)).await;
            assert!(matches!(next, Some(Err(_))), "{reason:?}: {next:?}");
        }
    }

    /// Answers with so many bytes, and breaks off; at `/endless` it does not.
    #[derive(Clone)]
    struct BreaksOff(usize);

    struct Broken {
        left: usize,
        endless: bool,
    }

    impl http_body::Body for Broken {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            Poll::Ready(Some(match std::mem::take(&mut self.left) {
                _ if self.endless => Ok(Frame::data(Bytes::from(vec![b'e'; 16 * 1024]))),
                0 => Err("it broke".into()),
                length => Ok(Frame::data(Bytes::from(vec![b'x'; length]))),
            }))
        }
    }

    impl TimedBody for Broken {
        fn poll_overdue(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Pending
        }

        fn patience(&self) -> Option<Duration> {
            None
        }

        fn give_up(&mut self) {}
    }

    impl Service for BreaksOff {
        type Body = Broken;

        fn answer(&self, request: ClientRequest) -> impl Future<Output = Response<Broken>> + 'static {
            let endless = request.head.uri().path() == "/endless";
            std::future::ready(Response::new(Broken { left: self.0, endless }))
        }

        fn refuse(&self, failure: Failure, why: String) -> Response<Broken> {
            panic!("{failure:?}: {why}")
        }

        fn drained(&self) -> impl Future<Output = ()> {
            std::future::pending()
        }

        fn is_draining(&self) -> bool {
            false
        }
    }

    /// A connection that takes 4 KiB at a time, and a client that begins to read when all have asked.
    #[tokio::test]
    async fn what_was_said_before_it_broke_off_arrives_on_a_busy_connection() {
        for length in [0, 1, 50_000, 200_000] {
            let (near, far) = tokio::io::duplex(4096);
            let asking = async move {
                let mut builder = h2::client::Builder::new();
                builder.initial_window_size(1 << 24).initial_connection_window_size(1 << 30);
                let (mut client, connection) = builder.handshake::<_, Bytes>(near).await.expect("room for a preface");
                tokio::task::spawn_local(connection);
                let asked: Vec<_> =
                    (0..60).map(|_| client.send_request(request("/"), true).expect("a request goes out").0).collect();
                for answer in asked {
                    let mut body = answer.await.expect("the head was said").into_body();
                    let mut came = 0;
                    let ended = loop {
                        match body.data().await.expect("no end, since it broke off") {
                            Ok(data) => {
                                came += data.len();
                                body.flow_control().release_capacity(data.len()).expect("what was received");
                            }
                            Err(error) => break error.reason(),
                        }
                    };
                    assert_eq!((came, ended), (length, Some(Reason::INTERNAL_ERROR)));
                }
            };
            let both = tokio::task::LocalSet::new();
            both.spawn_local(async move { serve(&BreaksOff(length), Offer::default(), far).await });
            let asked = tokio::time::timeout(Duration::from_secs(60), both.run_until(asking));
            asked.await.expect("every answer ends");
        }
    }

    /// Others keep the connection from ever having nothing to write.
    #[tokio::test]
    async fn that_it_broke_off_is_told_beside_answers_without_end() {
        for length in [0, 1, 3_000, 100_000] {
            let (near, far) = tokio::io::duplex(4096);
            let asking = async move {
                let mut builder = h2::client::Builder::new();
                builder.initial_window_size((1 << 31) - 1).initial_connection_window_size((1 << 31) - 1);
                let (mut client, connection) = builder.handshake::<_, Bytes>(near).await.expect("room for a preface");
                tokio::task::spawn_local(connection);
                for _ in 0..6 {
                    let asked = client.send_request(request("/endless"), true).expect("a request goes out").0;
                    let mut body = asked.await.expect("a head").into_body();
                    tokio::task::spawn_local(async move {
                        while let Some(Ok(data)) = body.data().await {
                            body.flow_control().release_capacity(data.len()).expect("what was received");
                        }
                    });
                }
                let asked = client.send_request(request("/breaks"), true).expect("a request goes out").0;
                let mut body = match asked.await {
                    Ok(answer) => answer.into_body(),
                    Err(error) => return assert_eq!((length, error.reason()), (0, Some(Reason::INTERNAL_ERROR))),
                };
                let mut came = 0;
                let ended = loop {
                    match body.data().await.expect("no end, since it broke off") {
                        Ok(data) => came += data.len(),
                        Err(error) => break error.reason(),
                    }
                };
                assert_eq!((came, ended), (length, Some(Reason::INTERNAL_ERROR)));
            };
            let both = tokio::task::LocalSet::new();
            both.spawn_local(async move { serve(&BreaksOff(length), Offer::default(), far).await });
            let asked = tokio::time::timeout(Duration::from_secs(20), both.run_until(asking));
            asked.await.expect("the break is told");
        }
    }
}
