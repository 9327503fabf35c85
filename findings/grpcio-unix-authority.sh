#!/bin/bash
# grpcio 1.85.3 beside h2 0.4.20: over a Unix socket gRPC's C core sends the percent-encoded path of the socket as `:authority`
# (`%2Ftmp%2F...`), and the HTTP/2 library below tonic and hyper takes a `%` there for a malformed request. It resets the stream with
# PROTOCOL_ERROR before the server's code sees anything, so a gRPC client in Python, C++ or Ruby gets no answer from a gRPC server in Rust, on
# the one kind of socket that the SPIFFE Workload API recommends. With an authority of the client's own choice the same call arrives.
#
# The good guess that fails: two widespread gRPC stacks meet on a Unix socket without ado.
#
# Seen:
#   default:                     the server sees no request; the client's call ends with INTERNAL, RST_STREAM error code 1
#   grpc.default_authority=test: the server sees a request of authority "test"
#
# Exits with 1 if that changes, 2 if it cannot be tried. Needs cargo, crates.io, python3 with venv and the Python package index.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
h2 = "=0.4.20"
http = "1"
tokio = { version = "1", features = ["net", "rt", "macros"] }
TOML
cat > "$folder/src/main.rs" <<'RUST'
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = tokio::net::UnixListener::bind("s").unwrap();
    println!("listening");
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                println!("authority {:?}", request.uri().authority().map(|authority| authority.as_str()));
                let answer = http::Response::builder().header("content-type", "application/grpc").header("grpc-status", "12");
                let _ = respond.send_response(answer.body(()).unwrap(), true);
            }
        });
    }
}
RUST
cat > "$folder/client.py" <<'PY'
import sys
import grpc

for name, options in [("default", []), ("chosen", [("grpc.default_authority", "test")])]:
    channel = grpc.insecure_channel("unix:" + sys.argv[1], options=options)
    call = channel.unary_unary("/x.Y/Z", request_serializer=bytes, response_deserializer=bytes)
    try:
        call(b"", timeout=20)
    except grpc.RpcError as error:
        reset = ", reset with code 1" if "error code 1" in error.details() else ""
        print(f"{name}: {error.code().name}{reset}")
    channel.close()
PY
cd "$folder"
cargo build --quiet || exit 2
python3 -m venv venv && venv/bin/pip install --quiet grpcio==1.85.3 || exit 2
target/debug/finding > server.txt &
for _ in $(seq 100); do grep -q listening server.txt && break; sleep 0.1; done
seen="$(venv/bin/python client.py "$folder/s")
$(grep authority server.txt)"
expected='default: INTERNAL, reset with code 1
chosen: UNIMPLEMENTED
authority Some("test")'
echo "$seen"
if [ "$seen" != "$expected" ]; then
  echo "this has changed; it was:"
  echo "$expected"
  exit 1
fi
