"""A proxyless gRPC client: resolves `xds:///HOST` with the bootstrap in $GRPC_XDS_BOOTSTRAP and calls it.

    xds_client.py HOST COUNT       prints one answer a line
"""

import sys

import grpc


def main():
    host, count = sys.argv[1], int(sys.argv[2])
    credentials = grpc.xds_channel_credentials()  # security as the control plane says
    with grpc.secure_channel(f"xds:///{host}", credentials) as channel:
        call = channel.unary_unary("/weft.test.Greeter/Unary")
        for i in range(count):
            try:
                print(call(b"%d" % i, timeout=20, wait_for_ready=True).decode(), flush=True)
            except grpc.RpcError as error:
                sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
