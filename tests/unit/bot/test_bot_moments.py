"""Two things in one moment, at the Slack door: something is looked at, waited for, and is no more what it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import schema

from bot.answer import Answer
from bot.reports import Reports
from bot.show import Show
from bot.socket import SlackSocket
from bot.socketclient import Connection
from sessions.db import open_database
from sessions.errors import StoreUnavailable
from sessions.events import Queued, Released, Settled, Started
from sessions.store import Store
from sessions.types import Done, Prompt, SessionId, ThreadId, TurnId

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


def answer() -> Answer:
    return Answer(TurnId("t1"), SessionId("s1"), "C1", "1700000000.000100", "1700000001.000000")


async def test_what_another_process_shows_since_the_database_refused_is_not_reported() -> None:
    """It would be told no more, and what it shows by then would stay."""
    asked: list[TurnId] = []

    async def delivered(shown: Answer) -> None:
        asked.append(shown.turn_id)
        shown.released = True
        if len(asked) == 1:
            raise StoreUnavailable

    async def never(*_: Any) -> None:
        raise AssertionError

    reports = Reports(opened=never, delivered=delivered, refused=never, may_show=lambda _: True)
    assert not await reports.delivered(answer())
    assert asked == ["t1"]


async def test_a_turn_that_comes_back_while_its_delivery_is_stored_is_shown_to_its_end(tmp_path: Path) -> None:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await schema.migrated(dsn)
    db = open_database(dsn)
    try:
        thread, ts = ThreadId("T1", "C1", "1700000000.000100"), "1700000001.000000"
        stored = await Store(db).submit(Prompt(thread, f"C1:{ts}", ts, "U1", "hello"))
    finally:
        await db.close()
    assert stored is not None
    session, turn = stored.submitted.session, stored.submitted.turn

    async def delivered(_: TurnId) -> None:
        show.observe(session, turn, Released())
        show.observe(session, turn, Queued(0))
        show.observe(session, turn, Started())

    sessions = SimpleNamespace(may_show=lambda _: True, show_again=None, delivered=delivered)
    show = Show(sessions, None, None)  # type: ignore[arg-type] - nothing is sent
    show.observe(session, turn, Queued(0))
    show.observe(session, turn, Settled(Done()))
    await show._delivered(show._answers[turn.id])
    show.observe(session, turn, Settled(Done()))
    assert show._answers[turn.id].view.settled
