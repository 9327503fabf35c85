//! Many gRPC calls at once on one HTTP/2 connection to an egress.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::Request;
use tokio::net::TcpStream;

/// Makes `count` unary calls at once, each with a small message, and gives what became of each: `0` is gRPC's OK.
pub fn unary_calls(egress: SocketAddr, host: &str, count: usize) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tcp = TcpStream::connect(egress).await.expect("the egress accepts");
        let (send, connection) = h2::client::handshake(tcp).await.expect("the egress speaks HTTP/2");
        tokio::spawn(connection);
        let calls = (0..count).map(|_| call(send.clone(), host));
        futures_util::future::join_all(calls).await
    })
}

async fn call(send: SendRequest<Bytes>, host: &str) -> String {
    let request = Request::post(format!("http://{host}/weft.test.Greeter/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let answered = async {
        let mut send = send.ready().await?;
        let (response, mut body) = send.send_request(request, false)?;
        body.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true)?;
        let mut response = response.await?;
        let in_head = response.headers().get("grpc-status").cloned();
        while let Some(data) = response.body_mut().data().await {
            let _ = response.body_mut().flow_control().release_capacity(data?.len());
        }
        let trailers = response.body_mut().trailers().await?;
        let status = in_head.or_else(|| trailers?.get("grpc-status").cloned());
        Ok::<_, h2::Error>(
            status.map_or_else(|| "no status".to_owned(), |s| String::from_utf8_lossy(s.as_bytes()).into_owned()),
        )
    };
    answered.await.unwrap_or_else(|error| error.to_string())
}
