//! The app behind a sidecar: a plain HTTP/1.1 server in the test's own process, so that a test sees exactly what arrives.
//!
//! | path | does |
//! |---|---|
//! | `/echo` | streams the request's body back, chunk by chunk, with the same content type |
//! | `/count` | reads the whole body and answers with its length, a checksum and the names of its trailers |
//! | `/bytes/N` | answers with N bytes |
//! | `/hold` | reads one chunk of the body, then nothing until [`App::release`]; answers with the length in the end |
//! | `/flood` | sends as much as the reader takes, up to 128 MiB; [`App::flooded`] says how much was taken |
//! | `/status/N` | answers with status N |
//! | `/api/hop` | answers with fields for one connection, and one that is kept |
//! | `/api/fields` | answers with 200 fields |
//! | anything else | describes the request in JSON: app, method, target, version, headers |

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::ports;

/// Starts an app that speaks no HTTP: it sends back what it gets, for as long as the test's process lives.
pub fn echo_bytes() -> SocketAddr {
    let address = ports::free();
    let listener = std::net::TcpListener::bind(address).expect("the port is free");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

/// Starts an app that answers the requests of each connection with these bytes, one after the other, and closes it after the last. Each
/// request, which must be small, is told to the receiver.
pub fn scripted(answers: &'static [&'static [u8]]) -> (SocketAddr, mpsc::Receiver<()>) {
    let address = ports::free();
    let listener = std::net::TcpListener::bind(address).expect("the port is free");
    let (count, counted) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            for answer in answers {
                if !stream.read(&mut head).is_ok_and(|length| length > 0) {
                    break;
                }
                let _ = count.send(());
                let _ = stream.write_all(answer);
            }
        }
    });
    (address, counted)
}

/// What `/flood` sends in all.
pub const FLOOD: u64 = 128 << 20;

type Body = BoxBody<Bytes, hyper::Error>;

#[derive(Debug)]
struct State {
    name: String,
    release: Notify,
    flooded: AtomicU64,
    held: AtomicU64,
    requests: AtomicU64,
}

/// A running app; it ends with this value.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl App {
    /// Starts an app that calls itself `name` on a free port.
    pub fn start(name: &str) -> Self {
        let address = ports::free();
        let state = Arc::new(State {
            name: name.to_owned(),
            release: Notify::new(),
            flooded: AtomicU64::new(0),
            held: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(address)).expect("the port is free");
        runtime.spawn(accept(listener, state.clone()));
        Self { address, state, runtime: Some(runtime) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests that have reached it.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// Lets `/hold` read on.
    pub fn release(&self) {
        self.state.release.notify_one();
    }

    /// Requests to `/hold` whose first chunk has been read.
    pub fn held(&self) -> u64 {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Bytes of `/flood` that the transport has taken.
    pub fn flooded(&self) -> u64 {
        self.state.flooded.load(Ordering::Relaxed)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let state = state.clone();
        let service = service_fn(move |request| {
            let state = state.clone();
            async move { Ok::<_, Infallible>(answer(request, &state).await) }
        });
        // Header names are kept in the sender's case only where hyper must; the tests compare them in lower case.
        let server = http1::Builder::new().max_headers(300).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(server.with_upgrades());
    }
}

async fn answer(request: Request<Incoming>, state: &Arc<State>) -> Response<Body> {
    state.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().to_owned();
    if let Some(size) = path.strip_prefix("/bytes/").and_then(|n| n.parse::<usize>().ok()) {
        return text(StatusCode::OK, vec![b'x'; size]);
    }
    if let Some(status) = path.strip_prefix("/status/").and_then(|n| n.parse::<u16>().ok()) {
        return text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), format!("{status}\n"));
    }
    match path.as_str() {
        "/echo" => {
            let kind = request.headers().get(CONTENT_TYPE).cloned();
            let mut response = Response::new(request.into_body().boxed());
            if let Some(kind) = kind {
                response.headers_mut().insert(CONTENT_TYPE, kind);
            }
            response
        }
        "/count" => count(request.into_body(), || std::future::ready(())).await,
        "/hold" => {
            state.held.fetch_add(1, Ordering::Relaxed);
            count(request.into_body(), || state.release.notified()).await
        }
        "/flood" => Response::new(flood(state.clone())),
        "/api/hop" => {
            let fields = [("connection", "x-hop"), ("keep-alive", "timeout=5"), ("x-hop", "1"), ("x-kept", "1")];
            with_fields(fields.map(|(name, value)| (name.to_owned(), value)))
        }
        "/api/fields" => with_fields((0..200).map(|n| (format!("x-{n}"), "1"))),
        _ => describe(&request, &state.name),
    }
}

/// Reads the first chunk, waits, reads the rest.
async fn count<F: Future<Output = ()>>(mut body: Incoming, wait: impl FnOnce() -> F) -> Response<Body> {
    let (mut length, mut sum) = (0u64, 0u64);
    let mut wait = Some(wait);
    let mut trailers = String::new();
    loop {
        match body.frame().await {
            None => return text(StatusCode::OK, format!("{length} {sum}{trailers}")),
            Some(Err(error)) => return text(StatusCode::BAD_REQUEST, format!("body: {error}")),
            Some(Ok(frame)) => {
                let data = match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => {
                        let names = frame.trailers_ref().into_iter().flat_map(|t| t.keys());
                        trailers.extend(names.map(|name| format!(" {name}")));
                        continue;
                    }
                };
                length += data.len() as u64;
                sum += data.iter().map(|b| u64::from(*b)).sum::<u64>();
            }
        }
        if let Some(wait) = wait.take() {
            wait().await;
        }
    }
}

fn flood(state: Arc<State>) -> Body {
    const CHUNK: usize = 64 << 10;
    let chunk = Bytes::from(vec![b'f'; CHUNK]);
    let mut left = FLOOD;
    let chunks = stream::poll_fn(move |_| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= CHUNK as u64;
        state.flooded.fetch_add(CHUNK as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok::<_, hyper::Error>(Frame::data(chunk.clone()))))
    });
    BodyExt::boxed(StreamBody::new(chunks))
}

fn describe(request: &Request<Incoming>, name: &str) -> Response<Body> {
    let headers: Vec<_> =
        request.headers().iter().map(|(n, v)| json!([n.as_str(), String::from_utf8_lossy(v.as_bytes())])).collect();
    let answer = json!({
        "app": name,
        "method": request.method().as_str(),
        "target": request.uri().to_string(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    let mut response = text(StatusCode::OK, answer.to_string());
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}

fn with_fields(fields: impl IntoIterator<Item = (String, &'static str)>) -> Response<Body> {
    let mut response = text(StatusCode::OK, "ok");
    for (name, value) in fields {
        let name = hyper::header::HeaderName::try_from(name).expect("a field name");
        response.headers_mut().append(name, hyper::header::HeaderValue::from_static(value));
    }
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response
}
