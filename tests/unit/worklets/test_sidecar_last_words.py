"""What an MCP server in a sidecar says last stands in a log and a thread: its secrets do not."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from waiting import until

from worklets.containeryaml import McpServer
from worklets.mcpservers import resolve
from worklets.sidecarprocess import Pace, Process

TOKEN = "tok-1234567890-abcdefghij"


async def process(secrets: list[str], told: dict[str, Any]) -> Process:
    """One that has ended so."""
    ours, its = socket.socketpair()
    with its:
        reader, writer = await asyncio.open_connection(sock=ours)
        one = Process("own", reader, writer, {"command": [], "env": {}}, lambda _: None, Pace(), secrets)
        its.sendall(json.dumps(told).encode() + b"\n")
        await until(lambda: one.over, timeout=30)
        await one.close()
    return one


@pytest.mark.parametrize(
    ("secret", "said", "shown"),
    [
        ("hunter2-very", "FATAL: password hunter2-very refused", "FATAL: password ‹masked› refused"),
        ("postgres://u:hunter2-very@db", "password hunter2-very refused", "password ‹masked› refused"),
        (TOKEN, f"401 for Bearer {TOKEN}", "401 for Bearer ‹masked›"),
        (TOKEN, TOKEN[5:] + " refused".ljust(2000 - len(TOKEN) + 5, "."), "‹masked› refused..."),
        (TOKEN, "\ufffd" + TOKEN[5:] + " refused".ljust(1997 - len(TOKEN) + 5, "."), "‹masked› refused..."),
        (TOKEN, "a-word-of-some-length is no secret", "a-word-of-some-length is no secret"),
    ],
)
async def test_what_is_said_last_holds_no_secret(secret: str, said: str, shown: str) -> None:
    one = await process([secret], {"flow": "ended", "code": 1, "said": said})
    assert one.said.startswith(shown)
    one = await process([TOKEN], {"flow": "failed", "why": f"/bin/x: no {TOKEN} here"})
    assert one.why == "The MCP server own does not start: /bin/x: no ‹masked› here."


async def test_the_gateway_is_told_which_parts_of_an_environment_are_secrets() -> None:
    class Store:
        async def get(self, path: str) -> dict[str, str]:
            return {
                "PW": "hunter2-very",
                "T": TOKEN,
                "OTHER": "x",
                "command": "U='u:${PW}@db' A='Bearer ${T}' M=plain own",
            }

    env = (("U", "u:${PW}@db"), ("A", "Bearer ${T}"), ("M", "plain"))
    store: Any = Store()
    found = await resolve([McpServer("own", command="own", env=env)], store, None)
    assert found.grant["own"]["secrets"] == ["hunter2-very", TOKEN]
