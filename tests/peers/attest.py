"""Obtains an X.509-SVID from SERVER with a join token, through `weft.v1.Identity` as its .proto file describes it.

    attest.py PROTO_FOLDER SERVER CA TOKEN SERVICE CSR_DER OUT_PEM
"""

import base64
import sys
import textwrap

import grpc


def pem(der):
    return "-----BEGIN CERTIFICATE-----\n" + "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64)) + "\n-----END CERTIFICATE-----\n"


def main():
    protos, server, ca, token, service, csr, out = sys.argv[1:8]
    sys.path.insert(0, protos)
    messages, services = grpc.protos_and_services("weft/v1/identity.proto")
    read = lambda path: open(path, "rb").read()
    with grpc.secure_channel(server, grpc.ssl_channel_credentials(read(ca))) as channel:
        request = messages.AttestRequest(join_token=token, service=service, csr=read(csr))
        answer = services.IdentityStub(channel).Attest(request, timeout=20)
    with open(out, "w") as file:
        file.write("".join(pem(der) for der in answer.chain))


main()
