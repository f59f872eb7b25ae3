from collections.abc import AsyncIterator
from typing import Any

import pytest
from simulator_helpers import error_of, web_client

from simulator.clock import ManualClock
from simulator.slack import SlackSimulator


class Stage:
    def __init__(self, slack: SlackSimulator, clock: ManualClock, ts: str) -> None:
        self.slack, self.clock, self.ts = slack, clock, ts
        self.client = web_client(slack)
        self.channel = slack.channel("general").id

    def start(self, **arguments: Any) -> Any:
        given = {
            "channel": self.channel,
            "thread_ts": self.ts,
            "recipient_user_id": self.slack.user("maya").id,
            "recipient_team_id": self.slack.workspace.team_id,
        }
        return self.client.api_call("chat.startStream", json={**given, **arguments})

    def append(self, ts: str, **arguments: Any) -> Any:
        return self.client.api_call("chat.appendStream", json={"channel": self.channel, "ts": ts, **arguments})

    def stop(self, ts: str, **arguments: Any) -> Any:
        return self.client.api_call("chat.stopStream", json={"channel": self.channel, "ts": ts, **arguments})


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    clock = ManualClock()
    async with SlackSimulator(clock=clock, limits=None) as slack:
        yield Stage(slack, clock, await slack.post("maya", "#general", "root"))


async def test_a_stream_grows_and_is_stopped(stage: Stage) -> None:
    ts = (await stage.start(markdown_text="Hel"))["ts"]
    await stage.append(ts, markdown_text="lo")
    replies = await stage.client.conversations_replies(channel=stage.channel, ts=stage.ts)
    assert replies["messages"][1]["streaming_state"] == "in_progress"
    await stage.append(ts, chunks=[{"type": "markdown_text", "text": " **all**"}])
    stopped = await stage.stop(ts, blocks=[{"type": "divider"}])
    assert stopped["message"]["streaming_state"] == "completed"
    assert [block["type"] for block in stopped["message"]["blocks"]] == ["markdown", "divider"]
    assert stage.slack.visible_text(stopped["message"]) == "Hello **all**"
    assert [r.kind for r in stage.slack.history(ts)] == ["post", "append", "append", "stop"]


async def test_the_sdk_helper_works(stage: Stage) -> None:
    stream = await stage.client.chat_stream(
        channel=stage.channel,
        thread_ts=stage.ts,
        recipient_user_id=stage.slack.user("maya").id,
        recipient_team_id=stage.slack.workspace.team_id,
        buffer_size=1,
    )
    await stream.append(markdown_text="one ")
    await stream.append(markdown_text="two")
    await stream.stop()
    assert stage.slack.visible_text(stage.slack.messages("general", stage.ts)[1]) == "one two"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"thread_ts": ""}, "invalid_thread_ts"),
        ({"thread_ts": "1.000000"}, "thread_not_found"),
        ({"recipient_user_id": ""}, "missing_recipient_user_id"),
        ({"recipient_team_id": ""}, "missing_recipient_team_id"),
        ({"recipient_user_id": "U0NOBODY"}, "user_not_found"),
        ({"markdown_text": "x" * 12_001}, "msg_too_long"),
        ({"chunks": [{"type": "nonsense"}]}, "invalid_chunks"),
        ({"chunks": [{"type": "task_update", "id": "1", "title": "x" * 257}]}, "invalid_chunks"),
    ],
)
async def test_what_a_start_must_have(stage: Stage, arguments: dict[str, Any], error: str) -> None:
    assert await error_of(stage.start(**arguments)) == error


async def test_recipients_are_not_needed_in_a_direct_message(stage: Stage) -> None:
    ts = await stage.slack.post("maya", "dm", "hi")
    channel = stage.slack.dm("maya").id
    started = await stage.start(channel=channel, thread_ts=ts, recipient_user_id="", recipient_team_id="")
    assert started["ok"]


async def test_an_open_stream_takes_no_edit_and_no_deletion(stage: Stage) -> None:
    ts = (await stage.start(markdown_text="x"))["ts"]
    assert (
        await error_of(stage.client.chat_update(channel=stage.channel, ts=ts, text="y")) == "streaming_state_conflict"
    )
    assert await error_of(stage.client.chat_delete(channel=stage.channel, ts=ts)) == "cant_delete_message"
    assert await error_of(stage.append(ts)) == "no_text"
    await stage.stop(ts)
    assert (await stage.client.chat_update(channel=stage.channel, ts=ts, text="y"))["ok"]
    assert await error_of(stage.append(ts, markdown_text="z")) == "message_not_in_streaming_state"


async def test_a_stream_ends_by_itself_after_five_minutes(stage: Stage) -> None:
    ts = (await stage.start(markdown_text="x"))["ts"]
    stage.clock.advance(299)
    await stage.append(ts, markdown_text="y")
    stage.clock.advance(1)
    assert await error_of(stage.append(ts, markdown_text="z")) == "message_not_in_streaming_state"
    assert (await stage.client.chat_update(channel=stage.channel, ts=ts, text="whole"))["ok"]


async def test_only_the_owner_appends(stage: Stage) -> None:
    ts = (await stage.start(markdown_text="x"))["ts"]
    other = web_client(stage.slack, stage.slack.add_app("Other").bot_token)
    foreign = other.api_call("chat.appendStream", json={"channel": stage.channel, "ts": ts, "markdown_text": "y"})
    assert await error_of(foreign) == "message_not_owned_by_app"


async def test_tasks_replace_their_state_and_collect_their_output(stage: Stage) -> None:
    ts = (await stage.start(task_display_mode="plan", chunks=[{"type": "plan_update", "title": "Plan"}]))["ts"]
    task = {"type": "task_update", "id": "1"}
    await stage.append(ts, chunks=[{**task, "title": "Read", "status": "in_progress", "output": "a"}])
    await stage.append(ts, chunks=[{**task, "title": "Read it", "status": "complete", "output": "b"}])
    message = stage.slack.messages("general", stage.ts)[1]
    [plan] = message["blocks"]
    assert [(t["title"], t["status"]) for t in plan["tasks"]] == [("Read it", "complete")]
    assert stage.slack.visible_text(message) == "Plan\nRead it\nab"
