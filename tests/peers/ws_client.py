"""A WebSocket client through a sidecar: connects to ADDRESS with the host HOST.

    ws_client.py ADDRESS HOST PATH         one suite: text, binary, a large message, a close with its code; prints `ok`
    ws_client.py ADDRESS HOST PATH talk    each line of standard input is sent and its echo printed; the end of the input closes
"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def suite(socket):
    await socket.send("text")
    assert await socket.recv() == "text"
    await socket.send(b"\x00\xff")
    assert await socket.recv() == b"\x00\xff"
    big = b"w" * (8 << 20)
    await socket.send(big)
    assert await socket.recv() == big, "the large message came back changed"
    for i in range(100):
        await socket.send(str(i))
        assert await socket.recv() == str(i)
    await socket.close(code=4001)
    assert socket.close_code == 4001, socket.close_code
    print("ok")


async def talk(socket):
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            await socket.send(line.rstrip("\n"))
            print(await socket.recv(), flush=True)
        await socket.close()
        print("end OK", flush=True)
    except ConnectionClosed as error:
        print(f"end {error}", flush=True)


async def main():
    address, host, path = sys.argv[1:4]
    ip, port = address.split(":")
    try:
        socket = await connect(
            f"ws://{host}{path}", host=ip, port=int(port), max_size=32 << 20, ping_interval=None, proxy=None, open_timeout=20
        )
    except InvalidStatus as error:
        sys.exit(f"refused with {error.response.status_code}: {error.response.body}")
    await (talk if sys.argv[4:] == ["talk"] else suite)(socket)


asyncio.run(main())
