"""Every door, for people who may, who may not, and of whom it is not known yet: real SDK, simulated Slack."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from slackdoor import MANIFEST, Flow, Start
from waiting import until

from bot.held import held
from config.settings import AccessSettings
from simulator.slack import SlackSimulator
from worklets.events import TextDelta


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST, retry_delays=(0.1, 0.2, 0.3)) as running:
        running.add_user("gus", guest="single")
        running.add_user("eve", team="T9OTHER")
        yield running


def told(flow: Flow, user: str, words: str) -> bool:
    return any(words in flow.slack.visible_text(m) for m in flow.slack.ephemerals(user))


async def waiting(flow: Flow) -> int:
    async with flow.db.read() as connection:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(held))).scalar_one())


async def nothing_waits(flow: Flow) -> None:
    async def empty() -> bool:
        return await waiting(flow) == 0

    await until(empty)


async def at_work(flow: Flow) -> str:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    (await flow.process("HOLD on")).say(TextDelta("half a thought"))
    await flow.shows("#general", ts, "half a thought")
    return ts


def live(flow: Flow, ts: str) -> dict[str, Any]:
    return next(m for m in flow.slack.messages("#general", ts) if "half a thought" in flow.slack.visible_text(m))


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("person", ["gus", "eve"])
async def test_guests_and_external_people_are_refused_in_private(start: Start, person: str, known: bool) -> None:
    admin = "U0ADMIN"
    async with start(known=known, access=AccessSettings(admins=(admin,))) as flow:
        ts = await flow.slack.post(person, "#general", "@flow SAY secrets")
        words = "Guests of this workspace" if person == "gus" else "People of other workspaces"
        await until(lambda: told(flow, person, words))
        assert f"<@{admin}>" in str(flow.slack.ephemerals(person))
        assert len(flow.slack.ephemerals(person)) == 1
        command = await flow.slack.command(person, "#general", "/flow", "SAY secrets")
        assert words in flow.slack.visible_text(command.message or {})
        await nothing_waits(flow)
        assert await flow.sessions.list() == []
        assert len(flow.slack.messages("#general", ts)) == 1, "nothing shows to others"


async def test_refused_in_a_thread_of_others(start: Start) -> None:
    async with start() as flow:
        ts = await at_work(flow)
        await flow.slack.post("gus", "#general", "do it my way", thread_ts=ts)
        await until(lambda: told(flow, "gus", "Guests of this workspace"))
        await flow.slack.post("gus", "#general", "please", thread_ts=ts)
        await flow.slack.post("gus", "#general", "@jonas what do you think?", thread_ts=ts)
        await flow.slack.post("gus", "#general", "stop", thread_ts=ts)
        await flow.slack.react("gus", ts, "octagonal_sign")
        assert (await flow.slack.click("gus", live(flow, ts), "stop_turn")).ok
        await until(lambda: len(flow.slack.ephemerals("gus")) == 3, what="one word for the thread, one for each press")
        (await flow.process("HOLD on")).answer("done in peace")
        await flow.shows("#general", ts, "done in peace", "tokens in")
        (session,) = await flow.sessions.list()
        assert len(await flow.sessions.turns(session.id)) == 1
        async with flow.db.read() as connection:
            assert (await connection.execute(sa.text("select count(*) from asides"))).scalar_one() == 0


async def test_people_among_themselves_cost_no_look(start: Start) -> None:
    async with start(known=False) as flow:
        ts = await flow.slack.post("maya", "#general", "who knows?")
        await flow.slack.post("gus", "#general", "not me", thread_ts=ts)
        await flow.slack.react("gus", ts, "eyes")
        await until(lambda: len(flow.slack.acks) >= 3)
        assert not flow.calls("users.info")
        assert not flow.slack.ephemerals("gus")


async def test_what_an_unknown_person_asks_keeps_its_order(start: Start) -> None:
    async with start(known=False) as flow:
        flow.slack.faults.latency(0.3, "users.info")
        ts = await flow.slack.post("maya", "#general", "@flow HOLD one")
        for user, text in (("maya", "next"), ("jonas", "mine too"), ("gus", "not me"), ("maya", "and last")):
            await flow.slack.post(user, "#general", text, thread_ts=ts)
        (await flow.process("HOLD one")).answer("first")

        async def prompts() -> bool:
            given = [text for process in flow.host.processes.values() for _, text in process.prompts]
            return given == ["HOLD one", "next", "mine too", "and last"]

        await until(prompts)
        await nothing_waits(flow)
        assert await prompts()
        await until(lambda: told(flow, "gus", "Guests of this workspace"))


async def test_what_waits_for_a_verdict_outlives_the_program(start: Start, slack: SlackSimulator) -> None:
    slack.faults.fail("users.info", error="internal_error", times=1_000)
    async with start(known=False) as flow:
        ts = await slack.post("maya", "#general", "@flow survive")
        guest = await slack.post("gus", "#general", "@flow let me in")
        command = await slack.command("jonas", "#general", "/flow", "by command")
        assert command.ok

        async def all_wait() -> bool:
            return await waiting(flow) == 5  # a mention comes as two events

        await until(all_wait)
        assert await flow.sessions.list() == []
    slack.faults.clear()
    async with start(known=False) as flow:
        await flow.shows("#general", ts, "survive", "tokens in")
        await flow.root("#general", "by command")
        await until(lambda: told(flow, "gus", "Guests of this workspace"))
        await nothing_waits(flow)
        assert len(slack.messages("#general", guest)) == 1
        assert len(await flow.sessions.list()) == 2


async def test_a_command_of_an_unknown_person_is_answered_when_it_is_known(start: Start) -> None:
    async with start(known=False) as flow:
        result = await flow.slack.command("maya", "#general", "/flow", "status")
        assert result.ok
        await until(lambda: told(flow, "maya", "Sessions: 0 awake"))
        await nothing_waits(flow)

        async def at_once() -> bool:
            result = await flow.slack.command("maya", "#general", "/flow", "status")
            return "Sessions: 0 awake" in flow.slack.visible_text(result.message or {})

        await until(at_once)


async def test_what_was_typed_into_a_modal_is_not_lost_when_it_had_to_wait(start: Start, slack: SlackSimulator) -> None:
    async with start():
        for user in ("maya", "jonas"):
            await slack.command(user, "#general", "/flow", "new")
            await until(lambda user=user: slack.views(user), what="a modal")
    slack.faults.fail("users.info", error="internal_error", times=1_000)
    async with start(known=False) as flow:
        assert (await slack.submit("maya", {"text": "a long thought", "repository": "nowhere"})).ok
        assert (await slack.submit("jonas", {"text": "another thought"})).ok

        async def both_wait() -> bool:
            return await waiting(flow) == 2

        await until(both_wait)
    slack.faults.clear()
    async with start(known=False, now=lambda: time.time() + 300) as flow:
        await flow.root("#general", "another thought")

        def is_told() -> bool:
            said = [slack.visible_text(message) for message in slack.messages("dm", user="maya")]
            return any("no address of a repository" in text and "a long thought" in text for text in said)

        await until(is_told)
        await nothing_waits(flow)
        assert len(await flow.sessions.list()) == 1


async def test_groups_and_channels(start: Start, slack: SlackSimulator) -> None:
    group = slack.add_usergroup("maya")
    scopes = slack.app.manifest.scopes or frozenset()
    slack.app.manifest = replace(slack.app.manifest, scopes=scopes | {"usergroups:read"})
    general = slack.channel("#general").id
    async with start(access=AccessSettings(groups=(group,), channels=(general,))) as flow:
        ts = await flow.slack.post("maya", "#general", "@flow hello")
        await flow.shows("#general", ts, "tokens in")
        await flow.slack.post("jonas", "#general", "@flow hello")
        await until(lambda: told(flow, "jonas", "not among those"))
        await flow.slack.post("maya", "#engineering", "@flow hello")
        await until(lambda: told(flow, "maya", "may not be used in this channel"))
        await flow.slack.post("maya", "dm", "a word")
        await until(lambda: any("tokens in" in flow.slack.visible_text(m) for m in all_direct(flow, "maya")))


def all_direct(flow: Flow, user: str) -> list[dict[str, Any]]:
    roots = flow.slack.messages("dm", user=user)
    return [m for root in roots for m in flow.slack.messages("dm", root["ts"], user)]


async def test_the_home_of_somebody_who_may_not(start: Start) -> None:
    async with start() as flow:
        await flow.slack.open_home("gus")
        view = await until(lambda: flow.slack.home("gus"))
        assert "Guests of this workspace" in str(view)
        assert "Your sessions" not in str(view)


async def test_what_was_written_during_an_outage_is_checked_too(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        ts = await at_work(flow)
        (await flow.process("HOLD on")).answer("before")
        await flow.shows("#general", ts, "tokens in")
    await slack.post("gus", "#general", "while you were away", thread_ts=ts)
    await slack.post("maya", "#general", "me too", thread_ts=ts)
    async with start(known=False) as flow:
        (session,) = await flow.sessions.list()

        async def heard() -> bool:
            return [turn.text for turn in await flow.sessions.turns(session.id)] == ["HOLD on", "me too"]

        await until(heard)
        await nothing_waits(flow)
        assert await heard()
