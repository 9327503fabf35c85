//! Health and Prometheus endpoint of an agent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use weft_agent::Agent;

/// Listens on `address` for as long as the process lives.
///
/// # Errors
/// The port is taken or not ours.
pub(crate) async fn serve(address: SocketAddr, agent: Agent) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors
                continue;
            };
            let agent = agent.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(request.uri().path(), &agent);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    Ok(())
}

fn answer(path: &str, agent: &Agent) -> Response<Full<Bytes>> {
    match path {
        "/live" | "/healthz/live" => text(StatusCode::OK, "LIVE\n"),
        "/ready" | "/healthz/ready" => match agent.ready() {
            Ok(()) => text(StatusCode::OK, "LIVE\n"),
            Err((word, why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{word}\n{why}\n")),
        },
        "/metrics" | "/stats/prometheus" => text(StatusCode::OK, agent.metrics()),
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
