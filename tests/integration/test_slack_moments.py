"""Two things in one moment, at the Slack door and with another process: held messages, files."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from slack_sdk.web.async_client import AsyncWebClient
from slackdoor import Flow, Start
from unit.sessions.scripted import Process
from waiting import until

from bot import couriers
from bot.access import Facts, Verdict
from bot.filestore import SentFile, SentFiles, files
from bot.held import Held
from bot.store import CaughtUp
from bot.upload import put, share
from sessions.types import TurnId
from worklets.events import Text, ToolStarted
from worklets.files import SEND_FILE


async def caught_up(flow: Flow) -> None:
    """What is lost from now on is not found by reading the thread."""

    async def noted() -> bool:
        return await CaughtUp(flow.db).until(flow.door.me.team_id) is not None

    await until(noted)


async def test_what_follows_a_call_that_is_being_kept_comes_after_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older things of its author are let in meanwhile; the thread has no session yet."""
    async with start(known=False) as flow:
        await caught_up(flow)
        maya, jonas = (flow.slack.user(name).id for name in ("maya", "jonas"))
        guard, access = flow.door.guard, flow.door.access
        access.remember(jonas, Facts())
        decide, keep, admits = access.decide, guard._store.keep, guard.admits
        known, free, begun, looked = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def decided(user_id: str, channel: str | None) -> Verdict:
            await known.wait()
            return await decide(user_id, channel)

        async def kept(one: Held) -> None:
            if one.user_id == maya:
                begun.set()
                await free.wait()
            await keep(one)

        async def looked_at(event: dict[str, Any], *asked: Any, **late: Any) -> bool:
            if event.get("user") == jonas:
                looked.set()
            return await admits(event, *asked, **late)

        monkeypatch.setattr(access, "decide", decided)
        await flow.slack.post("maya", "#general", "@flow one")
        await until(lambda: maya in guard._busy and len(guard._opening) == 1)
        await until(lambda: len(flow.slack.acks) == 2)  # a mention comes as two events
        monkeypatch.setattr(guard._store, "keep", kept)
        monkeypatch.setattr(guard, "admits", looked_at)
        called = await flow.slack.post("maya", "#general", "@flow HOLD two")
        await begun.wait()
        known.set()
        await until(lambda: maya not in guard._busy)
        await flow.slack.post("jonas", "#general", "and mine", thread_ts=called)
        await looked.wait()
        await asyncio.sleep(0.1)  # time in which it would be taken for a word among people
        free.set()
        process = await flow.process("HOLD two")
        process.answer("done")
        await until(lambda: [text for _, text in process.prompts] == ["HOLD two", "and mine"])


async def test_what_follows_a_call_that_another_process_keeps_comes_after_it(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    await caught_up(flow)
    channel, maya = flow.slack.channel("#general").id, flow.slack.user("maya").id
    called = await flow.slack.post("maya", "#general", "who can help?")
    await until(lambda: len(flow.slack.acks) == 1)
    text = f"<@{flow.slack.bot_user_id}> HOLD on"
    event = {"type": "app_mention", "user": maya, "text": text, "ts": called, "channel": channel}
    monkeypatch.setattr(flow.db, "exclusive", False)
    at = datetime.fromtimestamp(flow.door.now(), UTC)
    await flow.door.guard._store.keep(Held("a call", maya, channel, "message", event, at, called, maya))
    await flow.slack.post("jonas", "#general", "and mine", thread_ts=called)
    process = await flow.process("HOLD on")
    process.answer("done")
    await until(lambda: [text for _, text in process.prompts] == ["HOLD on", "and mine"])


# ---- files that Claude sends -------------------------------------------------------------------------------------


def hand_over(path: Path, worklet: str, tool_id: str) -> Path:
    place = path / "worklets" / worklet / "run" / "outgoing" / tool_id
    place.mkdir(parents=True)
    (place / "content").write_bytes(b"not quite a picture")
    (place / "meta.json").write_text(json.dumps({"name": "chart.png", "size": 19}))
    return place


def reply_in(place: Path) -> Any:
    reply = place / "reply.json"
    return json.loads(reply.read_text()) if reply.exists() else None


def pictures(flow: Flow, ts: str) -> list[str]:
    return [file["name"] for message in flow.slack.messages("#general", ts) for file in message.get("files", [])]


async def at_work(flow: Flow) -> tuple[str, Process]:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD")
    process = await flow.process("HOLD")
    process.say(Text("Drawing."))
    await flow.shows("#general", ts, "Drawing.")
    return ts, process


async def taken_over(flow: Flow, client: AsyncWebClient, ts: str, name: str, content: bytes) -> None:
    """By a process to which it looked as if this one had died: it shows the file."""
    other = SentFiles(flow.db, "another process")
    async with flow.db.read() as connection:
        (row,) = (await connection.execute(sa.select(files))).all()
    sent: SentFile | None = await other.claim(TurnId(row.turn_id), row.tool_id)
    assert sent is not None
    file_id = await put(client, name, content)
    assert await other.uploaded(sent, file_id)
    await share(client, flow.slack.channel("#general").id, ts, file_id, name)
    await other.settle(sent, None)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_file_that_another_process_took_over_is_shown_once_and_called_shown(
    flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    ts, process = await at_work(flow)

    async def slowly(client: AsyncWebClient, name: str, content: bytes) -> str:
        monkeypatch.setattr(couriers, "put", put)
        file_id = await put(client, name, content)
        await taken_over(flow, client, ts, name, content)
        if gone:
            raise FileNotFoundError
        return file_id

    monkeypatch.setattr(couriers, "put", slowly)
    process.say(ToolStarted("t1", SEND_FILE, {"path": "chart.png"}))
    place = hand_over(tmp_path, process.name, "t1")
    assert await until(lambda: reply_in(place)) == {"error": None}
    assert pictures(flow, ts) == ["chart.png"]
