"""The home tab with the real SDK: shown when opened and after a press, paced, with what was chosen."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from slackdoor import MANIFEST, Flow, Start, starter
from unit.sessions.scripted import ScriptedHost
from waiting import until

from bot.homeview import Part
from config.settings import AccessSettings
from simulator.slack import SlackSimulator
from worklets.events import TurnEnded, Usage


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path, slack: SlackSimulator) -> Start:
    return starter(tmp_path, slack, ScriptedHost())


async def shown(flow: Flow, user: str, *words: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        view = flow.slack.home(user)
        return view if view and all(word in str(view) for word in words) else None

    view: dict[str, Any] = await until(found, what=f"{words} in {flow.slack.home(user)}")
    return view


def element(view: dict[str, Any], action_id: str) -> dict[str, Any]:
    for block in view["blocks"]:
        for one in [*block.get("elements", []), block.get("accessory", {})]:
            if one.get("action_id") == action_id:
                return {**one, "block_id": block["block_id"]}
    raise AssertionError(f"no {action_id} in {view}")


async def test_sessions_costs_and_a_press(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        ts = await slack.post("maya", "#general", "@flow HOLD on")
        process = await flow.process("HOLD on")
        await slack.open_home("maya")
        view = await shown(flow, "maya", "HOLD on", "Stop", "Today $0.00")
        await slack._interactions.click_home(slack.app, slack.user("maya"), element(view, "stop"))
        await flow.shows("#general", ts, "Stopped by @maya")
        assert not process.running
        await slack.post("maya", "#general", "HOLD more", thread_ts=ts)
        process = await flow.process("HOLD more")
        turn_id, process.running = process.running, None
        process.say(TurnEnded("done", (str(turn_id),), Usage(10, 1, cost=4.8), 0.1))
        await flow.shows("#general", ts, "$4.80")
        await slack.open_home("maya")
        await shown(flow, "maya", "Today $4.80", "this month $4.80", "Let it sleep")
        await slack.open_home("jonas")
        await shown(flow, "jonas", "You have no session yet.", "Today $0.00")


async def test_what_waits_for_people_is_marked(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        await slack.post("maya", "#general", "@flow HOLD on")
        (await flow.process("HOLD on")).ask("Bash", {"command": "make"})
        await until(flow.sessions.asks, what="the question to be stored")
        await slack.open_home("maya")
        await shown(flow, "maya", "waiting for you")


async def test_preferences_are_kept_and_count(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        await slack.open_home("maya")
        view = await shown(flow, "maya", "Your preferences")
        maya = slack.user("maya")
        for name, value in (("level", "quiet"), ("mention", "yes"), ("model", "haiku"), ("mode", "plan")):
            select = element(view, f"preference_{name}")
            option = next(one for one in select["options"] if one["value"] == value)
            await slack._interactions.click_home(slack.app, maya, {**select, "selected_option": option})
            view = await until(
                lambda name=name, value=value: (
                    view if (view := slack.home("maya")) and initial(view, name) == value else None
                )
            )
        await slack.post("maya", "#general", "@flow hello")

        async def begun() -> Any:
            return await flow.sessions.list()

        (session,) = await until(begun)
        assert (session.model, session.mode) == ("haiku", "plan")
        (turn,) = await flow.sessions.turns(session.id)
        assert turn.level == "quiet"
        select = element(view, "preference_model")
        await slack._interactions.click_home(slack.app, maya, {**select, "selected_option": select["options"][0]})
        await until(lambda: initial(slack.home("maya") or {}, "model") == "usual")
        assert flow.sessions.options.own(maya.id, "model") is None


def initial(view: dict[str, Any], name: str) -> str:
    return str(element(view, f"preference_{name}")["initial_option"]["value"])


async def test_one_person_is_shown_at_most_one_a_second(start: Start, slack: SlackSimulator) -> None:
    async with start() as flow:
        making, slow = flow.door.homes._blocks, iter([0.5])

        async def blocks(user_id: str) -> list[dict[str, Any]]:
            """The first one takes longer to make than the next."""
            await asyncio.sleep(next(slow, 0.0))
            return await making(user_id)

        flow.door.homes._blocks = blocks  # type: ignore[method-assign]
        began = time.monotonic()
        for _ in range(20):
            await slack.open_home("maya")
        await slack.open_home("jonas")
        await until(lambda: len(slack.acks) >= 21)  # until then some of them may come after a look
        seconds = time.monotonic() - began
        await until(lambda: slack.home("maya") and slack.home("jonas"))
        await asyncio.sleep(0)  # both began at once: nobody waits for another
        await until(lambda: not flow.door.homes.busy)
        times = [call.time for call in slack.calls if call.method == "views.publish" and is_mayas(slack, call.args)]
        assert 1 <= len(times) <= 3 + seconds
        assert all(later - earlier >= 0.95 for earlier, later in itertools.pairwise(times))


def is_mayas(slack: SlackSimulator, args: dict[str, Any]) -> bool:
    return str(args.get("user_id")) == slack.user("maya").id


async def test_admins_see_the_set_up_and_everybodys_sessions(start: Start, slack: SlackSimulator) -> None:
    admin = slack.user("jonas").id
    async with start(access=AccessSettings(admins=(admin,))) as flow:

        async def setup() -> list[Part]:
            return [Part("gateway", False, "down since noon")]

        flow.door.homes.setup = setup
        ts = await slack.post("maya", "#general", "@flow HOLD on")
        await flow.process("HOLD on")
        await slack.open_home("jonas")
        await shown(flow, "jonas", "✗ gateway: down since noon", "Everybody: today $0.00")
        await slack.open_home("maya")
        assert "Set-up" not in str(await shown(flow, "maya", "Today $0.00"))
        refused = await slack.command("maya", "#random", "/flow", "sessions all")
        assert "Only admins" in slack.visible_text(refused.message or {})
        told = await slack.command("jonas", "#general", "/flow", "sessions all")
        assert told.message is not None
        assert "HOLD on" in slack.visible_text(told.message)
        assert "by @maya" in slack.visible_text(told.message)
        await slack.click("jonas", told.message, "stop")
        await flow.shows("#general", ts, "Stopped by @jonas")
