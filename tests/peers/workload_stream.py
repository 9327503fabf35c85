"""Listens to a Workload API, a JSON line for each thing that happens.

    workload_stream.py listen SOCKET     the identities of each message with their serial numbers, and at last how the stream ended
    workload_stream.py relay HERE SOCKET PROGRAM
                                         connects to SOCKET, and passes on to it what one client of HERE says, and back; after a line on
                                         standard input it becomes PROGRAM (another Python) in the same process, and goes on with both
"""

import json
import os
import select
import socket
import sys


def say(**what):
    print(json.dumps(what), flush=True)


def listen(path):
    import grpc
    from cryptography import x509
    from spiffe._proto import workload_pb2

    def described(svid):
        leaf = x509.load_der_x509_certificate(first(svid.x509_svid))
        return [svid.spiffe_id, f"{leaf.serial_number:X}"]

    def first(certificates):
        """The first of several in DER, one after the other: a SEQUENCE with a length of two bytes."""
        return certificates[: 4 + int.from_bytes(certificates[2:4], "big")]

    with grpc.insecure_channel("unix://" + path) as channel:
        call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")
        try:
            for message in call(b"", metadata=[("workload.spiffe.io", "true")], wait_for_ready=True, timeout=300):
                answer = workload_pb2.X509SVIDResponse.FromString(message)
                say(svids=[described(svid) for svid in answer.svids])
            say(end="OK")
        except grpc.RpcError as error:
            say(end=error.code().name, why=error.details())


def relay(here, agent, program):
    there = socket.socket(socket.AF_UNIX)
    there.connect(agent)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(here)
    listener.listen()
    os.chmod(here, 0o666)
    say(relays=os.getpid())
    client, _ = listener.accept()
    carry(client.detach(), there.detach(), program)


def carry(client, there, program=None):
    """Both ways, until either end goes or a line comes."""
    say(runs=os.readlink("/proc/self/exe"))
    while True:
        wanted = [client, there] + ([0] if program else [])
        for ready in select.select(wanted, [], [])[0]:
            if ready == 0:
                for descriptor in (client, there):
                    os.set_inheritable(descriptor, True)
                os.execv(program, [program, "-S", __file__, "carry", str(client), str(there)])
            data = os.read(ready, 65536)
            if not data:
                return
            os.write(there if ready == client else client, data)


what, *rest = sys.argv[1:]
if what == "carry":
    carry(int(rest[0]), int(rest[1]))
else:
    {"listen": listen, "relay": relay}[what](*rest)
