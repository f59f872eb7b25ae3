"""A worklet's way to Vault through a real door, with a server behind it that answers as it is told."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

from config.logging import configure
from worklets.gateway import ModelGateway
from worklets.identity import Identity
from worklets.secretsdoor import SUBJECT, VaultDoor, _Pace
from worklets.sockets import short_path

ME = "0f0f0f0f-0000-4000-8000-000000000001"
REAL = "s.the-session-s-own-token"
LOOKUP = "GET /flow/vault/v1/auth/token/lookup-self"
WRITE = f"POST /flow/vault/v1/secret/data/worklets/{ME}/a"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that the gateway's process would write into its log."""
    root, out = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    configure("console", stream=out)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Asking:
    def __init__(self, run_dir: Path, token: str) -> None:
        self._run_dir, self.token = run_dir, token

    async def open(self, asked: str, *headers: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Sends the head alone, with the token where no other `headers` are given."""
        with short_path(self._run_dir, "gateway.sock") as path:
            reader, writer = await asyncio.open_unix_connection(path)
        sent = headers or (b"X-Vault-Token: " + self.token.encode(),)
        head = [f"{asked} HTTP/1.1".encode(), b"Host: x", b"Connection: close", *sent]
        writer.write(b"\r\n".join([*head, b"", b""]))
        return reader, writer

    async def ask(self, asked: str, *headers: bytes) -> tuple[int, bytes]:
        """The answer's status and body."""
        reader, writer = await self.open(asked, *headers)
        return await answered(reader, writer)


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


@asynccontextmanager
async def door(tmp_path: Path, vault_door: VaultDoor | None = None) -> AsyncIterator[Asking]:
    """Vault behind it says what its token is."""

    async def vault(request: web.Request) -> web.Response:
        assert request.headers["X-Vault-Token"] == REAL
        return web.json_response({"data": {"id": REAL}})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", vault)
    identity = Identity.load(tmp_path)
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, routes={SUBJECT: (vault_door or VaultDoor()).answer})
    async with TestServer(app) as server:
        grant: dict[str, object] = {
            "address": str(server.make_url("")).rstrip("/"), "namespace": None, "ca_cert": None, "client_cert": None,
            "client_key": None, "skip_verify": False, "timeout": 20.0, "mount": "secret", "own": f"worklets/{ME}",
            "readable": [], "token": REAL,
        }  # fmt: skip
        try:
            await gateway.open("w-1", tmp_path, ME, {"vault": grant})
            yield Asking(tmp_path, identity.token("gateway", "w-1"))
        finally:
            await gateway.aclose()


async def test_the_real_token_is_in_no_answer_and_in_no_line_of_the_log(tmp_path: Path, log: io.StringIO) -> None:
    async with door(tmp_path) as worklet:
        known = b"x-api-key: " + worklet.token.encode()
        status, body = await worklet.ask(LOOKUP)
        assert (status, json.loads(body)["data"]["id"]) == (200, worklet.token)
        status, body = await worklet.ask(LOOKUP, known, b"X-Vault-Token: \xff")
        assert (status, json.loads(body)["data"]["id"]) == (200, "")
        assert (await worklet.ask(LOOKUP, known, b"Accept: \xff"))[0] == 400
    assert REAL not in log.getvalue()
    assert "Traceback" not in log.getvalue()


async def test_each_write_counts_also_an_empty_one(tmp_path: Path) -> None:
    serving = VaultDoor()
    async with door(tmp_path, serving) as worklet:
        assert (await worklet.ask(WRITE))[0] == 200
        serving.paces["w-1"].written = (16 << 20) - (2 << 10)
        assert (await worklet.ask(WRITE))[0] == 200
        status, body = await worklet.ask(WRITE)
        assert status == 413
        assert b"as much as it may" in body
        assert (await worklet.ask(LOOKUP))[0] == 200


async def test_a_worklet_that_goes_on_asking_is_not_forgotten(tmp_path: Path) -> None:
    serving = VaultDoor(most_paces=2)
    async with door(tmp_path, serving) as worklet:
        await worklet.ask(WRITE)
        for name in ("w-2", "w-3"):
            serving.paces[name] = _Pace()
            await worklet.ask(LOOKUP)
        assert list(serving.paces) == ["w-3", "w-1"]
        assert serving.paces["w-1"].written > 0


async def test_a_request_that_does_not_end_is_the_worklets_own_fault(tmp_path: Path, log: io.StringIO) -> None:
    async with door(tmp_path, VaultDoor(body_seconds=0.05)) as worklet:
        token = b"X-Vault-Token: " + worklet.token.encode()
        reader, writer = await worklet.open(WRITE, token, b"Content-Length: 5")
        status, body = await answered(reader, writer)
    assert status == 408
    assert b"did not come in time" in body
    assert "Vault unreachable" not in log.getvalue()
