#!/usr/bin/env bash
# FastAPI 0.165.0, Starlette 1.10.0, uvicorn 0.54.0 (PyPI)
#
# GET /repos/a%2Fb/files, where `%2F` is a slash inside of a name (RFC 3986 s.2.2: data, not a delimiter), with a route `/repos/{name}/files`.
#
# One would expect: that route answers, with name = "a/b". aiohttp 3.14.5 does so, and so do Express 5.3.0 and the ServeMux of Go 1.27.3.
# What happens: the server decodes the whole path before any route is looked at, so the request has a segment more and the route does not match: 404, or
# another route, where one takes paths. No converter gets the name back; only `scope["raw_path"]` has what was sent.
#
# Seen:
#   FastAPI: /repos/ab/files: name 'ab'; /repos/a%2Fb/files: 404
#   aiohttp: /repos/ab/files: name 'ab'; /repos/a%2Fb/files: name 'a/b'
#
# Exit code 0: still so. 1: it has changed. 2: it could not be tried.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  fastapi==0.165.0 starlette==1.10.0 uvicorn==0.54.0 aiohttp==3.14.5 || exit 2
"$work/venv/bin/python" - <<'PY'
import asyncio, socket, sys

import uvicorn
from aiohttp import web
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

fast = FastAPI()


@fast.get("/repos/{name}/files", response_class=PlainTextResponse)
async def files(name: str):
    return f"name {name!r}"


async def aio_files(request):
    return web.Response(text=f"name {request.match_info['name']!r}")


async def ask(port, path):
    """The body of a 200, or else the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).decode().partition("\r\n\r\n")
    writer.close()
    status = head.split()[1]
    return body if status == "200" else status


async def answers(name, port):
    paths = ["/repos/ab/files", "/repos/a%2Fb/files"]
    return f"{name}: " + "; ".join([f"{path}: {await ask(port, path)}" for path in paths])


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(fast, log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    lines = [await answers("FastAPI", listener.getsockname()[1])]
    server.should_exit = True
    await serving

    app = web.Application()
    app.router.add_get("/repos/{name}/files", aio_files)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    lines.append(await answers("aiohttp", runner.addresses[0][1]))
    await runner.cleanup()
    return lines


EXPECTED = [
    "FastAPI: /repos/ab/files: name 'ab'; /repos/a%2Fb/files: 404",
    "aiohttp: /repos/ab/files: name 'ab'; /repos/a%2Fb/files: name 'a/b'",
]
seen = asyncio.run(main())
print("\n".join(seen))
if seen != EXPECTED:
    print("this has changed; it was:", *EXPECTED, sep="\n")
    sys.exit(1)
PY
