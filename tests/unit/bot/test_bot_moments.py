"""Two things in one moment, at the Slack door: something is looked at, waited for, and is no more what it was."""

from __future__ import annotations

import asyncio
from typing import cast

from bot.socket import SlackSocket
from bot.socketclient import Connection

API = "http://127.0.0.1:9/api/"


class Line:
    """A connection to Slack: it takes what is sent, or finds in the end that it is gone."""

    def __init__(self, *, gone: bool = False) -> None:
        self.up = not gone
        self.tried = asyncio.Event()
        self.known = asyncio.Event()  # until then a call of one that is gone has no end
        self.sent: list[str] = []

    async def send(self, text: str) -> bool:
        self.tried.set()
        if self.up:
            self.sent.append(text)
            return True
        await self.known.wait()
        return False


def connection(line: Line) -> Connection:
    return cast("Connection", line)


async def test_an_acknowledgement_goes_over_a_connection_that_opened_while_its_own_was_tried() -> None:
    """Also where another one waits for a connection in that moment."""
    socket = SlackSocket(app_token="xapp-1", bot_token="xoxb-1", api_url=API)
    lost, gone, fresh = Line(gone=True), Line(gone=True), Line()
    gone.known.set()
    first = asyncio.create_task(socket._send(connection(lost), "first"))
    await lost.tried.wait()
    socket._open.append(connection(fresh))
    socket._tell_connected(missed=False)
    await socket._send(connection(gone), "second")
    lost.known.set()
    await first
    assert fresh.sent == ["second", "first"]
