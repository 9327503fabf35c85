//! `weft demo`: an app to try a mesh with. Plain HTTP/1.1 and HTTP/2 in clear; it knows of the mesh only its sidecar's egress.

mod body;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;

use crate::address::address;
use crate::http::{get, once};
use body::{Body, full, text};

const PATHS: &str = "  GET  /                   who answers, and the request as it arrived, as JSON
  GET  /hello              a line of text
  GET  /call/HOST/PATH     calls HOST through the sidecar, answers with status and body
  POST /echo               the body, streamed back
  GET  /stream?n=10&ms=100 n lines, one every ms milliseconds
  GET  /status/CODE        that status
  *    /ws                 Upgrade: echo, then bytes come back as they are sent
  gRPC /weft.demo.v1.Echo/Say and /Repeat: each message comes back once, or five times";

/// Run an app to try a mesh with
///
/// It speaks HTTP/1.1, HTTP/2 in clear and gRPC.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Paths:\n{PATHS}"))]
pub(crate) struct Args {
    /// What it calls itself in answers
    #[arg(long, default_value = "demo")]
    name: String,
    /// Where it listens [default: 127.0.0.1:$PORT, or 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Its sidecar's egress, for /call
    #[arg(long, value_name = "HOST:PORT", env = "EGRESS", default_value = "127.0.0.1:15001")]
    egress: String,
}

struct App {
    name: String,
    egress: String,
}

/// Runs until it is killed.
pub(crate) async fn run(args: Args) -> Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    let listen = args.listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
    tracing::info!(name = args.name, %listen, egress = args.egress, "demo app");
    let app = Arc::new(App { name: args.name, egress: args.egress });
    let mut stop = weft_process::signal::Stop::listen()?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = stop.wait() => return Ok(()),
        };
        let _ = stream.set_nodelay(true); // only a matter of speed
        let app = app.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let app = app.clone();
                async move { Ok::<_, Infallible>(app.answer(request).await) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await; // the peer left
        });
    }
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if stream::is_grpc(&request) {
            return stream::grpc(request);
        }
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match (&method, path.as_str()) {
            (_, "/ws") => stream::upgrade(request),
            (&Method::POST, "/echo") => echo(request),
            (_, "/stream") => stream::slow(request.uri().query().unwrap_or("")),
            (_, "/hello") => text(StatusCode::OK, format!("hello from {}\n", self.name)),
            (_, path) if path.starts_with("/call/") => self.call(&request).await,
            (_, path) => match path.strip_prefix("/status/").map(|code| (code, code.parse().ok())) {
                Some((_, Some(code))) => text(StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST), ""),
                Some((code, None)) => text(StatusCode::BAD_REQUEST, format!("`{code}` is no status\n")),
                None => self.describe(&request),
            },
        }
    }

    /// `/call/board.prod/api/pins` calls `http://board.prod/api/pins`.
    async fn call(&self, request: &Request<Incoming>) -> Response<Body> {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let target = target.strip_prefix("/call/").unwrap_or_default();
        let (host, path) = target.split_at(target.find('/').unwrap_or(target.len()));
        let path = if path.is_empty() { "/" } else { path };
        let call = async {
            let mut call = get(host, path)?;
            *call.method_mut() = request.method().clone();
            // What belongs together in a trace stays together; the rest of the headers is between this app and its caller.
            for name in ["traceparent", "tracestate", "x-request-id"] {
                if let Some(value) = request.headers().get(name) {
                    call.headers_mut().insert(name, value.clone());
                }
            }
            once(&self.egress, call).await
        };
        match call.await {
            Ok(reply) => {
                let mut answer = Response::new(full(reply.body));
                *answer.status_mut() = reply.status;
                for name in [header::CONTENT_TYPE, http::HeaderName::from_static("proxy-status")] {
                    if let Some(value) = reply.headers.get(&name) {
                        answer.headers_mut().insert(name, value.clone());
                    }
                }
                answer
            }
            Err(error) => text(StatusCode::BAD_GATEWAY, format!("calling {host} through {}: {error:#}\n", self.egress)),
        }
    }

    fn describe(&self, request: &Request<Incoming>) -> Response<Body> {
        let headers: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        let answer = json!({
            "app": self.name,
            "method": request.method().as_str(),
            "path": request.uri().path_and_query().map(|path| path.as_str()),
            "version": format!("{:?}", request.version()),
            "headers": headers,
        });
        let mut answer = text(StatusCode::OK, format!("{answer:#}\n"));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }
}

fn echo(request: Request<Incoming>) -> Response<Body> {
    let kind = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut answer = Response::new(request.into_body().boxed());
    if let Some(kind) = kind {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    answer
}
