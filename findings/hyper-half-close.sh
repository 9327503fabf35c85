#!/bin/bash
# hyper 1.12.0, HTTP/1.1 server with its defaults: a client that has sent its whole request and closes its sending half
# (shutdown(SHUT_WR), as `nc -N` and many hand-written clients do; TCP allows it, RFC 9293 s.3.6) gets no answer when the
# handler has to wait for anything. The handler's future is dropped in the middle. With `half_close(true)` the answer comes.
#
# The good guess that fails: the end of input comes after a complete request, so the request is answered.
#
# Seen:
#   half_close(false), the default:  handler started, handler dropped unfinished; the client read ""
#   half_close(true):                handler started, handler finished; the client read "HTTP/1.1 200 OK"
#
# Exits with 1 if that changes. Needs cargo and crates.io.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
bytes = "1"
http-body-util = "0.1"
hyper = { version = "=1.12.0", features = ["http1", "server"] }
hyper-util = { version = "0.1", features = ["tokio"] }
tokio = { version = "1", features = ["rt", "net", "time", "io-util", "macros"] }
TOML
cat > "$folder/src/main.rs" <<'RUST'
use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Says how a handler ended.
struct Handler(bool, Rc<Cell<&'static str>>);

impl Drop for Handler {
    fn drop(&mut self) {
        self.1.set(if self.0 { "finished" } else { "dropped unfinished" });
    }
}

async fn ask(half_close: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = Rc::new(Cell::new("never started"));
    let seen = end.clone();
    let server = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(|_| {
            let mut handler = Handler(false, seen.clone());
            async move {
                tokio::time::sleep(Duration::from_millis(300)).await; // any upstream call, any database
                handler.0 = true;
                drop(handler);
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n"))))
            }
        });
        let _ = http1::Builder::new().half_close(half_close).serve_connection(TokioIo::new(stream), service).await;
    };
    let client = async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap(); // the sending half only
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    let (_, answer) = tokio::join!(server, client);
    format!("half_close({half_close}): handler {}, client read {:?}", end.get(), answer.lines().next().unwrap_or(""))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("{}\n{}", ask(false).await, ask(true).await);
}
RUST
seen=$(cd "$folder" && cargo run --quiet)
expected='half_close(false): handler dropped unfinished, client read ""
half_close(true): handler finished, client read "HTTP/1.1 200 OK"'
echo "$seen"
if [ "$seen" != "$expected" ]; then
  echo "this has changed; it was:"
  echo "$expected"
  exit 1
fi
