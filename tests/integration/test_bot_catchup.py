"""What people write while Slack cannot be heard. Here Slack sends nothing a second time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from slackdoor import MANIFEST, Flow, Start, starter
from unit.sessions.scripted import ScriptedHost
from waiting import until

from bot.catchup import CatchUp
from bot.reading import Reader
from sessions.tables import asides
from sessions.types import TurnState
from simulator.slack import SlackSimulator


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST, retry_delays=()) as running:
        yield running


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost()


@pytest.fixture
def start(tmp_path: Path, slack: SlackSimulator, host: ScriptedHost) -> Start:
    return starter(tmp_path, slack, host)


def prompts(host: ScriptedHost) -> list[str]:
    """Each once: after a restart a prompt is sent again under its uuid."""
    return list({uuid: text for process in host.processes.values() for uuid, text in process.prompts}.values())


async def turns(flow: Flow) -> dict[str, TurnState]:
    return {t.text: t.state for session in await flow.sessions.list() for t in await flow.sessions.turns(session.id)}


async def caught_up(flow: Flow, reads: int) -> None:
    """So many conversations were read, and what stood in them is dealt with."""
    await until(lambda: len(flow.calls("conversations.replies") + flow.calls("conversations.history")) >= reads)


async def test_replies_written_while_flow_was_down_are_answered_in_order(
    start: Start, slack: SlackSimulator, host: ScriptedHost
) -> None:
    before = await slack.post("jonas", "#general", "lunch?")
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow one", thread_ts=before)
        await flow.shows("#general", before, "tokens in")
    await slack.post("maya", "#general", "two", thread_ts=before)
    await slack.post("jonas", "#general", "@maya wait", thread_ts=before)
    edited = await slack.post("jonas", "#general", "thre", thread_ts=before)
    await slack.edit("jonas", edited, "three")
    async with start() as flow:
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", before)) == 3)
        assert prompts(host) == ["one", "two", "three"]
        assert list(await turns(flow)) == ["one", "two", "three"]
        async with flow.db.read() as connection:
            rows = (await connection.execute(sa.select(asides.c.text).order_by(asides.c.ts))).scalars().all()
        assert rows[-1] == "@maya wait"
    assert ts


async def test_an_outage_of_the_connection_loses_nothing(
    start: Start, slack: SlackSimulator, host: ScriptedHost
) -> None:
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow one")
        dm = await slack.post("jonas", "dm", "hi")
        await flow.shows("#general", ts, "tokens in")
        await flow.shows("dm", dm, "tokens in", user="jonas")
        slack.faults.refuse_handshakes(3)
        slack.faults.close_sockets()
        await slack.wait_for(lambda: not slack.connected())
        await slack.post("maya", "#general", "two", thread_ts=ts)
        alone = await slack.post("jonas", "dm", "me again")
        await flow.shows("#general", ts, "two", timeout=30)
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)
        await flow.shows("dm", alone, "tokens in", user="jonas")
        assert sorted(prompts(host)) == ["hi", "me again", "one", "two"]


async def test_a_stop_of_the_last_minute_counts_and_ends_nothing_asked_later(
    start: Start, slack: SlackSimulator, host: ScriptedHost
) -> None:
    async with start(flush=False) as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD one")
        await flow.process("HOLD one")
    await slack.post("maya", "#general", "stop", thread_ts=ts)
    await slack.post("maya", "#general", "HOLD two", thread_ts=ts)
    async with start() as flow:
        await flow.shows("#general", ts, "Stopped by @maya")
        await flow.process("HOLD two")
        reads = len(flow.calls("conversations.replies"))
        flow.door.acted.forget(f"{slack.channel('#general').id}:{ts}")
        flow.door.connected()
        await caught_up(flow, reads + 1)
        (await flow.process("HOLD two")).answer("second done")
        await flow.shows("#general", ts, "second done")
        assert await turns(flow) == {"HOLD one": TurnState.INTERRUPTED, "HOLD two": TurnState.DONE}
        assert slack.ephemerals("maya") == []


async def test_waiting_messages_edited_or_deleted_meanwhile_are_followed(
    start: Start, slack: SlackSimulator, host: ScriptedHost
) -> None:
    async with start(flush=False) as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD one")
        await flow.process("HOLD one")
        edited = await slack.post("maya", "#general", "two", thread_ts=ts)
        deleted = await slack.post("maya", "#general", "three", thread_ts=ts)
        await flow.shows("#general", ts, "the 2 messages before")
    await slack.edit("maya", edited, "the second")
    await slack.delete("maya", deleted)
    async with start() as flow:
        CatchUp(flow.door, Reader(flow.door.client), young=0).start()

        async def followed() -> bool:
            found = await turns(flow)
            return "the second" in found and found["three"] is TurnState.WITHDRAWN

        await until(followed)
        (await flow.process("HOLD one")).end()
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)
        assert prompts(host) == ["HOLD one", "the second"]


async def test_what_slack_refuses_to_give_is_asked_for_again(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow one")
        await flow.shows("#general", ts, "tokens in")
    await slack.post("maya", "#general", "two", thread_ts=ts)
    slack.faults.fail("conversations.replies", status=429, retry_after=1)
    slack.faults.fail("conversations.replies", status=503)
    async with start() as flow:
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2, 30)
