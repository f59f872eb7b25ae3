"""Previews in the thread: offered when Claude opens one, opened by whoever presses, closed by whoever presses that."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from slackdoor import Flow, Start
from unit.sessions.scripted import Process
from waiting import until

from bot.previews import PreviewOffers
from sessions.previews import PARAMETER, Links, Previews
from worklets.events import ToolFinished, ToolStarted
from worklets.files import OPEN_PREVIEW
from worklets.identity import Identity

URL = "https://*.preview.example.org"


@asynccontextmanager
async def offering(flow: Flow, path: Path) -> AsyncIterator[Links]:
    links = Links(Identity.load(path), URL, time.time)
    previews = Previews(flow.db, flow.sessions.store.clock, flow.sessions.owner)
    offering = PreviewOffers(flow.sessions, flow.door.client, previews, links, sweep=0.2, bot_id=flow.door.me.bot_id)
    async with offering as offers:
        flow.door.previews = offers
        flow.sessions.observe(offers.observe)
        yield links


@pytest.fixture
async def links(flow: Flow, tmp_path: Path) -> AsyncIterator[Links]:
    async with offering(flow, tmp_path) as links:
        yield links


async def at_work(flow: Flow) -> tuple[str, Process]:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    return ts, await flow.process("HOLD on")


def opens(process: Process, tool_id: str = "p1", *, ok: bool = True, **given: Any) -> None:
    process.say(
        ToolStarted(tool_id, OPEN_PREVIEW, {"port": 3000, "title": "Todo <app>", **given}),
        ToolFinished(tool_id, ok, ""),
    )


def offer(flow: Flow, ts: str) -> dict[str, Any] | None:
    for message in flow.slack.messages("#general", ts):
        if "Open preview" in str(message.get("blocks")):
            return message
    return None


async def test_a_preview_is_offered_and_each_person_gets_a_link_of_their_own(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    opens(process, path="/start")
    message = await until(lambda: offer(flow, ts))
    shown = flow.slack.visible_text(message)
    assert "Todo &lt;app&gt;" in shown
    assert "localhost:3000" in shown
    assert f"{PARAMETER}=" not in str(message)
    tokens = set()
    for person in ("maya", "jonas"):
        await flow.slack.click(person, message, "preview_open")
        (said,) = await until(lambda person=person: flow.slack.ephemerals(person))
        (button,) = said["blocks"][-1]["elements"]
        preview_id = message["blocks"][-1]["elements"][0]["value"]
        address, _, token = button["url"].partition(f"/start?{PARAMETER}=")
        assert address == f"https://{preview_id}.preview.example.org"
        assert links.user("link", preview_id, token) == flow.slack.user(person).id
        assert (await flow.slack.click(person, said, "preview_open_link")).ok
        tokens.add(token)
    assert len(tokens) == 2


async def test_the_same_port_is_offered_once_and_a_failed_call_not_at_all(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    opens(process, "p0", ok=False, port=4000)
    opens(process, "p1")
    await until(lambda: offer(flow, ts))
    opens(process, "p2", title="Another name")
    opens(process, "p3", port=5000)
    await flow.shows("#general", ts, "localhost:5000")
    texts = flow.thread("#general", ts)
    assert sum("runs at" in text for text in texts) == 2
    assert not any("4000" in text for text in texts)
    assert links.url == URL


async def test_whoever_closes_it_is_named_and_the_link_is_void(flow: Flow, links: Links) -> None:
    ts, process = await at_work(flow)
    opens(process)
    message = await until(lambda: offer(flow, ts))
    await flow.slack.click("jonas", message, "preview_close")
    await flow.shows("#general", ts, "localhost:3000 was closed by @jonas")
    assert offer(flow, ts) is None
    await flow.slack.click("maya", message, "preview_open", stale=message["blocks"])
    await until(lambda: "is closed" in str(flow.slack.ephemerals("maya")))
    opens(process, "p9")
    again = await until(lambda: offer(flow, ts))
    assert again["blocks"][-1]["elements"][0]["value"] != message["blocks"][-1]["elements"][0]["value"]
    assert links.url == URL


async def test_an_offer_that_a_crash_prevented_is_made_later(start: Start, tmp_path: Path) -> None:
    async with start(flush=False) as flow:
        ts, process = await at_work(flow)
        process.say()
        (session,) = await flow.sessions.list()
        previews = Previews(flow.db, flow.sessions.store.clock)
        await previews.announce(session.id, 3000, title="Late", path="/", command=None)
    async with start() as flow, offering(flow, tmp_path):
        message = await until(lambda: offer(flow, ts))
        assert "Late" in flow.slack.visible_text(message)
        (known,) = [await previews_of(flow, message)]
        assert known == message["ts"]


async def previews_of(flow: Flow, message: dict[str, Any]) -> str | None:
    async def posted() -> str | None:
        assert flow.door.previews is not None
        found = await flow.door.previews.previews.get(message["blocks"][-1]["elements"][0]["value"])
        return found.message_ts if found else None

    return str(await until(posted))
