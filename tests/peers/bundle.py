"""Reads a SPIFFE bundle document from standard input with `cryptography` alone, and prints what it vouches with."""

import base64
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding


def number(text):
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


document = json.load(sys.stdin)
roots, kids = [], []
for key in document["keys"]:
    curve = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}[key["crv"]]
    public = ec.EllipticCurvePublicNumbers(number(key["x"]), number(key["y"]), curve).public_key()
    if key["use"] == "x509-svid":
        (der,) = key["x5c"]
        certificate = x509.load_der_x509_certificate(base64.b64decode(der))
        assert certificate.public_key().public_numbers() == public.public_numbers(), "another key than the certificate's"
        roots.append(certificate.public_bytes(Encoding.PEM).decode())
    else:
        assert key["use"] == "jwt-svid", key["use"]
        kids.append(key["kid"])
json.dump(
    {"roots": roots, "kids": kids, "sequence": document["spiffe_sequence"], "hint": document.get("spiffe_refresh_hint")},
    sys.stdout,
)
