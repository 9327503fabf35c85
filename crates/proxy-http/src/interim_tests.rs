//! What comes before an answer, from an app to its caller: over both ends of two hops, as in a mesh, on loopback.

use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;
use weft_telemetry::Failure;

use crate::client::{H1Connection, H2Connection};
use crate::headers::{Reserved, strip_hop_by_hop};
use crate::server::{ClientRequest, Interim, Service, h1, h2};
use crate::timed::TimedBody;
use crate::{RequestBody, Stream, UpstreamBody};

const BOUND: Duration = Duration::from_secs(60);

/// Nothing here takes its time.
impl TimedBody for UpstreamBody {
    fn poll_overdue(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn give_up(&mut self) {}
}

/// Sends everything on to one endpoint.
#[derive(Clone)]
struct Hop {
    to: SocketAddr,
    speaks_h2: bool,
    /// Whether callers have leave to send at once.
    gives_leave: bool,
}

impl Service for Hop {
    type Body = UpstreamBody;

    fn answer(&self, request: ClientRequest) -> impl Future<Output = Response<UpstreamBody>> + 'static {
        self.clone().send_on(request)
    }

    fn refuse(&self, failure: Failure, why: String) -> Response<UpstreamBody> {
        panic!("{failure:?}: {why}")
    }

    fn drained(&self) -> impl Future<Output = ()> {
        pending()
    }

    fn is_draining(&self) -> bool {
        false
    }
}

impl Hop {
    async fn send_on(self, request: ClientRequest) -> Response<UpstreamBody> {
        let ClientRequest { mut head, body, mut interim, .. } = request;
        if self.gives_leave {
            interim.give_leave_and_end(head.headers_mut());
        }
        let body = RequestBody::new(body, Rc::default(), &Arc::<Reserved>::default(), Instant::now());
        strip_hop_by_hop(head.headers_mut());
        let answered = if self.speaks_h2 {
            send_h2(self.to, head, body, &mut interim).await
        } else {
            let sent = H1Connection::new(dial(self.to).await).send(head, body, &mut interim).await;
            sent.map(|response| response.map(UpstreamBody::H1)).map_err(|(error, _)| error.reason)
        };
        answered.unwrap_or_else(|why| {
            let mut response = Response::new(UpstreamBody::Whole(Some(Bytes::from(why))));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        })
    }
}

async fn send_h2(
    to: SocketAddr,
    mut head: Request<()>,
    body: RequestBody,
    interim: &mut Interim,
) -> Result<Response<UpstreamBody>, String> {
    *head.uri_mut() = format!("http://board.prod{}", head.uri().path()).parse().expect("a URI");
    let connection = H2Connection::start(dial(to).await, 0, BOUND).await.map_err(|error| error.reason)?;
    let response = connection.send(head, body, interim).await.map_err(|error| error.reason)?;
    Ok(response.map(UpstreamBody::H2))
}

async fn dial(to: SocketAddr) -> Stream {
    Stream::Clear(TcpStream::connect(to).await.expect("somebody listens"))
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// A hop whose clients speak HTTP/1.1, or HTTP/2.
async fn hop(clients_speak_h2: bool, hop: Hop) -> SocketAddr {
    let (listener, address) = listen().await;
    spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let hop = hop.clone();
            spawn_local(async move {
                if clients_speak_h2 {
                    h2::serve(&hop, h2::Offer::default(), tcp).await;
                } else {
                    h1::serve(&hop, Box::new(tcp), BytesMut::new()).await;
                }
            });
        }
    });
    address
}

/// A client, two hops with HTTP/2 between them, an app: the ends of both connections.
async fn chain() -> (Peer, Peer) {
    let (listener, app) = listen().await;
    let ingress = hop(true, Hop { to: app, speaks_h2: false, gives_leave: false }).await;
    let egress = hop(false, Hop { to: ingress, speaks_h2: true, gives_leave: false }).await;
    ends(listener, egress).await
}

/// The connection of a client whose request has begun, and that of its app.
async fn ends(app: TcpListener, egress: SocketAddr) -> (Peer, Peer) {
    let mut client = Peer::new(TcpStream::connect(egress).await.expect("the hop listens"));
    // Nothing is dialled before there is a request.
    client.say("POST /a HTTP/1.").await;
    let waiting = spawn_local(async move { app.accept().await.expect("a hop that dials").0 });
    (client, Peer { stream: None, waiting: Some(waiting), read: Vec::new() })
}

/// One end of a connection, in bytes that are written here.
struct Peer {
    stream: Option<TcpStream>,
    waiting: Option<tokio::task::JoinHandle<TcpStream>>,
    read: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Self { stream: Some(stream), waiting: None, read: Vec::new() }
    }

    async fn stream(&mut self) -> &mut TcpStream {
        if let Some(waiting) = self.waiting.take() {
            self.stream = Some(waiting.await.expect("no panic"));
        }
        self.stream.as_mut().expect("a connection")
    }

    async fn say(&mut self, bytes: &str) {
        self.stream().await.write_all(bytes.as_bytes()).await.expect("it is read");
    }

    /// The next bytes up to and with `end`.
    async fn hear(&mut self, end: &str) -> String {
        loop {
            let place = self.read.windows(end.len()).position(|part| part == end.as_bytes());
            if let Some(at) = place {
                return String::from_utf8(self.read.drain(..at + end.len()).collect()).expect("text");
            }
            let mut more = Vec::with_capacity(64 << 10);
            let count = self.stream().await.read_buf(&mut more).await.expect("bytes");
            assert!(count > 0, "the end came before {end:?}: {:?}", String::from_utf8_lossy(&self.read));
            self.read.extend(more);
        }
    }

    async fn head(&mut self) -> String {
        self.hear("\r\n\r\n").await
    }

    /// Everything until the end, which must come.
    async fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.read);
        self.stream().await.read_to_end(&mut rest).await.expect("an end");
        String::from_utf8(rest).expect("text")
    }
}

/// Runs a test on one thread, as a worker runs its connections.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bounded = async { tokio::time::timeout(BOUND, test).await.expect("nobody waits for ever") };
    LocalSet::new().block_on(&runtime, bounded);
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const NO_BODY: &str = "1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
const EXPECTS: &str = "1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";

#[test]
fn hints_are_passed_on_as_they_come() {
    run(async {
        let (mut client, mut app) = chain().await;
        client.say(NO_BODY).await;
        app.head().await;
        let hop_by_hop =
            "connection: x-hop\r\nx-hop: 1\r\nkeep-alive: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n";
        app.say(&format!("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n{hop_by_hop}\r\n")).await;
        // The client hears it while the app has nothing else to say yet.
        assert_eq!(client.head().await, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n");
        app.say("HTTP/1.1 103 Early Hints\r\nlink: </c>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n").await;
        assert_eq!(client.head().await, "HTTP/1.1 103 Early Hints\r\nlink: </c>\r\n\r\n");
        assert_eq!(client.head().await, "HTTP/1.1 102 Processing\r\n\r\n");
        app.say(&format!("HTTP/1.1 199 What\r\n\r\n{OK}")).await;
        assert_eq!(client.head().await, "HTTP/1.1 199 \r\n\r\n");
        assert_eq!(client.head().await, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n");
        assert_eq!(client.hear("ok").await, "ok");
    });
}

#[test]
fn an_old_client_hears_the_answer_alone() {
    run(async {
        let (mut client, mut app) = chain().await;
        client.say("0\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc").await;
        let asked = app.head().await;
        assert!(!asked.contains("expect"), "HTTP/1.0 expects nothing: {asked}");
        app.say(&format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{OK}")).await;
        assert_eq!(client.rest().await, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    });
}

#[test]
fn the_app_says_whether_it_wants_the_body() {
    run(async {
        let (mut client, mut app) = chain().await;
        client.say(EXPECTS).await;
        let asked = app.head().await;
        assert!(asked.contains("\r\nexpect: 100-continue\r\n"), "{asked}");
        app.say("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.say("abc").await;
        assert_eq!(app.hear("abc").await, "abc");
        app.say(OK).await;
        // The body came, so another request can follow.
        assert_eq!(client.hear("ok").await, OK);
    });
}

#[test]
fn an_app_can_refuse_a_body_unsent() {
    run(async {
        let (mut client, mut app) = chain().await;
        client.say(EXPECTS).await;
        app.head().await;
        app.say("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno").await;
        // Nobody can tell whether what comes next is the body or another request (RFC 9110 s.10.1.1).
        let told = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
        assert_eq!(client.rest().await, told);
        assert_eq!(app.rest().await, "", "no byte of a body");
    });
}

#[test]
fn a_client_need_not_wait_for_leave() {
    run(async {
        let (mut client, mut app) = chain().await;
        client.say(&format!("{EXPECTS}abc")).await;
        app.head().await;
        assert_eq!(app.hear("abc").await, "abc");
        app.say(OK).await;
        assert_eq!(client.hear("ok").await, OK);
    });
}

#[test]
fn a_hop_can_give_leave_itself() {
    run(async {
        let (listener, app) = listen().await;
        let egress = hop(false, Hop { to: app, speaks_h2: false, gives_leave: true }).await;
        let (mut client, mut app) = ends(listener, egress).await;
        client.say(EXPECTS).await;
        assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
        let asked = app.head().await;
        assert!(!asked.contains("expect"), "{asked}");
        client.say("abc").await;
        app.hear("abc").await;
        app.say(&format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{OK}")).await;
        assert_eq!(client.hear("ok").await, OK);
    });
}

#[test]
fn hints_without_end_keep_nobody_from_an_answer() {
    run(async {
        for (hint, passed_on) in [("x".to_owned(), 32), ("x".repeat(30 << 10), 2)] {
            let (mut client, mut app) = chain().await;
            client.say(NO_BODY).await;
            app.head().await;
            app.say(&format!("HTTP/1.1 103 Early Hints\r\nlink: {hint}\r\n\r\n").repeat(100)).await;
            app.say(OK).await;
            let told = client.hear("\r\n\r\nok").await;
            assert_eq!(told.matches("HTTP/1.1 103").count(), passed_on, "{} bytes each", hint.len());
            assert!(told.ends_with(OK));
        }
    });
}

/// An app that has begun to answer has the request: it is not sent again.
#[test]
fn an_app_that_leaves_after_a_hint_is_not_asked_twice() {
    run(async {
        let (mut client, mut app) = chain().await;
        client.say(NO_BODY).await;
        app.head().await;
        app.say("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 103"));
        drop(app);
        assert!(client.head().await.starts_with("HTTP/1.1 502"));
    });
    run(async {
        let (listener, address) = listen().await;
        let asked = spawn_local(async move {
            let mut interim = Interim::deaf();
            let head = Request::get("/").body(()).expect("a request");
            H1Connection::new(dial(address).await).send(head, RequestBody::empty(), &mut interim).await
        });
        let mut app = Peer::new(listener.accept().await.expect("a caller").0);
        app.head().await;
        app.say("HTTP/1.1 103 Early Hints\r\n\r\n").await;
        drop(app);
        let Err((_, again)) = asked.await.expect("no panic") else { panic!("no answer came") };
        assert!(again.is_none());
    });
}

/// A gRPC app that hints, and then ends its answer with trailers; and what HTTP/2 does not know.
#[test]
fn apps_that_speak_http2_are_heard_too() {
    run(async {
        let (listener, app) = listen().await;
        let served = spawn_local(async move {
            for status in [StatusCode::EARLY_HINTS, StatusCode::SWITCHING_PROTOCOLS] {
                let tcp = listener.accept().await.expect("a hop that dials").0;
                let mut served = ::h2::server::handshake(tcp).await.expect("a preface");
                let (_, mut respond) = served.accept().await.expect("a request").expect("a whole one");
                spawn_local(async move { while served.accept().await.is_some() {} });
                let mut hint = Response::new(());
                *hint.status_mut() = status;
                hint.headers_mut().insert("link", HeaderValue::from_static("x"));
                respond.send_informational(hint).expect("a client that waits");
                if let Ok(mut stream) = respond.send_response(Response::new(()), false) {
                    let trailers = [("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))];
                    let _ = stream.send_trailers(trailers.into_iter().collect());
                }
            }
        });
        let ingress = hop(true, Hop { to: app, speaks_h2: true, gives_leave: false }).await;
        let tcp = TcpStream::connect(ingress).await.expect("the hop listens");
        let (mut client, connection) = ::h2::client::handshake(tcp).await.expect("a preface");
        spawn_local(connection);
        let mut ask = || client.send_request(Request::get("http://board.prod/a").body(()).expect("a request"), true);
        let mut asked = ask().expect("an open connection").0;
        let hint = poll_fn(|cx| asked.poll_informational(cx)).await.expect("a hint").expect("no error");
        assert_eq!((hint.status(), &hint.headers()["link"]), (StatusCode::EARLY_HINTS, &HeaderValue::from_static("x")));
        assert!(poll_fn(|cx| asked.poll_informational(cx)).await.is_none(), "one hint");
        let mut answer = asked.await.expect("an answer").into_body();
        assert_eq!(answer.trailers().await.expect("no error").expect("trailers")["grpc-status"], "0");
        let refused = ask().expect("an open connection").0.await.expect("an answer");
        assert_eq!(refused.status(), StatusCode::BAD_GATEWAY);
        served.await.expect("no panic");
    });
}
