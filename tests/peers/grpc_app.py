"""A gRPC server in clear on 127.0.0.1:PORT, with messages of plain bytes. Methods of `weft.test.Greeter`:

Unary      answers `hello <message>` with trailing metadata `x-kind: unary`
Collect    reads a stream and answers with the count and the number of bytes
Expand     reads a number n and answers with n messages
Talk       echoes each message of a stream at once
Fail       ends with FAILED_PRECONDITION and a message, after initial metadata
"""

import sys
from concurrent import futures

import grpc


def unary(request, context):
    context.set_trailing_metadata((("x-kind", "unary"),))
    return b"hello " + request


def collect(requests, context):
    count = size = 0
    for message in requests:
        count, size = count + 1, size + len(message)
    return b"%d %d" % (count, size)


def expand(request, context):
    for i in range(int(request)):
        yield b"%d" % i


def talk(requests, context):
    yield from requests


def fail(request, context):
    context.send_initial_metadata((("x-initial", "yes"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this: " + request.decode())


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Expand": grpc.unary_stream_rpc_method_handler(expand),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
}


def main():
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 64 << 20)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("weft.test.Greeter", HANDLERS),))
    assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}"), "the port is taken"
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
