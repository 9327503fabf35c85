//! A small HTTP/1.1 client: for the control plane's API, for the demo app's calls through its sidecar, and for the tour.
//!
//! One connection, one request after the other; no pool, no redirects, no TLS.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use weft_control::status::ApiError;

use crate::output::hinted;

/// Larger answers are an error.
const MAX_BODY: usize = 16 << 20;
/// From connecting to the last byte.
const BOUND: Duration = Duration::from_secs(20);

/// A whole response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body, with replacement characters for what is not UTF-8.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that is kept between requests.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects to `host:port`.
    pub(crate) async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true).context("setting TCP_NODELAY")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("starting HTTP/1.1")?;
        tokio::spawn(connection); // its error reaches the request that it fails
        Ok(Self { sender })
    }

    /// Whether another request can be sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and reads the whole answer, within 20 s.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply> {
        let exchange = async {
            self.sender.ready().await.context("the connection was closed")?;
            let (parts, body) = self.sender.send_request(request).await.context("sending the request")?.into_parts();
            let body =
                Limited::new(body, MAX_BODY).collect().await.map_err(|error| anyhow!("reading the answer: {error}"))?;
            Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(BOUND, exchange).await.unwrap_or_else(|_| Err(anyhow!("no answer within 20 s")))
    }
}

/// GET of `target` with a Host of its own choosing, as an app sends it to its sidecar.
pub(crate) fn get(host: &str, target: &str) -> Result<Request<Full<Bytes>>> {
    Ok(Request::get(target).header(header::HOST, host).body(Full::default())?)
}

/// One request on a connection of its own.
pub(crate) async fn once(address: &str, request: Request<Full<Bytes>>) -> Result<Reply> {
    Connection::open(address).await?.send(request).await
}

/// The control plane's API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    address: String,
}

impl Api {
    /// At `host:port`.
    pub(crate) fn new(address: impl Into<String>) -> Self {
        let address: String = address.into();
        let address = address.strip_prefix("http://").unwrap_or(&address).trim_end_matches('/').to_owned();
        Self { address }
    }

    /// GET of a path, as a value. A status that is not 2xx is an error with the server's own hint.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(get(&self.address, path)?).await
    }

    /// POST of a value to a path, by the holder of the admin token.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, admin: &str, value: &impl Serialize) -> Result<T> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {admin}"))
            .body(Full::new(serde_json::to_vec(value)?.into()))?;
        self.call(request).await
    }

    /// POST of a value that says by itself who sends it.
    pub(crate) async fn post_signed<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T> {
        let request = Request::post(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(serde_json::to_vec(value)?.into()))?;
        self.call(request).await
    }

    async fn call<T: DeserializeOwned>(&self, request: Request<Full<Bytes>>) -> Result<T> {
        let reply = once(&self.address, request).await.map_err(|error| {
            let hint = "is `weft server` running? name its API address with --server HOST:PORT or WEFT_API";
            hinted(format!("the control plane's API at {} cannot be reached: {error:#}", self.address), hint)
        })?;
        if !reply.status.is_success() {
            return Err(match serde_json::from_slice::<ApiError>(&reply.body) {
                Ok(ApiError { error, hint }) => hinted(error, hint),
                Err(_) => anyhow!("{} answered {}", self.address, reply.status),
            });
        }
        serde_json::from_slice(&reply.body)
            .with_context(|| format!("{} is no control plane of this version", self.address))
    }
}
