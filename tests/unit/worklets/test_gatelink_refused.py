"""A gate that refuses a worklet's socket for want of files or memory: the worklet is not gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from worklets import sockets
from worklets.gateclient import GateRefused, Nobody
from worklets.gatelink import SOCKETS, Links


class Refusing:
    def __init__(self, error: GateRefused) -> None:
        self._error = error

    async def dial(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize(
    ("error", "stands"), [(GateRefused("Too many open files"), True), (Nobody("nobody listens"), False)]
)
async def test_only_a_worklet_at_which_nobody_listens_is_gone(tmp_path: Path, error: GateRefused, stands: bool) -> None:
    way: Any = Refusing(error)
    links = Links(way)
    await links.serve("w", tmp_path)
    with sockets.short_path(tmp_path, SOCKETS[0]) as path:
        reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"hello")
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert links.stands("w") is stands
    assert (tmp_path / SOCKETS[0]).exists() is stands
    await links.aclose()
