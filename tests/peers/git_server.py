"""Bare repositories over HTTPS: Git's own `git http-backend` (CGI) behind a TLS server.

    git_server.py ADDRESS ROOT CERTIFICATE KEY [LOGIN]     LOGIN is user:password; without one everybody may read
"""

import base64
import http.server
import os
import ssl
import subprocess
import sys

address, root, certificate, key = sys.argv[1:5]
login = sys.argv[5] if len(sys.argv) > 5 else None
host, port = address.rsplit(":", 1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def answer(self, status, headers, body):
        self.send_response_only(*status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        data = self.body()
        if login:
            given = self.headers.get("Authorization", "")
            if given != "Basic " + base64.b64encode(login.encode()).decode():
                return self.answer((401, "Unauthorized"), [("WWW-Authenticate", 'Basic realm="git"')], b"who are you?\n")
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": root, "GIT_HTTP_EXPORT_ALL": "1", "GIT_CONFIG_NOSYSTEM": "1",
            "REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query, "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(data)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=data, capture_output=True)
        sys.stderr.buffer.write(done.stderr)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
        status = next((value.split(" ", 1) for name, value in headers if name == "Status"), ("200", "OK"))
        self.answer((int(status[0]), status[1]), [pair for pair in headers if pair[0] != "Status"], body)

    do_POST = do_GET

    def log_request(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request, client_address):
        print("connection ended:", sys.exc_info()[1], file=sys.stderr, flush=True)


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = Server((host, int(port)), Handler)
# The handshake is made by the connection's own thread, at its first read: a client that says nothing stops nobody else.
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("serving", flush=True)
server.serve_forever()
