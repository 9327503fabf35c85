//! The demo app's long answers: slow lines, an upgraded connection, gRPC.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::body::{Body, full, text};

/// Larger messages end the stream with RESOURCE_EXHAUSTED.
const MAX_MESSAGE: usize = 4 << 20;

/// A body that a task fills; the task waits when the reader is slow, and ends when it is gone.
fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, mut receiver) = mpsc::channel::<Frame<Bytes>>(4);
    let frames = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context).map(|frame| frame.map(Ok)));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

/// `n` lines, one every `ms` milliseconds.
pub(super) fn slow(query: &str) -> Response<Body> {
    let number = |key: &str, default: u64| {
        let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key);
        pair.and_then(|(_, value)| value.parse().ok()).unwrap_or(default)
    };
    let (count, pause) = (number("n", 10), Duration::from_millis(number("ms", 100)));
    let (sender, body) = channel();
    tokio::spawn(async move {
        for n in 1..=count {
            if sender.send(Frame::data(format!("line {n} of {count}\n").into())).await.is_err() {
                return;
            }
            if n < count {
                tokio::time::sleep(pause).await;
            }
        }
    });
    Response::new(body)
}

/// Accepts any `Upgrade` and echoes bytes.
pub(super) fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
        return text(StatusCode::UPGRADE_REQUIRED, "send `Connection: upgrade` and `Upgrade: echo`\n");
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut reader, &mut writer).await; // the peer left
    });
    let mut answer = Response::new(full(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.headers_mut().insert(header::UPGRADE, protocol);
    answer
}

pub(super) fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/grpc"))
}

/// `Say` sends each message back as it comes, `Repeat` five times. Messages are bytes here, so any message type will do.
pub(super) fn grpc(request: Request<Incoming>) -> Response<Body> {
    let times = match request.uri().path() {
        "/weft.demo.v1.Echo/Say" => 1,
        "/weft.demo.v1.Echo/Repeat" => 5,
        _ => return trailers_only("12", "the demo has weft.demo.v1.Echo/Say and /Repeat"),
    };
    let (sender, body) = channel();
    tokio::spawn(async move {
        let (status, message) = match echo_messages(request.into_body(), times, &sender).await {
            Ok(()) => ("0", ""),
            Err(refusal) => refusal,
        };
        let _ = sender.send(Frame::trailers(status_headers(status, message))).await; // the caller left
    });
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

/// Each gRPC message is a flag byte, four bytes of length and that many bytes.
async fn echo_messages(
    mut body: Incoming,
    times: usize,
    sender: &mpsc::Sender<Frame<Bytes>>,
) -> Result<(), (&'static str, &'static str)> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ("13", "the request broke off"))?;
        let Ok(data) = frame.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while buffer.len() >= 5 {
            let length = (&buffer[1..5]).get_u32() as usize;
            if length > MAX_MESSAGE {
                return Err(("8", "a message is larger than 4 MiB"));
            }
            if buffer.len() < 5 + length {
                break;
            }
            let message = buffer.split_to(5 + length).freeze();
            for _ in 0..times {
                sender.send(Frame::data(message.clone())).await.map_err(|_| ("1", "the caller left"))?;
            }
        }
    }
    if buffer.is_empty() { Ok(()) } else { Err(("13", "the request ended within a message")) }
}

fn status_headers(status: &'static str, message: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from_static(status));
    if !message.is_empty() {
        headers.insert("grpc-message", HeaderValue::from_static(message));
    }
    headers
}

fn trailers_only(status: &'static str, message: &'static str) -> Response<Body> {
    let mut answer = Response::new(full(""));
    answer.headers_mut().extend(status_headers(status, message));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}
