"""`python -m benchmarks.kvredishttp PORT SOCKET`: Redis behind the same HTTP server as the gateway, with nothing else.

No tokens, no validation, no versions, no quotas, no watch: what is left of a call when HTTP and a synced write are all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

from benchmarks.kvredis import Connection

_CONNECTIONS = 32


async def main(port: int, path: str) -> None:
    pool: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(_CONNECTIONS):
        pool.put_nowait(await Connection.open(port))

    async def handle(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        connection = await pool.get()
        try:
            answer = await connection.do(*_words(request.match_info["function"], body))
        finally:
            pool.put_nowait(connection)
        value = json.loads(answer) if isinstance(answer, bytes) and answer != b"OK" else None
        return web.json_response({"value": value if value is not None else str(answer)})

    app = web.Application(client_max_size=32 << 20)
    app.add_routes([web.post("/rest/v1/rpc/{function}", handle)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


def _words(function: str, body: dict[str, Any]) -> list[bytes]:
    if function == "kv_get":
        return [b"GET", body["p_key"].encode()]
    if function == "kv_set":
        return [b"SET", body["p_key"].encode(), body["p_value"].encode()]
    if function == "kv_increment":
        return [b"INCR", body["p_key"].encode()]
    entries = json.loads(body["p_entries"])
    return [b"MSET", *(word for key, value in entries.items() for word in (key.encode(), json.dumps(value).encode()))]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
