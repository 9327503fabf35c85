//! A unary call of gRPC over a connection to an endpoint: one message there, one back (gRPC's `PROTOCOL-HTTP2.md`).

use bytes::{BufMut, Bytes, BytesMut};
use h2::RecvStream;
use http::{HeaderMap, Request, Response, StatusCode, header};
use weft_model::grpc::is_grpc;
use weft_telemetry::Failure;

use super::h2::{H2Connection, answer, failed};
use crate::error::{AttemptError, Sent};
use crate::server::Interim;

/// What stands before a message: whether it is compressed (1 byte), and its length (4 bytes).
const PREFIX: usize = 5;

impl H2Connection {
    /// Sends the message and gives the one that comes back, of at most `most` bytes. `head` is without the fields that gRPC demands.
    ///
    /// # Errors
    /// The call did not come about, or its status is not `OK`, or what came back is no message.
    pub async fn unary(&self, mut head: Request<()>, message: &[u8], most: usize) -> Result<Bytes, AttemptError> {
        *head.method_mut() = http::Method::POST;
        let headers = head.headers_mut();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
        let length = u32::try_from(message.len()).map_err(|_| {
            AttemptError::new(Failure::UpstreamProtocol, Sent::NotProcessed, "the message is longer than gRPC can say")
        })?;
        let mut framed = BytesMut::with_capacity(PREFIX + message.len());
        framed.put_u8(0);
        framed.put_u32(length);
        framed.put_slice(message);
        let (response, mut stream) = self.begin(head, false).await?;
        // It is queued whole, and leaves as the window allows.
        stream.send_data(framed.freeze(), true).map_err(|error| failed(&error))?;
        let response = answer(response, &mut Interim::deaf()).await?;
        read(response, most).await
    }
}

async fn read(response: Response<RecvStream>, most: usize) -> Result<Bytes, AttemptError> {
    let (head, mut body) = response.into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE);
    if head.status != StatusCode::OK || !kind.is_some_and(|kind| is_grpc(kind.as_bytes())) {
        return Err(broken(format!("the answer is no gRPC: its status is {}", head.status.as_u16())));
    }
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| failed(&error))?;
        let _ = body.flow_control().release_capacity(data.len()); // the stream may have ended
        if bytes.len() + data.len() > most + PREFIX {
            return Err(broken(format!("the answer is longer than {most} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    // A call that fails before its answer has but one head.
    let trailers = body.trailers().await.map_err(|error| failed(&error))?;
    status(trailers.as_ref().unwrap_or(&head.headers))?;
    let is_whole =
        bytes.len() >= PREFIX && bytes[0] == 0 && bytes[1..PREFIX] == ((bytes.len() - PREFIX) as u32).to_be_bytes();
    if !is_whole {
        return Err(broken("the answer is not one message, uncompressed".to_owned()));
    }
    Ok(bytes.freeze().slice(PREFIX..))
}

fn status(headers: &HeaderMap) -> Result<(), AttemptError> {
    let text = |name| headers.get(name).map(|value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()));
    match text("grpc-status") {
        Some(code) if code == "0" => Ok(()),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(broken(format!("the answer is the status {code} of gRPC: {message}")))
        }
        None => Err(broken("the answer has no status of gRPC".to_owned())),
    }
}

fn broken(reason: String) -> AttemptError {
    AttemptError::new(Failure::UpstreamProtocol, Sent::Perhaps, reason)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;
    use crate::way::Stream;

    /// What comes of a call that is answered with this body and these trailers.
    async fn called(body: &'static [u8], trailers: Option<&'static str>) -> Result<Bytes, String> {
        let answer = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let near = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
            let (far, _) = listener.accept().await.expect("a client");
            let server = tokio::task::spawn_local(async move {
                let mut server = h2::server::handshake(far).await.expect("HTTP/2");
                let (mut request, mut respond) = server.accept().await.expect("a request").expect("HTTP/2");
                let sent = tokio::task::spawn_local(async move {
                    let mut sent = Vec::new();
                    while let Some(data) = request.body_mut().data().await {
                        sent.extend_from_slice(&data.expect("whole"));
                    }
                    assert_eq!(request.headers()["te"], "trailers");
                    assert_eq!(sent, b"\0\0\0\0\x02hi");
                    let head = Response::builder().header("content-type", "application/grpc").body(()).expect("legal");
                    let mut stream = respond.send_response(head, false).expect("it waits");
                    stream.send_data(Bytes::from_static(body), trailers.is_none()).expect("it waits");
                    if let Some(status) = trailers {
                        let mut fields = HeaderMap::new();
                        fields.insert("grpc-status", http::HeaderValue::from_static(status));
                        fields.insert("grpc-message", http::HeaderValue::from_static("why"));
                        stream.send_trailers(fields).expect("it waits");
                    }
                });
                while server.accept().await.is_some() {}
                sent.await.expect("no panic");
            });
            let connection =
                H2Connection::start(Stream::Clear(near), 0, Duration::from_secs(30)).await.expect("SETTINGS came");
            let head = Request::builder().uri("http://authz/a.B/C").body(()).expect("legal");
            let told = connection.unary(head, b"hi", 8).await.map_err(|error| error.reason);
            drop(connection);
            server.await.expect("no panic");
            told
        };
        LocalSet::new().run_until(answer).await
    }

    #[tokio::test]
    async fn one_message_comes_back_or_it_is_said_why_not() {
        assert_eq!(called(b"\0\0\0\0\x03you", Some("0")).await.as_deref(), Ok(&b"you"[..]));
        assert_eq!(called(b"\0\0\0\0\0", Some("0")).await.as_deref(), Ok(&b""[..]));
        for (body, trailers, why) in [
            (&b"\0\0\0\0\x03you"[..], Some("7"), "the answer is the status 7 of gRPC: why"),
            (b"\0\0\0\0\x03you", None, "the answer has no status of gRPC"),
            (b"\0\0\0\0\x04you", Some("0"), "the answer is not one message, uncompressed"),
            (b"\x01\0\0\0\x03you", Some("0"), "the answer is not one message, uncompressed"),
            (b"", Some("0"), "the answer is not one message, uncompressed"),
            (b"\0\0\0\0\x09too long!", Some("0"), "the answer is longer than 8 bytes"),
        ] {
            assert_eq!(called(body, trailers).await, Err(why.to_owned()), "{body:?}");
        }
    }
}
