"""PyPI `spiffe` against a Workload API: $SPIFFE_ENDPOINT_SOCKET says where. Prints JSON.

    spiffe_client.py x509                    ID, serial number and roots of the X.509 context
    spiffe_client.py watch                   the same by a source, once more after a rotation
    spiffe_client.py token AUDIENCE...       a JWT-SVID by a source
    spiffe_client.py ask AUDIENCE...         the same without one, which tells of a refusal at once
    spiffe_client.py validate AUDIENCE TOKEN by the keys that are fetched, and by the server
    spiffe_client.py bare                    the status of a call without the security header
"""

import json
import os
import sys
import threading
import time

import grpc
import spiffe

SOON = 30


def described(svid, bundles):
    return {
        "id": str(svid.spiffe_id),
        "serial": f"{svid.leaf.serial_number:X}",
        "bundles": sorted(str(bundle.trust_domain) for bundle in bundles),
        "roots": sum(len(bundle.x509_authorities) for bundle in bundles),
    }


def x509():
    with spiffe.WorkloadApiClient(default_timeout=SOON) as client:
        context = client.fetch_x509_context()
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(context.default_svid.spiffe_id.trust_domain)
        return described(context.default_svid, [bundle])


def watch():
    source = spiffe.X509Source(timeout_in_seconds=SOON)
    changed = threading.Event()
    source.subscribe_for_updates(changed.set)
    first = described(source.svid, source.bundles)
    deadline = time.monotonic() + SOON
    second = first
    while second["serial"] == first["serial"] and time.monotonic() < deadline:
        changed.wait(1)
        changed.clear()
        second = described(source.svid, source.bundles)
    source.close()
    return [first, second]


def token(*audience):
    source = spiffe.JwtSource(timeout_in_seconds=SOON)
    svid = source.fetch_svid(set(audience), timeout=SOON)
    source.close()
    return told(svid)


def ask(*audience):
    with spiffe.WorkloadApiClient(default_timeout=SOON) as client:
        return told(client.fetch_jwt_svid(set(audience)))


def told(svid):
    return {"id": str(svid.spiffe_id), "audience": sorted(svid.audience), "token": svid.token}


def validate(audience, text):
    """What each of the two ways says: an ID, or why not."""

    def attempt(way):
        try:
            return str(way().spiffe_id)
        except Exception as error:  # whatever a client of ours would see
            return f"{type(error).__name__}: {error}"

    with spiffe.WorkloadApiClient(default_timeout=SOON) as client:
        bundles = client.fetch_jwt_bundles()
        bundle = bundles.get_bundle_for_trust_domain(spiffe.TrustDomain("test.internal"))
        here = attempt(lambda: spiffe.JwtSvid.parse_and_validate(text, bundle, {audience}))
        there = attempt(lambda: client.validate_jwt_svid(text, audience))
        return {"keys": len(bundle.jwt_authorities), "here": here, "there": there}


def bare():
    with grpc.insecure_channel(os.environ["SPIFFE_ENDPOINT_SOCKET"]) as channel:
        call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")
        try:
            next(call(b"", timeout=SOON))
            return "an answer"
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"


def main():
    what, *rest = sys.argv[1:]
    ways = {"x509": x509, "watch": watch, "token": token, "ask": ask, "validate": validate, "bare": bare}
    try:
        said = ways[what](*rest)
    except spiffe.errors.PySpiffeError as error:
        said = {"error": f"{error} / {error.__cause__}"}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
