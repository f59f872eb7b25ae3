"""An unmodified Bolt app for Python works against the simulator."""

from collections.abc import AsyncIterator

import pytest
from slack_bolt.adapter.socket_mode.async_handler import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from simulator.slack import SlackSimulator


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator() as simulator:
        yield simulator


@pytest.fixture
async def app(slack: SlackSimulator) -> AsyncIterator[AsyncApp]:
    bolt = AsyncApp(client=AsyncWebClient(token=slack.bot_token, base_url=slack.api_url))
    register(bolt)
    handler = AsyncSocketModeHandler(bolt, slack.app_token)
    await handler.connect_async()
    await slack.wait_connected()
    yield bolt
    await handler.close_async()


def register(bolt: AsyncApp) -> None:
    @bolt.event("app_mention")
    async def mentioned(event, say, client):
        first = await say(text="Thinking", thread_ts=event["ts"])
        await client.chat_update(channel=event["channel"], ts=first["ts"], text="Hello <@" + event["user"] + ">")

    @bolt.event("message")
    async def message(event): ...

    @bolt.command("/flow")
    async def flow(ack, command, respond, client):
        if command["text"] == "modal":
            await ack()
            await client.views_open(trigger_id=command["trigger_id"], view=MODAL)
        elif command["text"] == "button":
            await ack(text="Press", blocks=[BUTTONS])
        else:
            await ack(text="You said " + command["text"])
            await respond(text="and later this")

    @bolt.action("go")
    async def pressed(ack, body, respond):
        await ack()
        await respond(text=f"pressed {body['actions'][0]['value']}", replace_original=True)

    @bolt.view("ask")
    async def submitted(ack, view, client, body):
        name = view["state"]["values"]["name"]["input"]["value"]
        if not name:
            await ack(response_action="errors", errors={"name": "Say a name."})
            return
        await ack()
        await client.chat_postMessage(channel=body["user"]["id"], text=f"Hi {name}")


BUTTONS = {
    "type": "actions",
    "elements": [{"type": "button", "action_id": "go", "value": "42", "text": {"type": "plain_text", "text": "Go"}}],
}
MODAL = {
    "type": "modal",
    "callback_id": "ask",
    "title": {"type": "plain_text", "text": "Name"},
    "submit": {"type": "plain_text", "text": "OK"},
    "blocks": [
        {
            "type": "input",
            "block_id": "name",
            "optional": True,
            "label": {"type": "plain_text", "text": "Your name"},
            "element": {"type": "plain_text_input", "action_id": "input"},
        }
    ],
}


async def test_a_mention_is_answered_in_its_thread_and_the_answer_edited(slack: SlackSimulator, app: AsyncApp) -> None:
    ts = await slack.post("maya", "#general", "@Flow hello")
    await slack.wait_for(lambda: any("Hello" in m["text"] for m in slack.messages("#general", ts)))
    answer = slack.messages("#general", ts)[1]
    assert slack.visible_text(answer) == "Hello @maya"
    assert answer["edited"]["user"] == slack.bot_user_id
    assert [revision.body["text"].partition(" ")[0] for revision in slack.history(answer)] == ["Thinking", "Hello"]


async def test_a_command_is_acknowledged_and_answered_twice(slack: SlackSimulator, app: AsyncApp) -> None:
    result = await slack.command("maya", "#general", "/flow", "hi")
    assert (result.ok, result.ack["text"]) == (True, "You said hi")
    await slack.wait_for(lambda: len(slack.ephemerals("maya")) == 2)
    # Bolt sends its acknowledgement when the listener pauses, so either may come first.
    assert {m["text"] for m in slack.ephemerals("maya")} == {"You said hi", "and later this"}
    assert slack.ephemerals("jonas") == []


async def test_a_button_replaces_its_ephemeral(slack: SlackSimulator, app: AsyncApp) -> None:
    await slack.command("maya", "#general", "/flow", "button")
    [message] = slack.ephemerals("maya")
    assert (await slack.click("maya", message, "go")).ok
    await slack.wait_for(lambda: slack.ephemerals("maya")[0]["text"] == "pressed 42")
    assert "blocks" not in slack.ephemerals("maya")[0]


async def test_a_modal_refuses_and_then_takes_its_values(slack: SlackSimulator, app: AsyncApp) -> None:
    await slack.command("maya", "#general", "/flow", "modal")
    await slack.wait_for(lambda: slack.views("maya"))
    assert (await slack.submit("maya")).ack == {"response_action": "errors", "errors": {"name": "Say a name."}}
    assert len(slack.views("maya")) == 1
    assert (await slack.submit("maya", {"input": "Ada"})).ok
    assert slack.views("maya") == []
    await slack.wait_for(lambda: [m["text"] for m in slack.messages("dm", user="maya")] == ["Hi Ada"])
