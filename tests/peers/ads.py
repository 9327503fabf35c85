"""One state-of-the-world ADS request, by hand: asks SERVER for clusters as a node that says it is SERVICE's sidecar.

    ads.py SERVER CA SERVICE [CERTIFICATE KEY [silent]]     prints `OK <type url>` or `<STATUS>: <details>`

A silent one stays and never says what it thinks of the answer.
"""

import queue
import sys

import grpc
from google.protobuf import struct_pb2

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"


def field(number, data):
    """A length-delimited field of the protobuf wire format."""
    size, out = len(data), bytearray([number << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes(out) + bytes([size]) + data


def main():
    server, ca, service = sys.argv[1:4]
    metadata = struct_pb2.Struct()
    metadata.update({"weft": {
        "service": service, "ready": False, "ingress": "127.0.0.1:1", "egress": "127.0.0.1:2", "app": "127.0.0.1:3",
        "labels": {}, "access_log": "/dev/stdout", "data_plane": "weft",
    }})
    node = field(1, f"{service}~test".encode()) + field(2, service.encode()) + field(3, metadata.SerializeToString())
    request = field(2, node) + field(4, CLUSTER.encode())
    read = lambda path: open(path, "rb").read()
    files = (read(sys.argv[5]), read(sys.argv[4])) if len(sys.argv) > 5 else (None, None)
    credentials = grpc.ssl_channel_credentials(read(ca), *files)
    with grpc.secure_channel(server, credentials) as channel:
        try:
            # The stream stays open for requests: a client that has said its last word need not be answered.
            requests = queue.Queue()
            requests.put(request)
            silent = len(sys.argv) > 6
            answers = channel.stream_stream(METHOD)(iter(requests.get, None), timeout=None if silent else 15)
            answer = next(answers)
            print("OK", CLUSTER if CLUSTER.encode() in answer else answer[:200], flush=True)
            if silent:
                next(answers)
            requests.put(None)
        except grpc.RpcError as error:
            requests.put(None)
            print(f"{error.code().name}: {error.details()}")


main()
