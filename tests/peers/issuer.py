"""An issuer of tokens that is not the mesh: PyJWT and `cryptography` behind an HTTP server on loopback.

    issuer.py PORT

GET  /.well-known/openid-configuration, /keys     what a relying party reads
POST /token {"claims": {...}, "alg": "RS256", ...}  a token; `iss`, `iat` and `exp` are filled in unless they are given or null
POST /rotate                                       another key; the one before is no longer published
POST /mode {"mode": "redirect" | "away" | ""}      how the two GETs answer from now on
GET  /jwks                                         the same as /keys, for those who write it down
GET  /fetches                                      how often /keys was asked for
"""

import base64
import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

PORT = int(sys.argv[1])
ISSUER = f"http://127.0.0.1:{PORT}/realm"
STATE = {"number": 0, "mode": "", "fetches": 0, "keys": {}}


def rotate():
    STATE["number"] += 1
    number = STATE["number"]
    STATE["keys"] = {
        f"rsa{number}": ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        f"ec{number}": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    }


def jwks():
    keys = []
    for kid, (alg, key) in STATE["keys"].items():
        algorithm = jwt.algorithms.get_default_algorithms()[alg]
        jwk = json.loads(algorithm.to_jwk(key.public_key()))
        jwk.pop("key_ops", None)
        keys.append(jwk | {"kid": kid, "alg": alg, "use": "sig"})
    return {"keys": keys}


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def token(wanted):
    now = int(time.time())
    claims = {"iss": ISSUER, "iat": now, "exp": now + 600} | wanted["claims"]
    claims = {name: value for name, value in claims.items() if value is not None}
    alg = wanted.get("alg", "RS256")
    number = STATE["number"]
    kid = wanted.get("kid") or (f"ec{number}" if alg == "ES256" else f"rsa{number}")
    if alg == "none":
        return jwt.encode(claims, None, algorithm="none", headers={"kid": kid})
    if alg == "HS256":  # signed with the public key, as those who take `alg` from the token would verify it
        public = STATE["keys"][kid][1].public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        signed = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT", "kid": kid}, claims))
        return signed + "." + b64(hmac.new(public, signed.encode(), hashlib.sha256).digest())
    if wanted.get("stranger"):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        key = STATE["keys"].get(kid, next(iter(STATE["keys"].values())))[1]
    return jwt.encode(claims, key, algorithm=alg, headers={"kid": kid})


class Handler(BaseHTTPRequestHandler):
    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/jwks":  # for those who write it down
            return self.answer(jwks())
        if self.path == "/fetches":
            return self.answer(STATE["fetches"])
        if self.path == "/realm/.well-known/openid-configuration":
            return self.answer({"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"})
        if self.path.startswith("/realm/keys"):
            STATE["fetches"] += 1
            if STATE["mode"] == "redirect" and not self.path.endswith("?again"):
                self.send_response(302)
                self.send_header("location", f"{ISSUER}/keys?again")
                self.send_header("content-length", "0")
                self.end_headers()
                return None
            if STATE["mode"] == "away":
                return self.answer({"error": "away"}, 503)
            return self.answer(jwks())
        return self.answer({"error": "no such page"}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path == "/token":
            return self.answer(token(json.loads(body)))
        if self.path == "/rotate":
            return self.answer(rotate())
        if self.path == "/mode":
            STATE["mode"] = json.loads(body)["mode"]
            return self.answer(None)
        return self.answer({"error": "no such page"}, 404)

    def log_message(self, *_):
        pass


rotate()
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
