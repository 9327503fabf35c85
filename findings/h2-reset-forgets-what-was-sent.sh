#!/bin/bash
# h2 0.4.20, server: the data of an answer were taken (send_data returned Ok, within the window that the client gave), the connection's task
# ran on, and then the stream is reset. What the connection had not written yet, because the client's socket was full, is thrown away.
# Nothing tells a server when what it has sent has left: send_data does not, and capacity only counts the window and the buffer.
#
# The good guess that fails: frames of one stream leave in the order in which they were given, so what came before the reset arrives before it.
# (HTTP/2 allows it: RFC 9113 s.5.4.2 promises nothing of what was queued.)
#
# Seen, for 60 answers of a head and 50,000 bytes over a pipe of 4 KiB, each reset after the server has let everybody else run once:
#   reset at once: of 60 answers 60 with their head, 0 whole before their reset
#   reset after the client has read: of 60 answers 60 with their head, 60 whole before their reset
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
h2 = "=0.4.20"
http = "1"
tokio = { version = "1", features = ["rt", "io-util", "macros", "sync", "time"] }
TOML
cat > "$folder/src/main.rs" <<'RUST'
use bytes::Bytes;
use tokio::sync::watch;

const ANSWERS: usize = 60;
const LENGTH: usize = 50_000;

/// How many answers came whole before their reset, and how many with their head at least. `patient`: the server waits until the client has read that much of each.
async fn whole(patient: bool) -> (usize, usize) {
    let (near, far) = tokio::io::duplex(4096);
    let (read, all_read) = watch::channel(false);
    tokio::task::spawn_local(async move {
        let mut served = h2::server::handshake(far).await.unwrap();
        while let Some(Ok((_request, mut respond))) = served.accept().await {
            let mut all_read = all_read.clone();
            tokio::task::spawn_local(async move {
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                stream.reserve_capacity(LENGTH);
                while stream.capacity() < LENGTH {
                    std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                }
                stream.send_data(Bytes::from(vec![b'x'; LENGTH]), false).unwrap();
                tokio::task::yield_now().await;
                if patient {
                    all_read.wait_for(|all| *all).await.unwrap();
                }
                stream.send_reset(h2::Reason::INTERNAL_ERROR);
            });
        }
    });
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 24).initial_connection_window_size(1 << 30);
    let (mut client, connection) = builder.handshake::<_, Bytes>(near).await.unwrap();
    tokio::task::spawn_local(connection);
    let asked: Vec<_> = (0..ANSWERS)
        .map(|_| client.send_request(http::Request::get("http://a/").body(()).unwrap(), true).unwrap().0)
        .collect();
    let (mut whole, mut bodies) = (0, Vec::new());
    for answer in asked {
        let Ok(answer) = answer.await else { continue };
        let mut body = answer.into_body();
        let mut came = 0;
        while came < LENGTH {
            match body.data().await {
                Some(Ok(data)) => came += data.len(),
                _ => break,
            }
        }
        whole += usize::from(came == LENGTH);
        bodies.push(body);
    }
    let _ = read.send(true);
    (whole, bodies.len())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let both = async { (whole(false).await, whole(true).await) };
    let tasks = tokio::task::LocalSet::new();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(60), tasks.run_until(both)).await;
    let (at_once, patient) = ended.expect("it ends");
    for (when, (whole, heads)) in [("at once", at_once), ("after the client has read", patient)] {
        println!("reset {when}: of {ANSWERS} answers {heads} with their head, {whole} whole before their reset");
    }
    std::process::exit(i32::from(at_once.0 >= ANSWERS / 2 || patient != (ANSWERS, ANSWERS)));
}
RUST
cd "$folder"
cargo build --quiet || exit 2
if ! target/debug/finding; then
  echo "this has changed: see above what it was"
  exit 1
fi
