"""A bare Socket Mode client: it shows exactly what Slack's side sends, and acknowledges only when told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from simulator.slack import SlackSimulator


class Wire:
    """One open socket."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def frame(self, timeout: float = 60.0) -> dict[str, Any]:
        """The next JSON frame; Slack's pings are answered on the way."""
        async with asyncio.timeout(timeout):
            message = await self.ws.receive()
        assert message.type == aiohttp.WSMsgType.TEXT, message
        return json.loads(message.data)

    async def ack(self, frame: dict[str, Any], payload: Any = None) -> None:
        answer = {"envelope_id": frame["envelope_id"]} | ({"payload": payload} if payload is not None else {})
        await self.ws.send_json(answer)


async def socket_url(slack: SlackSimulator) -> str:
    client = AsyncWebClient(token=slack.app_token, base_url=slack.api_url)
    return (await client.apps_connections_open(app_token=slack.app_token))["url"]


@asynccontextmanager
async def wire(slack: SlackSimulator, *, hello: bool = True) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession() as session, session.ws_connect(await socket_url(slack)) as ws:
        line = Wire(ws)
        if hello:
            assert (await line.frame())["type"] == "hello"
        yield line


def web_client(slack: SlackSimulator, token: str = "") -> AsyncWebClient:
    return AsyncWebClient(token=token or slack.bot_token, base_url=slack.api_url, retry_handlers=[])


async def error_of(call: Any) -> str:
    with pytest.raises(SlackApiError) as caught:
        await call
    return caught.value.response["error"]
