"""Sessions that are started from a modal: /flow new, and the two shortcuts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from slackdoor import MANIFEST, Flow, Start, starter
from unit.sessions.scripted import ScriptedHost
from waiting import until

from bot.shortcut import start as begin
from simulator.slack import SlackSimulator


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST, retry_delays=(0.1, 0.2, 0.3)) as running:
        yield running


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost()


@pytest.fixture
def start(tmp_path: Path, slack: SlackSimulator, host: ScriptedHost) -> Start:
    return starter(tmp_path, slack, host)


@pytest.fixture
async def flow(start: Start) -> AsyncIterator[Flow]:
    async with start() as running:
        yield running


async def modal(flow: Flow, user: str) -> dict[str, Any]:
    (view,) = await until(lambda: flow.slack.views(user), 10, "a modal")
    return dict(view)


def labels(view: dict[str, Any]) -> list[str]:
    return [block["label"]["text"] for block in view["blocks"] if block["type"] == "input"]


def asked(flow: Flow) -> list[str]:
    return [text for process in flow.host.processes.values() for _, text in process.prompts]


def contexts(flow: Flow) -> str:
    return str([context for process in flow.host.processes.values() for context in process.contexts])


async def test_flow_new_asks_for_all_and_starts_there(flow: Flow) -> None:
    await flow.slack.command("maya", "#general", "/flow", "new")
    view = await modal(flow, "maya")
    assert labels(view) == ["What should Claude do?", "Where", "Repository", "Branch", "Model", "Permissions"]
    values = {"text": "look around", "repository": "https://host/a/b.git", "branch": "dev", "model": "opus"}
    assert (await flow.slack.submit("maya", {**values, "mode": "plan"})).ok
    root = await flow.root("#general", "look around")
    await flow.shows("#general", root, "[Retry]")
    (session,) = await flow.sessions.list()
    assert (session.repository, session.branch) == ("https://host/a/b.git", "dev")
    assert (session.model, session.mode, session.user_id) == ("opus", "plan", flow.slack.user("maya").id)
    (process,) = flow.host.processes.values()
    assert ("set_model", {"model": "opus"}) in process.asked
    assert flow.slack.views("maya") == []


async def test_the_global_shortcut_starts_where_somebody_chooses(flow: Flow) -> None:
    await flow.slack.shortcut("jonas", "flow_new")
    await modal(flow, "jonas")
    there = flow.slack.channel("#engineering").id
    assert (await flow.slack.submit("jonas", {"text": "hello", "where": there})).ok
    await flow.shows("#engineering", await flow.root("#engineering", "hello"), "[Retry]")


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"text": " "}, "text"),
        ({"text": "x", "branch": "dev"}, "branch"),
        ({"text": "x", "repository": "not an address"}, "repository"),
    ],
)
async def test_what_is_wrong_is_told_in_the_modal(flow: Flow, values: dict[str, str], wrong: str) -> None:
    await flow.slack.command("maya", "#general", "/flow", "new")
    await modal(flow, "maya")
    result = await flow.slack.submit("maya", values)
    assert isinstance(result.ack, dict)
    assert list(result.ack["errors"]) == [wrong]
    assert await flow.sessions.list() == []


async def test_a_place_without_the_bot_is_told_to_the_person(flow: Flow) -> None:
    await flow.slack.command("maya", "#general", "/flow", "new")
    await modal(flow, "maya")
    await flow.slack.submit("maya", {"text": "HOLD hello", "where": flow.slack.channel("#random").id})

    def seen() -> bool:
        return any("Invite me" in flow.slack.visible_text(m) for m in flow.slack.messages("dm", user="maya"))

    await until(seen, 10)


async def test_a_message_is_brought_along_to_another_place(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#random", "the <build> is red since @Maya left")
    await flow.slack.shortcut("maya", "flow_message", ts)
    view = await modal(flow, "maya")
    assert "Bring along" not in labels(view)
    assert "the &lt;build&gt; is red" in str(view["blocks"][0])
    await flow.slack.submit("maya", {"text": "why?", "where": flow.slack.channel("#general").id})
    root = await flow.root("#general", "why?")
    await flow.shows("#general", root, "[Retry]")
    shown = flow.slack.messages("#general", root)[0]
    assert "With a message of another conversation" in flow.slack.visible_text(shown)
    assert "build" not in str((shown["text"], shown["blocks"])), "who reads here may not be allowed to read there"
    (session,) = await flow.sessions.list()
    assert session.name == "why?"
    (text,) = asked(flow)
    first, rest = text.split("\n\n", 1)
    assert first == "why?"
    assert rest.splitlines() == [
        "The message in #random that this is about:",
        "jonas: the <build> is red since @maya left",
    ]


async def test_a_thread_is_brought_along_or_answered_in(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#general", "the build is red")
    await flow.slack.post("maya", "#general", "since the blue commit", thread_ts=ts)
    reply = await flow.slack.post("jonas", "#general", "so revert it", thread_ts=ts)
    await flow.slack.shortcut("maya", "flow_message", reply)
    assert "Bring along" in labels(await modal(flow, "maya"))
    there = flow.slack.channel("#engineering").id
    await flow.slack.submit("maya", {"text": "explain", "bring": "thread", "where": there})
    await flow.shows("#engineering", await flow.root("#engineering", "explain"), "[Retry]")
    assert asked(flow)[0].splitlines()[-3:] == [
        "jonas: the build is red",
        "maya: since the blue commit",
        "jonas: so revert it",
    ]
    await flow.slack.shortcut("maya", "flow_message", reply)
    await until(lambda: flow.slack.views("maya"))
    await flow.slack.submit("maya", {"text": "do it"})
    await flow.shows("#general", ts, "do it", "[Retry]")
    assert asked(flow)[1] == "do it\n\nThe message in #general that this is about:\njonas: so revert it"
    assert "since the blue commit" in contexts(flow), "it was called into a thread, and knows what was said there"


async def test_a_thread_that_cannot_be_read_is_told_in_the_modal(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#random", "private matters")
    await flow.slack.post("maya", "#random", "indeed", thread_ts=ts)
    await flow.slack.shortcut("maya", "flow_message", ts)
    await modal(flow, "maya")
    there = flow.slack.channel("#general").id
    result = await flow.slack.submit("maya", {"text": "explain", "bring": "thread", "where": there})
    assert isinstance(result.ack, dict)
    assert "invite me there" in result.ack["errors"]["bring"]


async def test_a_modal_does_not_wait_for_each_name_of_a_long_thread(flow: Flow) -> None:
    ts = await flow.slack.post("jonas", "#general", "who is here?")
    for number in range(8):
        flow.slack.add_user(f"writer{number}")
        await flow.slack.post(f"writer{number}", "#general", f"me {number}", thread_ts=ts)
    await flow.slack.shortcut("maya", "flow_message", ts)
    await modal(flow, "maya")
    flow.slack.faults.latency(30.0, "users.info")
    there = flow.slack.channel("#engineering").id
    result = await flow.slack.submit("maya", {"text": "count", "bring": "thread", "where": there})
    assert result.ok, "acknowledged in time"
    await flow.root("#engineering", "count")
    await until(lambda: asked(flow))
    assert f"{flow.slack.user('writer7').id}: me 7" in asked(flow)[0], "whoever cannot be asked for goes by the id"


async def test_a_modal_does_not_wait_until_it_is_known_who_may(flow: Flow) -> None:
    flow.slack.faults.fail("users.info", error="internal_error", times=1_000)
    view = {"id": "V1", "state": {"values": {"b": {"text": {"value": "x"}, "where": {"value": "C1"}}}}}
    async with asyncio.timeout(30):
        assert list(await begin(flow.door, view, "U0NEW")) == ["where"]
    assert await flow.sessions.list() == []


async def test_a_session_that_is_there_goes_on_with_what_is_asked(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow hello")
    await flow.shows("#general", ts, "[Retry]")
    answer = flow.slack.messages("#general", ts)[1]
    await flow.slack.shortcut("jonas", "flow_message", answer)
    await modal(flow, "jonas")
    wrong = await flow.slack.submit("jonas", {"text": "shorter", "repository": "https://host/a/b.git"})
    assert isinstance(wrong.ack, dict)
    assert "has a session already" in wrong.ack["errors"]["repository"]
    assert (await flow.slack.submit("jonas", {"text": "shorter", "model": "haiku"})).ok
    await flow.shows("#general", ts, "shorter")
    (session,) = await flow.sessions.list()
    assert session.model == "haiku"
    assert len(await flow.sessions.turns(session.id)) == 2
    assert "flow: hello" in asked(flow)[1], "its own words can be pointed at"
