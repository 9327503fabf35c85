"""Calls every kind of method of `weft.test.Greeter` through TARGET with the authority HOST, and prints `ok` if all is as it should be.

    grpc_calls.py TARGET HOST          one suite of calls
    grpc_calls.py TARGET HOST talk     a stream that stays open: each line on standard input is sent, its echo is printed;
                                       the end of the input ends the stream, whose status is printed
"""

import queue
import sys

import grpc

SERVICE = "/weft.test.Greeter/"


def check(what, seen, wanted):
    if seen != wanted:
        sys.exit(f"{what}: {seen!r} instead of {wanted!r}")


def suite(channel):
    answer, call = channel.unary_unary(SERVICE + "Unary").with_call(b"mesh", timeout=20)
    check("unary", answer, b"hello mesh")
    check("trailing metadata", dict(call.trailing_metadata()).get("x-kind"), "unary")
    big = b"b" * (3 << 20)
    check("a large message", channel.unary_unary(SERVICE + "Unary")(big, timeout=20), b"hello " + big)
    messages = [b"x" * 1000] * 500
    check("client streaming", channel.stream_unary(SERVICE + "Collect")(iter(messages), timeout=20), b"500 500000")
    check("server streaming", len(list(channel.unary_stream(SERVICE + "Expand")(b"2000", timeout=20))), 2000)

    # Both ways at once: each message is sent only after the echo of the one before, so nothing may be held back in between.
    outgoing = queue.Queue()
    echoes = channel.stream_stream(SERVICE + "Talk")(iter(outgoing.get, None), timeout=20)
    for i in range(50):
        outgoing.put(b"%d" % i)
        check("the echo", next(echoes), b"%d" % i)
    outgoing.put(None)
    check("the end of the stream", list(echoes), [])

    try:
        channel.unary_unary(SERVICE + "Fail")(b"so", timeout=20)
        sys.exit("a call that fails succeeded")
    except grpc.RpcError as error:
        check("the status", error.code(), grpc.StatusCode.FAILED_PRECONDITION)
        check("its message", error.details(), "not like this: so")
    try:
        channel.unary_unary(SERVICE + "Missing")(b"", timeout=20)
        sys.exit("a method that does not exist answered")
    except grpc.RpcError as error:
        check("an unknown method", error.code(), grpc.StatusCode.UNIMPLEMENTED)
    print("ok")


def talk(channel):
    lines = (line.rstrip("\n").encode() for line in iter(sys.stdin.readline, ""))
    call = channel.stream_stream(SERVICE + "Talk")(lines)
    try:
        for echo in call:
            print(echo.decode(), flush=True)
        print(f"end {call.code().name}", flush=True)
    except grpc.RpcError as error:
        print(f"end {error.code().name} {error.details()}", flush=True)


def main():
    target, host = sys.argv[1:3]
    options = [("grpc.default_authority", host), ("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options) as channel:
        (talk if sys.argv[3:] == ["talk"] else suite)(channel)


if __name__ == "__main__":
    main()
