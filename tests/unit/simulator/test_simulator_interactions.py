import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from simulator_helpers import Wire, error_of, web_client, wire

from simulator.clock import ManualClock
from simulator.manifest import Manifest
from simulator.slack import SlackSimulator

MODAL = {"type": "modal", "title": {"type": "plain_text", "text": "T"}, "blocks": [{"type": "divider"}]}
BUTTON = {"type": "button", "action_id": "go", "value": "1", "text": {"type": "plain_text", "text": "Go"}}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def slack(clock: ManualClock) -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(clock=clock, limits=None) as simulator:
        yield simulator


async def received(slack: SlackSimulator, line: Wire, *, ack: Any = None) -> dict[str, Any]:
    """The payload of a /flow that was acknowledged at once."""
    command = asyncio.create_task(slack.command("maya", "#general", "/flow", "hi"))
    frame = await line.frame()
    await line.ack(frame, ack)
    assert (await command).ok
    return frame["payload"]


async def respond(url: str, **payload: Any) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.post(url, json=payload) as response:
        return response.status, await response.text()


async def test_a_command_carries_no_thread_and_takes_its_answer_in_the_ack(slack: SlackSimulator) -> None:
    async with wire(slack) as line:
        payload = await received(slack, line, ack={"text": "a < b", "response_type": "in_channel"})
    assert (payload["command"], payload["text"], payload["channel_name"]) == ("/flow", "hi", "general")
    assert "thread_ts" not in payload
    assert [m["text"] for m in slack.messages("general")] == ["a &lt; b"]


async def test_an_unacknowledged_command_fails_for_the_person_and_is_not_repeated(
    slack: SlackSimulator, clock: ManualClock
) -> None:
    async with wire(slack) as line:
        command = asyncio.create_task(slack.command("maya", "#general", "/flow", "hi"))
        await line.frame()
        clock.advance(3)
        result = await command
        assert (result.ok, result.error) == (False, "operation_timeout")
        clock.advance(600)
        await slack.post("maya", "#general", "next")
        assert (await line.frame())["type"] == "events_api"
    assert [m["text"] for m in slack.ephemerals("maya")] == ['/flow failed with the error "operation_timeout"']


async def test_a_command_without_an_app_listening_fails_at_once(slack: SlackSimulator, clock: ManualClock) -> None:
    command = asyncio.create_task(slack.command("maya", "#general", "/flow", "hi"))
    await slack.wait_for(lambda: slack.deliveries)
    clock.advance(0)
    assert (await command).error == "dispatch_failed"
    assert (await slack.command("maya", "#general", "/other")).error == "unknown_command"


async def test_a_bad_answer_to_a_command_is_told(slack: SlackSimulator) -> None:
    async with wire(slack) as line:
        command = asyncio.create_task(slack.command("maya", "#general", "/flow", "hi"))
        await line.ack(await line.frame(), {"blocks": [{"type": "hologram"}]})
        assert (await command).error == "invalid_command_response"


async def test_a_response_url_works_five_times_within_thirty_minutes(slack: SlackSimulator, clock: ManualClock) -> None:
    async with wire(slack) as line:
        url = (await received(slack, line))["response_url"]
        other = (await received(slack, line))["response_url"]
    for count in range(5):
        assert await respond(url, text=f"n{count}") == (200, "ok")
    status, body = await respond(url, text="six")
    assert (status, "used_url" in body) == (404, True)
    assert [m["text"] for m in slack.ephemerals("maya")] == ["n0", "n1", "n2", "n3", "n4"]
    clock.advance(1801)
    status, body = await respond(other, text="late")
    assert (status, "expired_url" in body) == (404, True)


async def test_a_click_carries_the_message_and_its_thread(slack: SlackSimulator) -> None:
    client = web_client(slack)
    root = await slack.post("maya", "#general", "root")
    posted = await client.chat_postMessage(
        channel="#general",
        thread_ts=root,
        text="x",
        blocks=[{"type": "actions", "block_id": "b", "elements": [BUTTON]}],
    )
    async with wire(slack) as line:
        click = asyncio.create_task(slack.click("jonas", posted["ts"], "go"))
        frame = await line.frame()
        await line.ack(frame)
        assert (await click).ok
    payload = frame["payload"]
    assert payload["container"]["thread_ts"] == payload["message"]["thread_ts"] == root
    assert [(a["action_id"], a["block_id"], a["value"]) for a in payload["actions"]] == [("go", "b", "1")]
    assert await respond(payload["response_url"], replace_original=True, text="done") == (200, "ok")
    message = slack.messages("general", root)[1]
    assert (message["text"], "blocks" in message) == ("done", False)
    with pytest.raises(KeyError):
        await slack.click("jonas", posted["ts"], "go")


async def test_ephemerals_belong_to_one_person_and_never_change_by_api(slack: SlackSimulator) -> None:
    client = web_client(slack)
    channel = slack.channel("general").id
    sent = await client.chat_postEphemeral(channel=channel, user=slack.user("maya").id, text="psst")
    assert [m["text"] for m in slack.ephemerals("maya")] == ["psst"]
    assert slack.messages("general") == []
    assert await error_of(client.chat_update(channel=channel, ts=sent["message_ts"], text="x")) == "message_not_found"
    slack.invite("leadership")
    stranger = slack.add_user("kim")
    refused = client.chat_postEphemeral(channel=slack.channel("leadership").id, user=stranger.id, text="x")
    assert await error_of(refused) == "user_not_in_channel"


async def test_a_trigger_opens_one_view_within_three_seconds(slack: SlackSimulator, clock: ManualClock) -> None:
    client = web_client(slack)
    async with wire(slack) as line:
        first, second = [(await received(slack, line))["trigger_id"] for _ in range(2)]
    await client.views_open(trigger_id=first, view=MODAL)
    assert await error_of(client.views_open(trigger_id=first, view=MODAL)) == "exchanged_trigger_id"
    assert await error_of(client.views_open(trigger_id="1.2", view=MODAL)) == "invalid_trigger_id"
    clock.advance(3.1)
    assert await error_of(client.views_open(trigger_id=second, view=MODAL)) == "expired_trigger_id"


async def test_views_are_pushed_updated_and_closed(slack: SlackSimulator) -> None:
    client = web_client(slack)
    async with wire(slack) as line:
        first, second = [(await received(slack, line))["trigger_id"] for _ in range(2)]
        opened = (await client.views_open(trigger_id=first, view=MODAL))["view"]
        pushed = (await client.views_push(trigger_id=second, view={**MODAL, "notify_on_close": True}))["view"]
        assert pushed["root_view_id"] == pushed["previous_view_id"] == opened["id"]
        stale = client.views_update(view_id=opened["id"], hash="0", view=MODAL)
        assert await error_of(stale) == "hash_conflict"
        closing = asyncio.create_task(slack.close_view("maya"))
        frame = await line.frame()
        assert (frame["payload"]["type"], frame["payload"]["view"]["id"]) == ("view_closed", pushed["id"])
        await line.ack(frame)
        assert (await closing).ok
    assert [view["id"] for view in slack.views("maya")] == [opened["id"]]
    assert await error_of(client.views_update(view_id=pushed["id"], view=MODAL)) == "not_found"


async def test_the_home_tab(slack: SlackSimulator) -> None:
    client = web_client(slack)
    user = slack.user("maya").id
    published = await client.views_publish(user_id=user, view={"type": "home", "blocks": [{"type": "divider"}]})
    assert slack.home("maya")["id"] == published["view"]["id"]
    stale = client.views_publish(user_id=user, hash="0", view={"type": "home", "blocks": []})
    assert await error_of(stale) == "hash_conflict"
    plain = slack.add_app("Plain", manifest=Manifest(home_tab=False))
    refused = web_client(slack, plain.bot_token).views_publish(user_id=user, view={"type": "home", "blocks": []})
    assert await error_of(refused) == "not_enabled"


async def test_a_message_shortcut_reaches_into_threads(slack: SlackSimulator) -> None:
    root = await slack.post("maya", "#random", "root")
    reply = await slack.post("jonas", "#random", "reply", thread_ts=root)
    async with wire(slack) as line:
        shortcut = asyncio.create_task(slack.shortcut("maya", "flow_message", reply))
        frame = await line.frame()
        await line.ack(frame)
        assert (await shortcut).ok
    payload = frame["payload"]
    assert (payload["type"], payload["callback_id"]) == ("message_action", "flow_message")
    assert (payload["message_ts"], payload["message"]["thread_ts"]) == (reply, root)
