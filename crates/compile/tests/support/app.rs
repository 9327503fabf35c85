//! Apps behind the sidecars. `x-delay-ms` makes the HTTP one slow.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Tells what it was asked; echoes the bytes of a WebSocket.
pub async fn http(at: SocketAddr, instance: &'static str) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| async move {
                let delay = request.headers().get("x-delay-ms").and_then(|value| value.to_str().ok()?.parse().ok());
                tokio::time::sleep(Duration::from_millis(delay.unwrap_or(0))).await;
                Ok::<_, Infallible>(answer(request, instance))
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
}

fn answer(mut request: Request<Incoming>, instance: &str) -> Response<Full<Bytes>> {
    if request.headers().contains_key("upgrade") {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
            tokio::io::copy(&mut read, &mut write).await
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        response.headers_mut().insert("connection", "upgrade".parse().unwrap());
        return response;
    }
    let headers: BTreeMap<_, _> = request
        .headers()
        .iter()
        .map(|(key, value)| (key.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let told = serde_json::json!({
        "instance": instance,
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": headers,
    });
    let mut response = Response::new(Full::new(Bytes::from(told.to_string())));
    response.headers_mut().insert("server", "the-app".parse().unwrap());
    response
}

/// Answers by the path, in bytes that no library would write, and says how many of its connections are open.
pub async fn plain(at: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(at).await.unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let count = open.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                count.fetch_add(1, Relaxed);
                let _ = answer_plainly(stream).await;
                count.fetch_sub(1, Relaxed);
            });
        }
    });
    open
}

async fn answer_plainly(mut stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read).lines();
    let mut target = String::new();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, rest)) = line.split_once(' ').filter(|_| line.ends_with(" HTTP/1.1")) {
            target = rest.trim_end_matches(" HTTP/1.1").to_owned();
        }
        if !line.is_empty() {
            continue;
        }
        let answer = match &*target {
            "/hop" => "200 OK\r\nconnection: keep-alive, X-Hop\r\nx-hop: 1\r\nx-kept: 1\r\ncontent-length: 2\r\n\r\nok",
            "/both-framings" => "200 OK\r\ncontent-length: 7\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "/equal-lengths" => "200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
            "/204-chunked" => "204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
            "/trailers" => "200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n",
            "/no-websocket" => "200 OK\r\ncontent-length: 2\r\n\r\nno",
            _ => "",
        };
        let answer = match answer {
            "" => format!("200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len()),
            answer => answer.to_owned(),
        };
        write.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await?;
    }
    Ok(())
}

/// What the TCP app says first.
pub const GREETING: &[u8] = b"welcome\n";

/// Greets, and echoes bytes.
pub async fn tcp(at: SocketAddr) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                write.write_all(GREETING).await?;
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
}
