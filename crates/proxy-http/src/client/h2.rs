//! Requests over HTTP/2 to another sidecar.
//!
//! The connection's task does all reading and writing of its socket: what many requests queue in one turn of the worker
//! leaves in one write. A request only queues its frames; it needs no task unless it has a body.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use weft_model::grpc::is_grpc;
use weft_telemetry::Failure;

use crate::error::{AttemptError, BodyError, Sent};
use crate::h2_stream::{
    self, BreakOff, CONNECTION_WINDOW, SMALL_FRAMES_MAX, STREAM_ERRORS_MAX, STREAM_WINDOW, send_body,
};
use crate::request_body::RequestBody;
use crate::server::Interim;
use crate::way::Stream;

/// Heads of responses larger than this reset their stream. A sidecar lets 64 KiB through; HTTP/2 counts 32 bytes more a field.
const HEAD_MAX: u32 = 128 * 1024;
/// Requests that share a connection, at most; past it another one is opened.
const STREAMS_MAX: usize = 256;

/// One connection. Closes by itself when the last handle is gone and the last stream has ended.
pub struct H2Connection {
    send: SendRequest<Bytes>,
    open: Rc<Cell<bool>>,
    streams: Rc<Cell<usize>>,
    /// The identity's generation that its handshake used.
    pub generation: u64,
    /// Our end's address.
    pub local_address: Option<SocketAddr>,
}

/// How rustls begins to tell of an alert.
const ALERT: &str = "received fatal alert: ";

/// What of TLS or of identities ended a connection, if that did. Over TLS 1.3 a client has shaken hands before the server has looked at
/// its certificate (RFC 8446 s.2).
fn refused(error: &h2::Error, is_tls: bool) -> Option<(Failure, String)> {
    let io = error.get_io().filter(|_| is_tls)?;
    if io.kind() == ErrorKind::PermissionDenied {
        return Some((Failure::PeerIdentityBanned, io.to_string()));
    }
    // h2 keeps no more of an error than its kind and its text.
    let text = io.to_string();
    let Some((_, alert)) = text.split_once(ALERT) else {
        // What is written after a refusal can fail before the alert is read.
        let is_gone =
            matches!(io.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof);
        let why = "the endpoint closed the connection right after the handshake; its own log says why";
        return is_gone.then(|| (Failure::TlsFailed, why.to_owned()));
    };
    let failure = match alert {
        "CertificateExpired" => Failure::IdentityRefused,
        "AccessDenied" => Failure::PeerIdentityMissing,
        _ => Failure::TlsFailed,
    };
    Some((failure, format!("the endpoint refused the handshake with alert {alert}; its own log says why")))
}

impl H2Connection {
    /// Exchanges prefaces and starts the connection's task on this worker. Waits at most `bound` for the SETTINGS with which a
    /// server begins (RFC 9113 s.3.4): only they say how many requests it takes at once, and what is sent beyond that it refuses.
    pub async fn start(stream: Stream, generation: u64, bound: Duration) -> Result<Self, AttemptError> {
        let (local_address, is_tls) = (stream.local_address(), matches!(stream, Stream::Tls(_)));
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX)
            .max_concurrent_reset_streams(256)
            .max_local_error_reset_streams(Some(STREAM_ERRORS_MAX))
            .data_frame_budget(SMALL_FRAMES_MAX)
            .enable_push(false)
            .initial_max_send_streams(0)
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(|error| AttemptError::new(Failure::UpstreamProtocol, Sent::NoConnection, error))?;
        let open = Rc::new(Cell::new(true));
        let closing = open.clone();
        let told_of = Rc::new(Cell::new(None));
        let telling = told_of.clone();
        let (told, settings) = oneshot::channel();
        // A handle would keep the connection open: this one goes as soon as it has told.
        let mut waiting = Some((told, send.clone()));
        let task = tokio::task::spawn_local(async move {
            let ended = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                if let Some((told, _)) = waiting.take_if(|(_, send)| send.current_max_send_streams() > 0) {
                    let _ = told.send(());
                }
                ended
            });
            let ended = ended.await;
            closing.set(false);
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to an endpoint ended");
                let why = || {
                    format!(
                        "the connection ended before its HTTP/2 SETTINGS came ({error}); does the endpoint speak HTTP/2?"
                    )
                };
                telling.set(Some(refused(&error, is_tls).unwrap_or_else(|| (Failure::UpstreamProtocol, why()))));
            }
        });
        let settings = tokio::time::timeout(bound, settings).await;
        if let Some((failure, why)) = told_of.take() {
            return Err(AttemptError::new(failure, Sent::NoConnection, why));
        }
        let why = match settings {
            Ok(Ok(())) => return Ok(Self { send, open, streams: Rc::default(), generation, local_address }),
            Ok(Err(_)) => "the connection ended before its HTTP/2 SETTINGS came; does the endpoint speak HTTP/2?",
            Err(_) => "no HTTP/2 SETTINGS came that allow a request; does the endpoint speak HTTP/2?",
        };
        task.abort();
        Err(AttemptError::new(Failure::UpstreamProtocol, Sent::NoConnection, why))
    }

    /// Whether another request may be put on it.
    pub fn has_room(&self) -> bool {
        self.is_open() && self.streams.get() < STREAMS_MAX.min(self.send.current_max_send_streams())
    }

    /// Whether it can still carry requests.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Whether the peer takes extended CONNECT (RFC 8441), known once its SETTINGS came.
    pub fn takes_extended_connect(&self) -> bool {
        self.send.is_extended_connect_protocol_enabled()
    }

    /// Counts a request on the connection for as long as the guard lives.
    pub fn enter(&self) -> StreamCount {
        self.streams.set(self.streams.get() + 1);
        StreamCount(self.streams.clone())
    }

    /// Waits until a request can be put on it. If it cannot any more, nothing of the request is used up.
    pub async fn ready(&self) -> Result<(), AttemptError> {
        let mut send = self.send.clone();
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(|error| self.unsent(&error))
    }

    fn unsent(&self, error: &h2::Error) -> AttemptError {
        self.open.set(false);
        AttemptError::new(Failure::UpstreamClosed, Sent::NotProcessed, error)
    }

    /// Sends a request and waits for the head of its response; heads that come before it are passed on as they come. The body is
    /// sent beside, for as long as anybody waits for the response or reads it.
    pub async fn send(
        &self,
        request: Request<()>,
        body: RequestBody,
        interim: &mut Interim,
    ) -> Result<Response<H2Body>, AttemptError> {
        let no_body = body.is_end_stream();
        let (response, stream) = self.begin(request, no_body).await?;
        let upload = (!no_body).then(|| {
            let task = tokio::task::spawn_local(send_body(body, stream, BreakOff::Request));
            Upload(task.abort_handle())
        });
        let response = answer(response, interim).await?;
        let (head, stream) = response.into_parts();
        let whole = Whole::of(&head.headers);
        Ok(Response::from_parts(head, H2Body { stream, whole, _upload: upload }))
    }

    /// Opens a two-way stream (extended CONNECT) and waits for the head of its response.
    pub async fn open_tunnel(
        &self,
        request: Request<()>,
        interim: &mut Interim,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), AttemptError> {
        let (response, stream) = self.begin(request, false).await?;
        Ok((answer(response, interim).await?, stream))
    }

    pub(super) async fn begin(
        &self,
        request: Request<()>,
        no_body: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), AttemptError> {
        let mut send = self.send.clone();
        poll_fn(|cx| send.poll_ready(cx)).await.map_err(|error| self.unsent(&error))?;
        send.send_request(request, no_body).map_err(|error| {
            if error.is_io() || error.is_go_away() {
                self.unsent(&error)
            } else {
                AttemptError::new(Failure::UpstreamProtocol, Sent::NotProcessed, error)
            }
        })
    }
}

/// Waits for the head of the response, and passes on what comes before it.
pub(super) async fn answer(
    mut response: ResponseFuture,
    interim: &mut Interim,
) -> Result<Response<RecvStream>, AttemptError> {
    poll_fn(|cx| {
        while let Some(head) = ready!(response.poll_informational(cx)) {
            let head = head.map_err(|error| failed(&error))?;
            if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                let reason = "the endpoint switches protocols, which HTTP/2 does not know (RFC 9113 s.8.6)";
                return Poll::Ready(Err(AttemptError::new(Failure::UpstreamProtocol, Sent::Perhaps, reason)));
            }
            interim.pass_on(head);
        }
        Pin::new(&mut response).poll(cx).map_err(|error| failed(&error))
    })
    .await
}

/// When a response is whole that was reset without an error. That it had an end is forgotten by h2 by then.
enum Whole {
    /// It is one of gRPC, and ends with trailers.
    Never,
    /// When so many more bytes have come.
    After(u64),
    /// It cannot be told.
    Perhaps,
}

impl Whole {
    fn of(headers: &HeaderMap) -> Self {
        let is_grpc = headers.get(header::CONTENT_TYPE).is_some_and(|kind| is_grpc(kind.as_bytes()));
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        match length {
            _ if is_grpc && !headers.contains_key("grpc-status") => Self::Never,
            Some(length) => Self::After(length),
            None => Self::Perhaps,
        }
    }

    fn came(&mut self, bytes: usize) {
        if let Self::After(left) = self {
            *left = left.saturating_sub(bytes as u64);
        }
    }

    fn may_be(&self) -> bool {
        matches!(self, Self::After(0) | Self::Perhaps)
    }
}

/// A response's body as it comes.
pub struct H2Body {
    stream: RecvStream,
    whole: Whole,
    _upload: Option<Upload>,
}

impl H2Body {
    /// Of a request without a body.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, whole: Whole::Perhaps, _upload: None }
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match ready!(h2_stream::poll_frame(&mut self.stream, cx)) {
            // A server that answered in full and does not want the rest of the request (RFC 9113 s.8.1).
            Some(Err(error)) if is_no_error(&error) && self.whole.may_be() => Poll::Ready(None),
            Some(Ok(frame)) => {
                self.whole.came(frame.data_ref().map_or(0, Bytes::len));
                Poll::Ready(Some(Ok(frame)))
            }
            frame => Poll::Ready(frame),
        }
    }

    /// Whether nothing is to come.
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// A request's body on its way. Ends with this value, and the stream with it.
struct Upload(AbortHandle);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One request under way on a connection.
pub struct StreamCount(Rc<Cell<usize>>);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

fn is_no_error(error: &BodyError) -> bool {
    let error = error.downcast_ref::<h2::Error>();
    error.is_some_and(|error| error.is_reset() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR))
}

/// What an error before the response proves (RFC 9113 s.6.8 and s.8.7): a refused stream, or one beyond the last that a
/// GOAWAY names, was not processed.
pub(super) fn failed(error: &h2::Error) -> AttemptError {
    let refused = error.is_remote() && (error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away());
    let sent = if refused { Sent::NotProcessed } else { Sent::Perhaps };
    let failure = if error.is_reset() && error.is_remote() {
        Failure::UpstreamReset
    } else if error.is_io() || error.is_go_away() && error.is_remote() {
        Failure::UpstreamClosed
    } else {
        Failure::UpstreamProtocol // also what made our own end say GOAWAY
    };
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => {
            AttemptError::new(failure, sent, "the request was refused (REFUSED_STREAM)")
        }
        Some(Reason::NO_ERROR) if error.is_go_away() => {
            AttemptError::new(failure, sent, "the connection was going away (GOAWAY) and the request was left out")
        }
        _ => AttemptError::new(failure, sent, error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;

    /// SETTINGS with `MAX_CONCURRENT_STREAMS` 10 (RFC 9113 s.6.5).
    const TEN: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 10];

    /// Our end of a connection, and the peer's.
    async fn accepted() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        (Stream::Clear(near), listener.accept().await.expect("a client").0)
    }

    #[tokio::test]
    async fn no_more_requests_are_taken_than_the_settings_allow() {
        LocalSet::new()
            .run_until(async {
                let (near, far) = accepted().await;
                let told = tokio::task::spawn_local(async move {
                    let mut far = far;
                    far.write_all(&TEN).await.expect("the client reads");
                    far
                });
                let connection = H2Connection::start(near, 0, Duration::from_secs(30)).await.expect("SETTINGS came");
                let _far = told.await.expect("no panic");
                let taken: Vec<_> = (0..10).map(|_| (connection.has_room(), connection.enter())).collect();
                assert!(taken.iter().all(|(room, _)| *room));
                assert!(!connection.has_room(), "an eleventh would be refused");
                drop(taken);
                assert!(connection.has_room());
            })
            .await;
    }

    #[tokio::test]
    async fn a_peer_that_sends_no_settings_is_no_endpoint() {
        LocalSet::new()
            .run_until(async {
                let (near, _silent) = accepted().await;
                let Err(error) = H2Connection::start(near, 0, Duration::from_millis(50)).await else {
                    panic!("it says nothing");
                };
                assert_eq!((error.failure, error.sent), (Failure::UpstreamProtocol, Sent::NoConnection));
            })
            .await;
    }

    /// A frame (RFC 9113 s.4.1) of stream 1, or of the connection.
    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    }

    /// `:status: 200` and a content type, without HPACK's tables (RFC 7541 s.6.2.2).
    fn head(content_type: &str) -> Vec<u8> {
        let mut block = vec![0x88, 0, 12];
        block.extend_from_slice(b"content-type");
        block.push(content_type.len() as u8);
        block.extend_from_slice(content_type.as_bytes());
        frame(1, 4, 1, &block)
    }

    /// Trailers with `grpc-status: 0`.
    fn trailers() -> Vec<u8> {
        frame(1, 5, 1, b"\0\x0bgrpc-status\x010")
    }

    /// What comes of an answer of these frames: its bytes, and whether it broke off.
    async fn answered(answer: Vec<u8>) -> (usize, bool) {
        let (near, mut far) = accepted().await;
        tokio::task::spawn_local(async move {
            far.write_all(&TEN).await.expect("the client reads");
            let mut preface = [0; 24];
            far.read_exact(&mut preface).await.expect("a preface");
            loop {
                let mut head = [0; 9];
                far.read_exact(&mut head).await.expect("a frame");
                let mut payload = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
                far.read_exact(&mut payload).await.expect("all of it");
                if head[3] == 1 {
                    far.write_all(&answer).await.expect("the client reads");
                }
            }
        });
        let connection = H2Connection::start(near, 0, Duration::from_secs(30)).await.expect("SETTINGS came");
        let request = Request::get("http://board.prod/x").body(()).expect("a request");
        let answer = connection.send(request, RequestBody::empty(), &mut Interim::deaf()).await.expect("a head came");
        let mut body = answer.into_body();
        let mut came = 0;
        loop {
            match poll_fn(|cx| body.poll_frame(cx)).await {
                Some(Ok(frame)) => came += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return (came, true),
                None => return (came, false),
            }
        }
    }

    /// A server may reset with NO_ERROR after it has answered in full (RFC 9113 s.8.1). An answer of gRPC is not full without trailers.
    #[tokio::test]
    async fn a_reset_without_an_error_ends_no_answer_of_grpc_that_has_no_trailers() {
        let (data, reset) = (frame(0, 0, 1, b"hello"), frame(3, 0, 1, &[0; 4]));
        let (grpc, plain) = (head("application/grpc"), head("text/plain"));
        let whole = frame(0, 1, 1, b"hello");
        LocalSet::new()
            .run_until(async {
                assert_eq!(answered([&*grpc, &data, &reset].concat()).await, (5, true));
                assert_eq!(answered([&*grpc, &reset].concat()).await, (0, true));
                assert_eq!(answered([&*grpc, &data, &trailers(), &reset].concat()).await, (5, false));
                assert_eq!(answered([&*plain, &whole, &reset].concat()).await, (5, false));
                assert_eq!(answered([&*head("APPLICATION/GRPC"), &data, &reset].concat()).await, (5, true));
                for (length, broke) in [("5", false), ("9", true)] {
                    let field = [b"\0\x0econtent-length\x01", length.as_bytes()].concat();
                    let sized = frame(1, 4, 1, &[&[0x88], &*field].concat());
                    assert_eq!(answered([&*sized, &data, &reset].concat()).await, (5, broke), "{length}");
                }
                // The connection goes away under the answer.
                let goaway = frame(7, 0, 0, &[0; 8]);
                assert_eq!(answered([&*plain, &data, &goaway].concat()).await, (5, true));
            })
            .await;
    }
}
