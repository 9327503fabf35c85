"""A TLS server with a certificate of a test, which says of each connection whether the client has taken it: PORT CERTIFICATE KEY."""

import socket
import ssl
import sys

port, certificate, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.minimum_version = ssl.TLSVersion.TLSv1_3
context.load_cert_chain(certificate, key)
context.set_alpn_protocols(["h2"])
with socket.create_server(("127.0.0.1", int(port))) as listener:
    print("listening", flush=True)
    while True:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True):
                print("taken", flush=True)
        except OSError as error:
            print(f"refused: {error}", flush=True)
