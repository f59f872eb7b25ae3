"""The outbox against the simulated workspace: hand-over between processes, outages, look-ups, the order of a thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import schema
from waiting import until

from bot.answer import Answer
from bot.delivery import Delivery, Recipient
from bot.nativestream import NativeStreams
from bot.outbox import Outbox, alone
from bot.parts import FILE
from bot.renderer import TurnView
from bot.socket import web_client
from bot.store import MessageStore, Posted
from sessions.asks import Ask, AskId, AskKind, AskState
from sessions.db import Database, open_database
from sessions.events import AskOpened, Queued, Settled, Started
from sessions.store import Store
from sessions.types import Done, Prompt, SessionId, ThreadId, TurnId
from simulator.slack import SlackSimulator
from worklets.events import Text, TextDelta


@dataclass
class Held:
    """Whether a process may show sessions: asked again and again, and answered from a list, then by `now`."""

    now: bool = True
    first: list[bool] = field(default_factory=list)

    def __call__(self, _: SessionId) -> bool:
        return self.first.pop(0) if self.first else self.now


@dataclass
class World:
    slack: SlackSimulator
    database: Database
    client: Any
    stack: AsyncExitStack
    skipped: float = 0.0  # seconds that the outboxes' clock is ahead
    delivered: list[TurnId] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def outbox(
        self,
        held: Callable[[SessionId], bool] = lambda _: True,
        store: Any = None,
        *,
        delivery: Delivery | None = None,
        again: Callable[[TurnId], Awaitable[bool]] = alone,
    ) -> Outbox:
        """One more process that shows turns."""

        async def opened(answer: Answer, ts: str) -> None: ...

        async def delivered(answer: Answer) -> None:
            self.delivered.append(answer.turn_id)

        async def refused(answer: Answer, sentence: str) -> None:
            self.refused.append(sentence)

        outbox = Outbox(
            delivery or Delivery(self.client, self.slack.app.bot.bot_id), store or MessageStore(self.database),
            opened=opened, delivered=delivered, refused=refused, may_show=held, pace=10,
            clock=lambda: time.monotonic() + self.skipped, again=again,
        )  # fmt: skip
        return await self.stack.enter_async_context(outbox)

    async def ask(self, text: str, thread_ts: str | None = None) -> Answer:
        """Somebody asks, in a new thread or in an old one; the turn as a process has it that knows nothing yet."""
        ts = await self.slack.post("maya", "#general", text, thread_ts)
        channel = self.slack.channel("#general").id
        thread = ThreadId("T1", channel, thread_ts or ts)
        stored = await Store(self.database).submit(Prompt(thread, f"{channel}:{ts}", ts, "U1", text))
        assert stored is not None
        return fresh(stored.submitted.turn.id, stored.submitted.session.id, channel, thread_ts or ts, ts)

    def shown(self, answer: Answer) -> list[str]:
        """What the thread shows below its root."""
        assert answer.thread_ts
        messages = self.slack.messages("#general", answer.thread_ts)[1:]
        return [self.slack.visible_text(m) for m in messages if m.get("bot_id")]

    def calls(self, method: str) -> int:
        return sum(call.method == method for call in self.slack.calls)


def fresh(turn_id: TurnId, session_id: SessionId, channel: str, thread_ts: str, ts: str) -> Answer:
    answer = Answer(turn_id, session_id, channel, thread_ts, ts, view=TurnView(turn_id))
    answer.view.apply(Queued(0))
    return answer


def again(answer: Answer) -> Answer:
    """The same turn in another process."""
    assert answer.thread_ts
    return fresh(answer.turn_id, answer.session_id, answer.channel, answer.thread_ts, answer.asked_ts)


def finish(outbox: Outbox, answer: Answer, text: str) -> None:
    for event in (Started(), Text(text), Settled(Done(), 1.0)):
        answer.view.apply(event)
    outbox.changed(answer.turn_id)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[World]:
    dsn = f"sqlite://{path}/db.sqlite"
    await schema.migrated(dsn)
    async with SlackSimulator(limit_scale=20) as slack, AsyncExitStack() as stack:
        database = open_database(dsn)
        stack.push_async_callback(database.close)
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(2)))
        yield World(slack, database, web_client(slack.bot_token, slack.api_url, http), stack)


# ---- several processes -------------------------------------------------------------------------------------------


async def test_a_process_that_does_not_hold_the_session_does_nothing_to_slack(world: World) -> None:
    held = Held(now=False)
    outbox = await world.outbox(held)
    answer = await world.ask("one")
    outbox.add(answer)
    finish(outbox, answer, "done")
    assert not await outbox.flush(0.5)
    assert world.calls("chat.postMessage") == 0
    held.now = True
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1


async def test_a_lease_lost_after_the_note_stops_the_post(world: World) -> None:
    held = Held(now=False, first=[True, True])  # when its moment comes, when the call begins; not after the insert
    outbox = await world.outbox(held)
    answer = await world.ask("one")
    outbox.add(answer)
    table = MessageStore(world.database)
    await until(lambda: not held.first)

    async def noted() -> bool:
        return await table.of_turn(answer.turn_id) == [Posted(0, None, None, False)]

    await until(noted)
    assert not await outbox.flush(0.3)
    assert world.calls("chat.postMessage") == 0
    successor, other = await world.outbox(), again(answer)
    successor.add(other)
    finish(successor, other, "by the successor")
    await until(lambda: world.delivered == [answer.turn_id])
    assert world.calls("conversations.replies") == 1
    assert len(world.shown(answer)) == 1


async def test_a_post_that_is_under_way_while_the_turn_is_dropped_is_found_by_the_successor(world: World) -> None:
    outbox, successor = await world.outbox(), await world.outbox()
    answer = await world.ask("one")
    world.slack.faults.latency(0.4, "chat.postMessage")
    outbox.add(answer)
    table = MessageStore(world.database)

    async def noted() -> bool:
        return bool(await table.of_turn(answer.turn_id))

    await until(noted)
    outbox.drop(answer.turn_id)
    assert len(outbox) == 0
    await until(lambda: world.shown(answer))

    async def known() -> bool:  # where it ended up is noted all the same
        return (await table.of_turn(answer.turn_id))[0].ts is not None

    await until(known)
    other = again(answer)
    successor.add(other)
    finish(successor, other, "the end")
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1
    assert "the end" in world.shown(answer)[0]
    assert world.calls("chat.postMessage") == 1


async def test_a_turn_that_comes_back_waits_for_the_call_that_was_under_way(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("one")
    world.slack.faults.latency(0.4, "chat.postMessage")
    outbox.add(answer)
    table = MessageStore(world.database)

    async def noted() -> bool:
        return bool(await table.of_turn(answer.turn_id))

    await until(noted)
    outbox.drop(answer.turn_id)
    other = again(answer)
    outbox.add(other)
    finish(outbox, other, "the end")
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1
    assert world.calls("chat.postMessage") == 1


async def test_a_row_written_after_the_table_was_read_means_looking_in_slack(world: World) -> None:
    held = Held(now=False)
    outbox, successor = await world.outbox(), await world.outbox(held)
    answer = await world.ask("one")
    other = again(answer)
    successor.add(other)  # reads the table: nothing posted
    await until(lambda: not successor._entries[other.turn_id].busy)
    outbox.add(answer)
    await until(lambda: world.shown(answer))
    outbox.drop(answer.turn_id)
    held.now = True
    finish(successor, other, "the end")
    await until(lambda: world.delivered == [answer.turn_id])
    assert world.calls("chat.postMessage") == 1
    assert "the end" in world.shown(answer)[0]


async def test_a_dropped_turn_is_not_reported(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("one")
    world.slack.faults.latency(0.2, "chat.update")
    outbox.add(answer)
    await until(lambda: world.shown(answer))
    finish(outbox, answer, "done")
    outbox.drop(answer.turn_id)
    assert await outbox.flush(60)
    assert world.delivered == []


# ---- outages -------------------------------------------------------------------------------------------------


async def test_after_an_outage_each_message_is_edited_once_in_order(world: World) -> None:
    outbox = await world.outbox()
    answers = [await world.ask(f"number {number}") for number in range(8)]
    for answer in answers:
        outbox.add(answer)
    await until(lambda: all(world.shown(answer) for answer in answers))
    world.skipped += 5  # so that all edits are due at once, however slowly they were posted
    world.slack.faults.go_down()
    before = world.calls("chat.update")
    for words in range(20):
        for answer in answers:
            answer.view.apply(TextDelta(f"w{words} "))
            outbox.changed(answer.turn_id)
    await until(lambda: world.calls("chat.update") - before > 8)  # those under way, then one at a time
    for answer in answers:
        answer.view.apply(Settled(Done(), 1.0))
        outbox.changed(answer.turn_id)
    failed = world.calls("chat.update") - before
    assert failed < 16
    world.slack.faults.come_up()
    await until(lambda: len(world.delivered) == 8)
    edits = [call for call in world.slack.calls if call.method == "chat.update" and call.status == 200]
    assert len(edits) == 8
    assert all("w19" in world.shown(answer)[0] for answer in answers)


async def test_an_outage_is_probed_by_one_call_at_a_time(world: World) -> None:
    outbox = await world.outbox()
    answers = [await world.ask(f"number {number}") for number in range(12)]
    world.slack.faults.go_down()
    for answer in answers:
        outbox.add(answer)
    failing = len(world.slack.calls)
    await until(lambda: len(world.slack.calls) - failing > 13)  # all that were under way, and a probe
    world.slack.faults.come_up()
    world.slack.faults.hang("*", times=1)
    seen = len(world.slack.calls)
    await until(lambda: len(world.slack.calls) > seen)
    assert not await outbox.flush(0.3)  # the one that hangs, for two seconds, is alone
    assert len(world.slack.calls) == seen + 1
    await until(lambda: all(len(world.shown(answer)) == 1 for answer in answers))


async def test_a_message_that_slack_always_fails_on_becomes_simpler_and_stops_nobody(world: World) -> None:
    outbox = await world.outbox()
    poison, other = await world.ask("poison"), await world.ask("other")
    for answer in (poison, other):
        outbox.add(answer)
    await until(lambda: world.shown(poison) and world.shown(other))
    world.slack.faults.fail("chat.update", status=500, times=100_000)
    poison.view.apply(Text("never"))
    outbox.changed(poison.turn_id)
    numbers = iter(range(1000))

    async def posting_works() -> bool:  # answers of other threads go on meanwhile
        world.skipped += 1
        outbox.add(await world.ask(f"next {next(numbers)}"))
        return poison.messages[0].form > 0

    await until(posting_works, timeout=60)


async def test_a_refused_token_recovers_when_the_app_is_mended(world: World) -> None:
    outbox = await world.outbox()
    answers = [await world.ask(f"number {number}") for number in range(3)]
    world.slack.faults.fail("chat.postMessage", error="token_revoked", times=3)
    for answer in answers:
        outbox.add(answer)
    await until(lambda: world.calls("chat.postMessage") >= 1)
    assert not await outbox.flush(0.3)
    for _ in range(3):
        world.skipped += 31
        await outbox.flush(0.3)
    await until(lambda: all(len(world.shown(answer)) == 1 for answer in answers))
    assert world.calls("chat.postMessage") <= 6


async def test_nothing_is_posted_that_cannot_be_noted_down(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("one")
    async with world.database.transaction() as connection:
        await connection.exec_driver_sql("alter table messages rename to away")
    outbox.add(answer)
    finish(outbox, answer, "done")
    assert not await outbox.flush(1)
    assert world.calls("chat.postMessage") == 0
    async with world.database.transaction() as connection:
        await connection.exec_driver_sql("alter table away rename to messages")
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1


async def test_a_table_that_fails_in_an_unknown_way_does_not_hold_an_answer_up(world: World) -> None:
    class Broken(MessageStore):
        async def of_turn(self, turn_id: TurnId) -> list[Posted]:
            raise ValueError("not a database error")

    outbox = await world.outbox(store=Broken(world.database))
    answer = await world.ask("one")
    outbox.add(answer)
    finish(outbox, answer, "done")
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1


# ---- look-ups -------------------------------------------------------------------------------------------------


async def test_no_client_repeats_a_post_whose_connection_broke_after_it(world: World) -> None:
    outbox = await world.outbox()
    answers = [await world.ask(f"number {number}") for number in range(5)]
    world.slack.faults.reset("chat.postMessage", times=5, after=True)
    for answer in answers:
        outbox.add(answer)
        finish(outbox, answer, "done")
    await until(lambda: len(world.delivered) == 5)
    assert all(len(world.shown(answer)) == 1 for answer in answers)
    assert world.calls("chat.postMessage") == 5


@pytest.mark.parametrize("fault", ["fail", "reset"])
async def test_a_look_up_reads_every_page_of_a_long_thread(world: World, fault: str) -> None:
    outbox = await world.outbox()
    answer = await world.ask("one")
    for number in range(950):
        await world.slack.post("jonas", "#general", f"{number}", answer.thread_ts)
    world.slack.faults.reset("chat.postMessage", after=True)
    getattr(world.slack.faults, fault)("conversations.replies", times=2)
    outbox.add(answer)
    finish(outbox, answer, "done")
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1
    assert world.calls("conversations.replies") == 4  # two that failed, and two pages


async def test_a_thread_that_is_gone_ends_the_showing(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("one")
    world.slack.faults.reset("chat.postMessage")
    await world.slack.delete("maya", answer.thread_ts or "")
    outbox.add(answer)
    await until(lambda: world.refused == ["The thread does not exist any more."])
    await until(lambda: len(outbox) == 0)


async def test_a_thread_without_its_root_goes_on(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("one")
    await world.slack.post("jonas", "#general", "me too", answer.thread_ts)
    await world.slack.delete("maya", answer.thread_ts or "")
    world.slack.faults.reset("chat.postMessage", after=True)
    outbox.add(answer)
    finish(outbox, answer, "done")
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1


async def test_a_deletion_that_worked_and_said_otherwise_is_no_loss(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("one")
    outbox.add(answer)
    answer.view.apply(TextDelta("never mind " * 2500))
    outbox.changed(answer.turn_id)
    await until(lambda: len(world.shown(answer)) == 3)
    world.slack.faults.fail("chat.delete", status=500, after=True)
    world.slack.faults.reset("chat.delete", after=True)
    finish(outbox, answer, "short")
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) == 1


# ---- order -------------------------------------------------------------------------------------------------


async def test_an_answer_that_grows_out_of_its_message_pulls_the_waiting_one_down(world: World) -> None:
    outbox = await world.outbox()
    first = await world.ask("first")
    outbox.add(first)
    await until(lambda: len(world.shown(first)) == 1)
    second = await world.ask("second", first.thread_ts)
    second.view.apply(Queued(1))
    outbox.add(second)
    await until(lambda: len(world.shown(first)) == 2)
    long = " ".join(f"w{number}" for number in range(3000))
    finish(outbox, first, long)
    finish(outbox, second, "the second")
    await until(lambda: len(world.delivered) == 2)
    texts = world.shown(first)
    assert len(texts) == 3
    assert ["w0 " in texts[0], "w2999" in texts[1], "the second" in texts[2]] == [True] * 3
    assert world.delivered == [first.turn_id, second.turn_id]


async def test_a_post_does_not_overtake_one_that_is_being_looked_for(world: World) -> None:
    outbox = await world.outbox()
    first = await world.ask("first")
    second = await world.ask("second", first.thread_ts)
    world.slack.faults.reset("chat.postMessage")
    world.slack.faults.fail("conversations.replies", times=3)
    outbox.add(first)
    outbox.add(second)
    finish(outbox, first, "the first")
    finish(outbox, second, "the second")
    await until(lambda: len(world.delivered) == 2)
    texts = world.shown(first)
    assert ["the first" in texts[0], "the second" in texts[1], len(texts)] == [True, True, 2]


# ---- long answers ------------------------------------------------------------------------------------------------

LONG_ANSWER = "\n\n".join(f"Paragraph {n}: " + "some words " * 90 for n in range(110))


def files(world: World, answer: Answer) -> list[str]:
    """Contents of the files in the thread."""
    assert answer.thread_ts
    messages = world.slack.messages("#general", answer.thread_ts)
    shared = [file["id"] for message in messages for file in message.get("files", [])]
    return [(world.slack.workspace.files[file_id].content or b"").decode() for file_id in shared]


async def test_a_long_answer_is_attached_as_a_file_at_its_end(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("write a lot")
    outbox.add(answer)
    finish(outbox, answer, LONG_ANSWER)
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(world.shown(answer)) > 9
    assert [text.strip() for text in files(world, answer)] == [LONG_ANSWER.strip()]
    assert world.slack.messages("#general", answer.thread_ts)[-1].get("files")


async def test_a_file_is_attached_once_whoever_goes_on(world: World) -> None:
    """The process dies after Slack has taken the file and before it could say so."""
    first = await world.outbox()
    answer = await world.ask("write a lot")
    first.add(answer)
    world.slack.faults.reset("files.completeUploadExternal", after=True)
    finish(first, answer, LONG_ANSWER)
    await until(lambda: len(files(world, answer)) == 1)
    first.drop(answer.turn_id)
    second = await world.outbox()
    other = again(answer)
    second.add(other)
    finish(second, other, LONG_ANSWER)
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(files(world, answer)) == 1


async def test_an_answer_is_delivered_without_its_file_where_slack_takes_none(world: World) -> None:
    outbox = await world.outbox()
    answer = await world.ask("write a lot")
    outbox.add(answer)
    world.slack.faults.fail("files.getUploadURLExternal", error="missing_scope", times=50)
    finish(outbox, answer, LONG_ANSWER)
    await until(lambda: world.delivered == [answer.turn_id])
    assert files(world, answer) == []


# ---- calls that come late ----------------------------------------------------------------------------------------


class Stalling(Delivery):
    """Its process stands still just before a call, until `go_on` is set."""

    def __init__(self, client: Any, bot_id: str) -> None:
        super().__init__(client, bot_id)
        self.stalls: set[str] = set()  # of these calls
        self.stands, self.go_on = asyncio.Event(), asyncio.Event()

    async def _stall(self, call: str) -> None:
        if call in self.stalls:
            self.stands.set()
            await self.go_on.wait()

    async def post(self, *args: Any) -> str:
        await self._stall("post")
        return await super().post(*args)

    async def edit(self, *args: Any) -> None:
        await self._stall("edit")
        await super().edit(*args)

    async def delete(self, *args: Any) -> None:
        await self._stall("delete")
        await super().delete(*args)

    async def share_file(self, *args: Any) -> bool:
        await self._stall("share_file")
        return await super().share_file(*args)

    async def start_stream(self, *args: Any) -> str:
        await self._stall("start_stream")
        return await super().start_stream(*args)


@dataclass
class Two:
    """A process that will stand still, and its successor."""

    world: World
    first: Outbox
    delivery: Stalling
    held: Held
    successor: Outbox
    again: list[TurnId]  # turns that are to be shown anew

    async def stand_still(self, answer: Answer) -> None:
        """Until its call is about to go out, and the session another's."""
        await asyncio.wait_for(self.delivery.stands.wait(), 60)
        self.held.now = False

    async def end(self, answer: Answer) -> None:
        """The successor shows the turn to its end."""
        self.world.delivered.clear()
        other = again(answer)
        self.successor.add(other)
        finish(self.successor, other, "the end")
        await until(lambda: self.world.delivered == [answer.turn_id])


@pytest.fixture
async def two(world: World) -> Two:
    told: list[TurnId] = []

    async def show_again(turn_id: TurnId) -> bool:
        """As `Sessions.show_again`."""
        if turn_id in world.delivered:
            told.append(turn_id)
        return turn_id in world.delivered

    held, delivery = Held(), Stalling(world.client, world.slack.app.bot.bot_id)
    first = await world.outbox(held, delivery=delivery, again=show_again)
    return Two(world, first, delivery, held, await world.outbox(), told)


async def test_an_edit_that_comes_after_the_end_is_covered_by_the_end(world: World, two: Two) -> None:
    answer = await world.ask("one")
    two.first.add(answer)
    await until(lambda: world.shown(answer))
    two.delivery.stalls = {"post", "edit", "start_stream"}
    answer.view.apply(Started())
    answer.view.apply(TextDelta("a beginning "))
    two.first.changed(answer.turn_id)
    await two.stand_still(answer)
    await two.end(answer)
    assert "the end" in world.shown(answer)[0]
    two.delivery.go_on.set()
    await until(lambda: "the end" not in world.shown(answer)[0])
    await until(lambda: two.again == [answer.turn_id])
    await two.end(answer)
    assert len(world.shown(answer)) == 1
    assert "the end" in world.shown(answer)[0]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_message_that_came_twice_is_taken_away(world: World, two: Two, streams: bool) -> None:
    answer = await world.ask("one")
    if streams:
        answer.native, answer.streaming = NativeStreams("native", two.first.changed), True
        answer.recipient = Recipient(world.slack.user("maya").id, world.slack.workspace.team_id)
        answer.view.apply(Started())
    two.delivery.stalls = {"post", "edit", "start_stream"}
    two.first.add(answer)
    await two.stand_still(answer)
    await two.end(answer)
    two.delivery.go_on.set()
    await until(lambda: world.calls("chat.delete"), what="one of two to be taken away")
    assert world.calls("chat.postMessage") + world.calls("chat.startStream") == 2
    await until(lambda: len(world.shown(answer)) == 1)
    assert "the end" in world.shown(answer)[0]


async def test_a_deletion_that_comes_late_leaves_the_row_of_the_new_message(world: World, two: Two) -> None:
    """Its process knows by time alone that the session may be another's; nobody has told it so."""
    first = await world.ask("one")
    two.first.add(first)
    await until(lambda: len(world.shown(first)) == 1)
    second = await world.ask("two", first.thread_ts)
    second.view.apply(Queued(1))
    two.first.add(second)
    await until(lambda: len(world.shown(first)) == 2)
    two.delivery.stalls = {"delete"}
    pages = " ".join(f"w{n}" for n in range(3000))
    finish(two.first, first, pages)
    await two.stand_still(second)
    world.delivered.clear()
    one, other = again(first), again(second)
    other.view.apply(Queued(1))
    two.successor.add(other)
    await until(lambda: other.messages)
    two.successor.add(one)
    finish(two.successor, one, pages)
    table = MessageStore(world.database)
    (old,) = await table.of_turn(second.turn_id)

    async def moved() -> str | None:
        """Where the successor has posted it, further down."""
        rows = await table.of_turn(second.turn_id)
        return rows[0].ts if rows and rows[0].ts != old.ts else None

    ts = await until(moved)
    finish(two.successor, other, "the end")
    await until(lambda: len(world.delivered) == 2)
    two.delivery.go_on.set()
    await until(lambda: second.turn_id in two.again)
    await two.end(second)
    assert [one.ts for one in await table.of_turn(second.turn_id)] == [ts]
    assert sum("the end" in text for text in world.shown(first)) == 1


async def test_what_a_late_edit_has_covered_is_shown_anew_while_people_are_asked(world: World, two: Two) -> None:
    answer = await world.ask("one")
    two.first.add(answer)
    await until(lambda: world.shown(answer))
    two.delivery.stalls = {"edit"}
    answer.view.apply(Started())
    answer.view.apply(TextDelta("a beginning "))
    two.first.changed(answer.turn_id)
    await two.stand_still(answer)
    other = again(answer)
    two.successor.add(other)
    ask = Ask(
        AskId("a1"), answer.session_id, answer.turn_id, AskKind.PERMISSION, "Bash", "t1", {"command": "ls"}, (),
        AskState.OPEN, datetime.now(UTC), None,
    )  # fmt: skip
    for event in (Started(), Text("May I?"), AskOpened(ask)):
        other.view.apply(event)
    two.successor.changed(answer.turn_id)
    await until(lambda: len(world.shown(answer)) == 2)
    assert "May I?" in world.shown(answer)[0]
    two.delivery.go_on.set()
    await world.slack.wait_for(lambda: "May I?" not in world.shown(answer)[0])  # for a moment: looked at each change
    await until(lambda: "May I?" in world.shown(answer)[0])
    assert two.again == [], "the turn is not over"

    async def settled() -> bool:
        return await MessageStore(world.database).covered([answer.turn_id]) == []

    await until(settled)
    assert len(world.shown(answer)) == 2


async def test_a_late_post_whose_end_is_not_known_is_looked_for(world: World, two: Two) -> None:
    answer = await world.ask("one")
    two.delivery.stalls = {"post"}
    two.first.add(answer)
    await two.stand_still(answer)
    await two.end(answer)
    world.slack.faults.reset("chat.postMessage", after=True)
    two.delivery.go_on.set()
    await until(lambda: world.calls("chat.delete") and len(world.shown(answer)) == 1)
    assert world.calls("chat.postMessage") == 2
    (row,) = await MessageStore(world.database).of_turn(answer.turn_id)
    assert [world.slack.messages("#general", answer.thread_ts)[-1]["ts"]] == [row.ts]


async def test_a_file_that_is_shared_late_goes_where_another_one_stands(world: World, two: Two) -> None:
    answer = await world.ask("write a lot")
    two.delivery.stalls = {"share_file"}
    two.first.add(answer)
    finish(two.first, answer, LONG_ANSWER)
    await two.stand_still(answer)
    world.delivered.clear()
    other = again(answer)
    world.slack.faults.fail("files.completeUploadExternal", error="file_not_found", times=1)
    two.successor.add(other)
    finish(two.successor, other, LONG_ANSWER)
    await until(lambda: world.delivered == [answer.turn_id])
    assert len(files(world, answer)) == 1
    two.delivery.go_on.set()
    await until(lambda: world.calls("chat.delete") and len(files(world, answer)) == 1)
    messages = world.slack.messages("#general", answer.thread_ts)
    stands = [file["id"] for message in messages for file in message.get("files", [])]
    assert stands == [row.ts for row in await MessageStore(world.database).of_turn(answer.turn_id) if row.part == FILE]


async def test_a_second_message_goes_though_its_part_is_gone_by_then(world: World, two: Two) -> None:
    """The holder had posted another one, and taken it away."""
    answer = await world.ask("one")
    two.delivery.stalls = {"post"}
    two.first.add(answer)
    await two.stand_still(answer)
    await two.end(answer)
    table = MessageStore(world.database)
    (row,) = await table.of_turn(answer.turn_id)
    await table.forget(answer.turn_id, row.part, row.ts)
    two.delivery.go_on.set()
    await until(lambda: world.calls("chat.delete") and len(world.shown(answer)) == 1)
    assert world.calls("chat.postMessage") == 2
    assert world.slack.messages("#general", answer.thread_ts)[-1]["ts"] == row.ts


async def test_a_post_that_came_late_and_is_the_only_one_stays(world: World, two: Two) -> None:
    answer = await world.ask("one")
    two.delivery.stalls = {"post", "edit", "start_stream"}
    two.first.add(answer)
    await two.stand_still(answer)
    two.delivery.go_on.set()
    await until(lambda: world.shown(answer))
    await two.end(answer)
    await until(lambda: two.again == [answer.turn_id])
    assert len(world.shown(answer)) == 1
    assert world.calls("chat.delete") == 0
