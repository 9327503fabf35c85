"""A WebSocket echo server on 127.0.0.1:PORT."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=32 << 20, ping_interval=None) as server:
        print("serving", flush=True)
        await server.serve_forever()


asyncio.run(main())
