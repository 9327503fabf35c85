"""Many processes that each hold a stream of X.509-SVIDs, small enough that a thousand fit: HTTP/2 by hand, and forks.

workload_crowd.py SOCKET FIRST_UID COUNT: the process number N is the user FIRST_UID + N. Prints `ready COUNT` when each has had its first
message, and ends with its standard input.
"""

import os
import socket
import sys


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def indexed(index, value):
    return index + bytes([len(value)]) + value


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


# RFC 7541: `:method` POST and `:scheme` http are in the static table, the other values are literals.
HEADERS = b"".join([
    b"\x83\x86",
    indexed(b"\x04", b"/SpiffeWorkloadAPI/FetchX509SVID"),
    indexed(b"\x01", b"localhost"),
    indexed(b"\x0f\x10", b"application/grpc"),
    literal(b"te", b"trailers"),
    literal(b"workload.spiffe.io", b"true"),
])
# The preface, SETTINGS, the request and its empty message (RFC 9113 s.3.4, gRPC over HTTP/2).
REQUEST = (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, HEADERS)
           + frame(0, 1, 1, b"\x00\x00\x00\x00\x00"))


def whole(connection, length):
    got = b""
    while len(got) < length:
        more = connection.recv(length - len(got))
        if not more:
            sys.exit(1)
        got += more
    return got


def process(path, uid, told):
    os.setresuid(uid, uid, uid)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(REQUEST)
    while True:
        head = whole(connection, 9)
        payload = whole(connection, int.from_bytes(head[:3], "big"))
        kind, flags = head[3], head[4]
        if kind == 4 and not flags & 1:
            connection.sendall(frame(4, 1, 0, b""))
        elif kind == 6 and not flags & 1:
            connection.sendall(frame(6, 1, 0, payload))
        elif kind == 0 and told is not None and payload:
            os.write(told, b".")
            os.close(told)
            told = None
        elif kind == 1 and flags & 1 or kind == 7:
            sys.exit(1)


def main():
    path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    heard, told = os.pipe()
    for number in range(count):
        if os.fork() == 0:
            os.close(heard)
            process(path, first + number, told)
    os.close(told)
    ready = 0
    while ready < count:
        more = os.read(heard, 4096)
        if not more:
            sys.exit(f"only {ready} of {count} had a message")
        ready += len(more)
    print("ready", ready, flush=True)
    sys.stdin.read()
    os.killpg(0, 9)


main()
