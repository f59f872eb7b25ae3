"""People write below an answer that is being written: it goes on below theirs, also for whoever takes it over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from slackdoor import Flow, Start, starter
from unit.sessions.scripted import ScriptedHost
from waiting import until

from simulator.slack import SlackSimulator
from worklets.events import Text, TextDelta

FIRST = "This is how it begins, and what people have read before they wrote something.\n\n"
REST = "And this is what Claude had to say after that, in a paragraph of its own, which is long enough.\n\n"


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(limit_scale=20) as simulator:
        yield simulator


@pytest.fixture
def start(tmp_path: Path, slack: SlackSimulator) -> Start:
    return starter(tmp_path, slack, ScriptedHost())


def lines(flow: Flow, ts: str) -> list[str]:
    """The first line of each reply."""
    return [text.splitlines()[0] for text in flow.thread("#general", ts)[1:]]


async def begun(flow: Flow, slack: SlackSimulator, aside: str) -> str:
    ts = await slack.post("maya", "#general", "@flow HOLD on")
    process = await flow.process("HOLD on")
    process.say(TextDelta(FIRST))
    await flow.shows("#general", ts, "how it begins")
    said = await slack.post("jonas", "#general", aside, thread_ts=ts)
    answer = next(iter(flow.show._answers.values()))
    await until(lambda: answer.view._fold.layout._below, what=f"{said} to be heard")
    process.say(TextDelta(REST))
    return ts


async def test_an_answer_goes_on_below_an_aside(start: Start, slack: SlackSimulator) -> None:
    async with start(pace=10) as flow:
        ts = await begun(flow, slack, "@maya have you seen this?")
        await flow.shows("#general", ts, "after that")
        process = await flow.process("HOLD on")
        process.say(Text(FIRST + REST))
        process.end()
        await flow.shows("#general", ts, "tokens in")
        assert lines(flow, ts) == [FIRST.strip(), "@maya have you seen this?", REST.strip()]


async def test_a_prompt_moves_the_answer_too_and_its_own_stands_last(start: Start, slack: SlackSimulator) -> None:
    async with start(pace=10) as flow:
        ts = await begun(flow, slack, "and then do that")
        await flow.shows("#general", ts, "after that")
        process = await flow.process("HOLD on")
        process.say(Text(FIRST + REST))
        process.end()
        await until(lambda: sum("tokens in" in text for text in flow.thread("#general", ts)) == 2)
        await until(lambda: len(lines(flow, ts)) == 4)
        assert lines(flow, ts) == [FIRST.strip(), "and then do that", REST.strip(), "and then do that"]


async def test_who_takes_it_over_shows_the_same_messages(start: Start, slack: SlackSimulator) -> None:
    async with start(pace=10, flush=False) as flow:
        ts = await begun(flow, slack, "@maya have you seen this?")
        await flow.shows("#general", ts, "after that")
        stamps = [message["ts"] for message in slack.messages("#general", ts)]
    async with start(pace=10) as flow:
        process = await flow.process("HOLD on")
        process.say(Text(FIRST + REST))
        process.end()
        await flow.shows("#general", ts, "tokens in")
        assert lines(flow, ts) == [FIRST.strip(), "@maya have you seen this?", REST.strip()]
        assert [message["ts"] for message in slack.messages("#general", ts)] == stamps
