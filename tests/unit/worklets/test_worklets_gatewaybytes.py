"""A worklet may send any bytes as its token: it is refused, and nothing of it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from worklets.gateway import ModelGateway
from worklets.identity import Identity
from worklets.sockets import short_path


@pytest.mark.parametrize("path", [b"/v1/messages", b"/flow/thing/x"])
@pytest.mark.parametrize("header", [b"x-api-key: ", b"X-Vault-Token: ", b"Authorization: Bearer "])
async def test_a_token_of_any_bytes_is_a_wrong_one(tmp_path: Path, path: bytes, header: bytes) -> None:
    gateway = ModelGateway("http://127.0.0.1:9", None, Identity.load(tmp_path))
    try:
        await gateway.open("w", tmp_path)
        with short_path(tmp_path, "gateway.sock") as socket:
            reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\xff\x80\r\n\r\n" % (path, header))
        answer = await reader.read()
        writer.close()
    finally:
        await gateway.aclose()
    assert answer.startswith(b"HTTP/1.1 401 ")
