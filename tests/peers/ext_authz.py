"""Asks an ext_authz v3 server as a client that nobody of Weft or Envoy wrote: grpcio, and the few messages made here by their numbers.

    ext_authz.py SERVER CA CERTIFICATE KEY      each line on standard input is a check, as JSON; its answer is printed, as JSON

A check has any of: caller, callee (principals), method, path, host, headers, body, sni; without a method it is about a connection.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, struct_pb2

METHOD = "/envoy.service.auth.v3.Authorization/Check"
KINDS = {"string": 9, "bytes": 12, "int64": 3, "int32": 5}

# As in Envoy's external_auth.proto, attribute_context.proto, base.proto, address.proto and google/rpc/status.proto.
MESSAGES = {
    "SocketAddress": {2: ("address", "string"), 3: ("port_value", "int64")},
    "Address": {1: ("socket_address", "SocketAddress")},
    "Peer": {1: ("address", "Address"), 4: ("principal", "string")},
    "Entry": {1: ("key", "string"), 2: ("value", "string")},
    "HttpRequest": {
        2: ("method", "string"), 3: ("headers", "Entry*"), 4: ("path", "string"), 5: ("host", "string"),
        10: ("protocol", "string"), 12: ("raw_body", "bytes"),
    },
    "Request": {2: ("http", "HttpRequest")},
    "Metadata": {},
    "TlsSession": {1: ("sni", "string")},
    "AttributeContext": {
        1: ("source", "Peer"), 2: ("destination", "Peer"), 4: ("request", "Request"), 11: ("metadata_context", "Metadata"),
        12: ("tls_session", "TlsSession"), 13: ("route_metadata_context", "Metadata"),
    },
    "CheckRequest": {1: ("attributes", "AttributeContext")},
    "Status": {1: ("code", "int32"), 2: ("message", "string")},
    "HttpStatus": {1: ("code", "int32")},
    "HeaderValueOption": {1: ("header", "Entry"), 3: ("append_action", "int32")},
    "DeniedHttpResponse": {1: ("status", "HttpStatus"), 2: ("headers", "HeaderValueOption*"), 3: ("body", "string")},
    "OkHttpResponse": {2: ("headers", "HeaderValueOption*"), 5: ("headers_to_remove", "string*")},
    "CheckResponse": {
        1: ("status", "Status"), 2: ("denied_response", "DeniedHttpResponse"), 3: ("ok_response", "OkHttpResponse"),
        4: ("dynamic_metadata", "google.protobuf.Struct"),
    },
}


def messages():
    file = descriptor_pb2.FileDescriptorProto(name="check.proto", package="check", syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in fields.items():
            label, kind = (3, kind[:-1]) if kind.endswith("*") else (1, kind)
            added = message.field.add(name=field, number=number, label=label, type=KINDS.get(kind, 11))
            if kind not in KINDS:
                added.type_name = "." + kind if "." in kind else ".check." + kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    of = lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName("check." + name))
    return of("CheckRequest"), of("CheckResponse")


def asked(check, kind):
    request = kind()
    attributes = request.attributes
    if "caller" in check:
        attributes.source.principal = check["caller"]
        attributes.source.address.socket_address.address = "10.1.2.3"
        attributes.source.address.socket_address.port_value = 4000
    if "callee" in check:
        attributes.destination.principal = check["callee"]
    if "sni" in check:
        attributes.tls_session.sni = check["sni"]
    attributes.metadata_context.SetInParent()
    attributes.route_metadata_context.SetInParent()
    if "method" in check:
        http = attributes.request.http
        http.method, http.path, http.protocol = check["method"], check["path"], "HTTP/2"
        http.host = check.get("host", "board.prod")
        http.raw_body = check.get("body", "").encode()
        for name, value in check.get("headers", {}).items():
            http.headers.add(key=name, value=value)
    return request if check else kind()


def told(response):
    answer = {"status": response.status.code, "metadata": json_format.MessageToDict(response.dynamic_metadata)}
    if response.HasField("ok_response"):
        answer["removed"] = list(response.ok_response.headers_to_remove)
    if response.HasField("denied_response"):
        denied = response.denied_response
        answer["http"], answer["body"] = denied.status.code, denied.body
        answer["headers"] = {option.header.key: option.header.value for option in denied.headers}
    return answer


def main():
    server, *files = sys.argv[1:]
    ca, certificate, key = (open(path, "rb").read() for path in files)
    request, response = messages()
    with grpc.secure_channel(server, grpc.ssl_channel_credentials(ca, key, certificate)) as channel:
        call = channel.unary_unary(METHOD, request.SerializeToString, response.FromString)
        for line in sys.stdin:
            try:
                answer = told(call(asked(json.loads(line), request), timeout=20))
            except grpc.RpcError as error:
                answer = {"error": error.code().name, "details": error.details()}
            print(json.dumps(answer), flush=True)


main()
