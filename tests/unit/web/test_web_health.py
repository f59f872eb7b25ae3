import socket
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from config.errors import FlowError
from web.app import PortTaken, Server, build


async def _ok() -> Mapping[str, Any]:
    return {"state": "ok"}


async def _broken() -> Mapping[str, Any]:
    raise FlowError("The engine does not answer.", suggestion="Start it.")


async def _get(url: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.json()


async def test_health_tells_each_parts_state() -> None:
    server = Server(build({"database": _ok, "runtime": _broken}), "127.0.0.1", 0)
    await server.start()
    try:
        status, body = await _get(f"{server.url}/health")
        assert status == 503
        assert body["status"] == "degraded"
        assert body["database"] == {"state": "ok"}
        assert body["runtime"] == {"state": "down", "error": "The engine does not answer. Start it."}
        status, body = await _get(f"{server.url}/nowhere")
        assert status == 404
        assert body["code"] == "NOT_FOUND"
    finally:
        await server.stop()


async def test_a_healthy_program_answers_200() -> None:
    server = Server(build({"database": _ok}), "127.0.0.1", 0)
    await server.start()
    try:
        assert (await _get(f"{server.url}/health"))[0] == 200
    finally:
        await server.stop()


async def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PortTaken, match=str(taken.getsockname()[1])):
            await Server(build({}), "127.0.0.1", taken.getsockname()[1]).start()
