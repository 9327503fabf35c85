//! Health and Prometheus endpoints beside Envoy, under the paths that our own data plane has.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
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
use weft_control::status::unix_seconds;
use weft_decision_log::plain_text::{HELP, METRIC};

use super::envoy::Envoy;
use crate::http::{get, once};

/// Listens on `address` for as long as the process lives.
pub(crate) async fn serve(address: SocketAddr, envoy: Arc<Envoy>) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await; // out of descriptors
                continue;
            };
            let envoy = envoy.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let envoy = envoy.clone();
                async move { Ok::<_, Infallible>(answer(request.uri().path(), &envoy).await) }
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

async fn answer(path: &str, envoy: &Envoy) -> Response<Full<Bytes>> {
    match path {
        "/ready" | "/healthz/ready" => ready(envoy).await,
        "/stats/prometheus" | "/metrics" => {
            let scrape = async { once(&envoy.admin.to_string(), get("envoy", "/stats/prometheus")?).await };
            match scrape.await {
                Ok(reply) if reply.status.is_success() => {
                    let own = certificate_expiry(envoy) + &plain_text(envoy);
                    text(reply.status, [&reply.body[..], own.as_bytes()].concat())
                }
                Ok(reply) => text(reply.status, reply.body),
                Err(error) => text(StatusCode::BAD_GATEWAY, format!("{error:#}\n")),
            }
        }
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

/// Envoy goes on with a certificate that has expired, and its peers refuse it: the identity is looked at here.
async fn ready(envoy: &Envoy) -> Response<Full<Bytes>> {
    match envoy.identity.fault() {
        Some(fault) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n{fault}\n", fault.cause().to_ascii_uppercase()))
        }
        None if envoy.is_app_gone() => text(StatusCode::SERVICE_UNAVAILABLE, "APP_UNREACHABLE\n"),
        None if envoy.is_ready().await => text(StatusCode::OK, "LIVE\n"),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "INITIALIZING\n"),
    }
}

/// What Envoy cannot tell, as our own data plane tells it: Envoy's certificates come from here.
fn certificate_expiry(envoy: &Envoy) -> String {
    let expires = envoy.identity.load().svid().map_or(0, |svid| unix_seconds(svid.not_after()));
    let name = "weft_certificate_expiry_seconds";
    format!("# HELP {name} Unix time at which the certificate expires.\n# TYPE {name} gauge\n{name} {expires}\n")
}

fn plain_text(envoy: &Envoy) -> String {
    let samples = envoy.plain_text.samples();
    let samples: String = samples.iter().map(|(label, value)| format!("{METRIC}{label} {value}\n")).collect();
    format!("# HELP {METRIC} {HELP}\n# TYPE {METRIC} counter\n{samples}")
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
