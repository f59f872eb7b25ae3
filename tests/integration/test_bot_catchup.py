"""What people write while Slack cannot be heard. Here Slack sends nothing a second time."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from slack_sdk.web.async_client import AsyncWebClient
from slackdoor import MANIFEST, Flow, Start
from unit.sessions.scripted import ScriptedHost
from waiting import until

from bot.catchup import CatchUp
from bot.messages import take
from bot.reading import Read, Reader
from bot.store import CaughtUp
from bot.store import caught_up as caught_up_table
from sessions.tables import asides
from sessions.tables import sessions as sessions_table
from sessions.types import Prompt, ThreadId, TurnState
from simulator.clock import RealClock
from simulator.slack import SlackSimulator


class Shifted(RealClock):
    """So many seconds in the past, for Slack and for whoever asks it."""

    def __init__(self) -> None:
        self.ago = 0.0

    def now(self) -> float:
        return time.time() - self.ago


@pytest.fixture
def clock() -> Shifted:
    return Shifted()


@pytest.fixture
async def slack(clock: Shifted) -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST, retry_delays=(), clock=clock) as running:
        yield running


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
        await flow.shows("#general", ts, "two")
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

        async def settled() -> bool:
            return TurnState.RUNNING not in (await turns(flow)).values()

        await until(settled)
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
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)


# ---- from where on -----------------------------------------------------------------------------------------------


async def noted(flow: Flow) -> datetime:
    """Until when all was caught up, once that is known."""
    at: datetime = await until(lambda: CaughtUp(flow.db).until(flow.door.me.team_id))
    return at


async def hear(flow: Flow, channel: str, ts: str, root: str | None = None) -> None:
    """The message comes as an event."""
    reader = Reader(flow.door.client)
    read = await (reader.replies(channel, root, oldest="0") if root else reader.history(channel, oldest="0"))
    [message] = [message for message in read.messages if message["ts"] == ts]
    await take(flow.door, {**message, "channel": channel})


@pytest.mark.parametrize("known", [True, False])
async def test_a_direct_message_is_found_although_its_writer_wrote_again(
    start: Start, slack: SlackSimulator, host: ScriptedHost, clock: Shifted, known: bool
) -> None:
    clock.ago = 7200
    async with start(now=clock.now) as flow:
        hi = await slack.post("jonas", "dm", "hi")
        await flow.shows("dm", hi, "tokens in", user="jonas")
        await noted(flow)
    clock.ago = 3600
    lost = await slack.post("jonas", "dm", "lost")
    clock.ago = 0
    again = await slack.post("jonas", "dm", "hello?")
    async with start(connect=False, now=clock.now) as flow:
        if not known:
            async with flow.db.transaction() as connection:
                await connection.execute(sa.delete(caught_up_table))
        [session] = await flow.sessions.list()
        await hear(flow, session.thread.channel, again)
        CatchUp(flow.door, Reader(flow.door.client)).start()
        await flow.shows("dm", lost, "tokens in", user="jonas")
        await flow.shows("dm", again, "tokens in", user="jonas")
        assert sorted(prompts(host)) == ["hello?", "hi", "lost"]


class Stuck(Reader):
    """Never gets an answer."""

    def __init__(self, client: AsyncWebClient) -> None:
        super().__init__(client)
        self.asked = asyncio.Event()

    async def replies(self, channel: str, ts: str, *, oldest: str = "0", latest: str | None = None) -> Read:
        self.asked.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def test_catching_up_that_was_cut_off_is_done_by_the_next_start(
    start: Start, slack: SlackSimulator, host: ScriptedHost, clock: Shifted
) -> None:
    clock.ago = 7200
    async with start(now=clock.now) as flow:
        ts = await slack.post("maya", "#general", "@flow one")
        await flow.shows("#general", ts, "tokens in")
        first = await noted(flow)
    clock.ago = 3600
    await slack.post("maya", "#general", "two", thread_ts=ts)
    clock.ago = 0
    last = await slack.post("maya", "#general", "three", thread_ts=ts)
    async with start(connect=False, now=clock.now) as flow:
        await hear(flow, slack.channel("#general").id, last, ts)
        await flow.shows("#general", ts, "three")
        reader = Stuck(flow.door.client)
        CatchUp(flow.door, reader).start()
        await reader.asked.wait()
        assert await noted(flow) == first
    async with start(now=clock.now) as flow:
        await until(lambda: "two" in prompts(host))
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 3)

        async def moved_on() -> bool:
            return await noted(flow) > first

        await until(moved_on)


class Tampered(Reader):
    """What it reads begins with a message that nobody can make sense of."""

    async def replies(self, channel: str, ts: str, *, oldest: str = "0", latest: str | None = None) -> Read:
        read = await super().replies(channel, ts, oldest=oldest, latest=latest)
        odd = {"ts": f"{float(ts) + 0.5:.6f}", "thread_ts": ts, "user": "U1", "text": "odd", "files": [None]}
        return Read([read.messages[0], odd, *read.messages[1:]], read.complete)


async def test_a_message_that_cannot_be_taken_keeps_no_other_away(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow one")
        await flow.shows("#general", ts, "tokens in")
    await slack.post("maya", "#general", "two", thread_ts=ts)
    async with start(connect=False) as flow:
        began = datetime.now(UTC)
        CatchUp(flow.door, Tampered(flow.door.client)).start()
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)

        async def whole() -> bool:
            return await noted(flow) >= began

        await until(whole)


class Listed(Reader):
    """Notes which threads it is asked for."""

    def __init__(self, flow: Flow) -> None:
        super().__init__(flow.door.client)
        self.asked: list[str] = []

    async def replies(self, channel: str, ts: str, *, oldest: str = "0", latest: str | None = None) -> Read:
        self.asked.append(ts)
        return Read([], complete=False)


async def test_every_thread_of_the_last_day_is_read_the_latest_first(start: Start) -> None:
    async with start(connect=False, flush=False) as flow:
        roots = [f"{1_700_000_000 + number}.000000" for number in range(60)]
        for ts in roots:
            thread = ThreadId(flow.door.me.team_id, "C1", ts)
            await flow.sessions.store.submit(Prompt(thread, f"C1:{ts}", ts, "U1", "hi"))
        async with flow.db.transaction() as connection:
            await connection.execute(sa.update(sessions_table).values(status="asleep"))
        reader = Listed(flow)
        CatchUp(flow.door, reader).start()
        await noted(flow)
        assert reader.asked == roots[::-1]


# ---- words to Flow itself ----------------------------------------------------------------------------------------


async def caught_up_since(flow: Flow, began: datetime) -> None:
    async def whole() -> bool:
        return await noted(flow) >= began

    await until(whole)


async def noted_as_done(flow: Flow) -> None:
    """What began in the thread is over: cut off after it was told, a word would be told again."""
    async with flow.door.one_by_one((await flow.sessions.list())[0].thread):
        return


def said(flow: Flow, root: str) -> list[str]:
    """What was told of settings in the thread, in order."""
    return re.findall(r"▸ @\w+ (?:set the mode to|chose) \*(\w+)\*", "\n".join(flow.thread("#general", root)))


async def test_words_are_done_once_and_not_after_every_start(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow one")
        await flow.shows("#general", ts, "tokens in")
        for mode in ("plan", "auto"):
            await slack.post("maya", "#general", f"@flow mode {mode}", thread_ts=ts)
            await flow.shows("#general", ts, f"set the mode to *{mode}*")
            await noted_as_done(flow)
    began = datetime.now(UTC)
    async with start() as flow:
        await caught_up_since(flow, began)
        await slack.post("maya", "#general", "@flow model opus", thread_ts=ts)
        await flow.shows("#general", ts, "chose *opus*")
        [session] = await flow.sessions.list()
        assert (session.mode, said(flow, ts)) == ("auto", ["plan", "auto", "opus"])


async def test_a_fork_that_was_refused_stays_refused(start: Start, slack: SlackSimulator) -> None:
    async with start(flush=False) as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD one")
        process = await flow.process("HOLD one")
        await slack.post("maya", "#general", "@flow fork", thread_ts=ts)
        await until(lambda: any("Claude is working here" in str(m) for m in slack.ephemerals("maya")))
        await noted_as_done(flow)
        process.answer("done")
        await flow.shows("#general", ts, "tokens in")
    began = datetime.now(UTC)
    async with start() as flow:
        await caught_up_since(flow, began)
        await slack.post("maya", "#general", "@flow model opus", thread_ts=ts)
        await flow.shows("#general", ts, "chose *opus*")
        assert len(await flow.sessions.list()) == 1


async def test_words_written_while_flow_was_down_are_done_in_their_order(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow one")
        await flow.shows("#general", ts, "tokens in")
    for word in ("mode plan", "model opus", "mode auto"):
        await slack.post("maya", "#general", f"@flow {word}", thread_ts=ts)
    async with start(connect=False) as flow:
        turn = flow.door.one_by_one((await flow.sessions.list())[0].thread)
        await turn.acquire()
        began = datetime.now(UTC)
        CatchUp(flow.door, Reader(flow.door.client)).start()
        await caught_up_since(flow, began)
        assert said(flow, ts) == []
        turn.release()
        await until(lambda: said(flow, ts) == ["plan", "opus", "auto"])
        [session] = await flow.sessions.list()
        assert (session.mode, session.model) == ("auto", "opus")
