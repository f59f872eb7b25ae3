"""What else lies behind a worklet's door: who gets there, with which grant."""

from __future__ import annotations

import base64
from pathlib import Path

import aiohttp
from aiohttp import web

from worklets.gateway import ModelGateway
from worklets.gatewayroutes import Caller, subject_of
from worklets.identity import Identity
from worklets.sockets import short_path

W = "6f1c3f0e-3a54-4a64-9d0b-6a3e8c4a7b11"


def test_a_path_names_its_subject() -> None:
    assert subject_of("/flow/git/a/b") == "git"
    assert subject_of("/flow/mcp") == "mcp"
    assert subject_of("/flow/") == ""
    assert subject_of("/v1/messages") is None


async def test_only_the_worklet_itself_and_with_what_it_was_granted(tmp_path: Path) -> None:
    callers: list[Caller] = []

    async def handle(request: web.BaseRequest, caller: Caller) -> web.StreamResponse:
        callers.append(caller)
        return web.Response(text=f"{request.rel_url.raw_path} {await request.text()}")

    identity = Identity.load(tmp_path)
    gateway = ModelGateway("http://127.0.0.1:9", None, identity, routes={"thing": handle})
    try:
        await gateway.open("w", tmp_path, W, {"thing": {"a": 1}, "other": 2})
        token = identity.token("gateway", "w")
        basic = base64.b64encode(f"user:{token}".encode()).decode()
        ways = [{"x-api-key": token}, {"Authorization": f"Bearer {token}"}, {"Authorization": f"Basic {basic}"}]
        wrong = [
            {}, {"x-api-key": identity.token("gateway", "v")}, {"Authorization": "Basic !"},
            {"Authorization": "Basic " + base64.b64encode(b"user").decode()},
        ]  # fmt: skip
        with short_path(tmp_path, "gateway.sock") as path:
            async with aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(path)) as http:
                for headers in ways:
                    async with http.post("/flow/thing/x", data=b"body", headers=headers) as answer:
                        assert (answer.status, await answer.text()) == (200, "/flow/thing/x body")
                for headers in wrong:
                    async with http.post("/flow/thing/x", data=b"body", headers=headers) as answer:
                        assert answer.status == 401
                async with http.get("/flow/nothing", headers=ways[0]) as answer:
                    assert answer.status == 404
                assert callers == [Caller("w", W, {"a": 1})] * 3
                await gateway.open("w", tmp_path)  # as it was
                async with http.get("/flow/thing", headers=ways[0]) as answer:
                    assert answer.status == 200
                await gateway.open("w", tmp_path, None, {})  # taken back
                async with http.get("/flow/thing", headers=ways[0]) as answer:
                    assert answer.status == 200
        assert [caller.grant for caller in callers[3:]] == [{"a": 1}, None]
        assert gateway.grants() == {"w": {}}
    finally:
        await gateway.aclose()
