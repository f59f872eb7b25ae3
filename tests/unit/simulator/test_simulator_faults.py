import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from simulator_helpers import error_of, web_client
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from simulator.slack import SlackSimulator


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(limits=None) as simulator:
        yield simulator


async def test_a_429_comes_with_its_header_and_only_as_often_as_asked(slack: SlackSimulator) -> None:
    slack.faults.fail("chat.postMessage", status=429, retry_after=7)
    with pytest.raises(SlackApiError) as caught:
        await web_client(slack).chat_postMessage(channel="#general", text="x")
    assert (caught.value.response.status_code, caught.value.response.headers["Retry-After"]) == (429, "7")
    assert slack.messages("general") == []
    await web_client(slack).chat_postMessage(channel="#general", text="x")


async def test_a_failure_after_the_effect_leaves_the_message(slack: SlackSimulator) -> None:
    slack.faults.fail("chat.postMessage", status=503, after=True)
    with pytest.raises(SlackApiError):
        await web_client(slack).chat_postMessage(channel="#general", text="kept")
    assert [m["text"] for m in slack.messages("general")] == ["kept"]


async def test_a_reset_before_and_after_the_effect(slack: SlackSimulator) -> None:
    slack.faults.reset("chat.postMessage")
    with pytest.raises(aiohttp.ClientConnectionError):
        await web_client(slack).chat_postMessage(channel="#general", text="lost")
    slack.faults.reset("chat.postMessage", after=True)
    with pytest.raises(aiohttp.ClientConnectionError):
        await web_client(slack).chat_postMessage(channel="#general", text="kept")
    assert [m["text"] for m in slack.messages("general")] == ["kept"]
    assert [call.status for call in slack.calls] == [0, 0]


async def test_the_default_client_repeats_a_call_whose_connection_broke(slack: SlackSimulator) -> None:
    slack.faults.reset("chat.postMessage", after=True)
    await AsyncWebClient(token=slack.bot_token, base_url=slack.api_url).chat_postMessage(channel="#general", text="x")
    assert len(slack.messages("general")) == 2


async def test_a_hanging_call_runs_into_the_clients_timeout(slack: SlackSimulator) -> None:
    slack.faults.hang("chat.update")
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url, timeout=1, retry_handlers=[])
    with pytest.raises(asyncio.TimeoutError):
        await client.chat_update(channel="C1", ts="1.0", text="x")


async def test_clear_takes_every_fault_back(slack: SlackSimulator) -> None:
    slack.faults.fail("auth.test", error="internal_error", times=5)
    assert await error_of(web_client(slack).auth_test()) == "internal_error"
    slack.faults.clear()
    assert (await web_client(slack).auth_test())["ok"]


async def test_an_unknown_disconnect_reason_is_refused(slack: SlackSimulator) -> None:
    with pytest.raises(ValueError, match="refresh_requested"):
        slack.faults.disconnect("because")


async def test_a_web_api_that_is_down_answers_every_call_so_until_it_is_up(slack: SlackSimulator) -> None:
    slack.faults.go_down(502)
    for call in (web_client(slack).auth_test(), web_client(slack).chat_postMessage(channel="#general", text="x")):
        with pytest.raises(SlackApiError) as caught:
            await call
        assert caught.value.response.status_code == 502
    slack.faults.come_up()
    await web_client(slack).auth_test()
    assert slack.messages("general") == []
