"""What people press below a finished answer, and the words that they write to Flow instead of to Claude."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from slackdoor import MANIFEST, Flow, Start, starter
from unit.sessions.scripted import ScriptedHost
from waiting import until

from bot import controls
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


async def answered(flow: Flow, text: str = "hello there") -> tuple[str, dict[str, Any]]:
    """A thread with one answer, and that message."""
    ts = await flow.slack.post("maya", "#general", f"@flow {text}")
    return ts, await finished(flow, ts, 1)


async def finished(flow: Flow, ts: str, count: int) -> dict[str, Any]:
    """The latest of so many finished answers."""

    def found() -> dict[str, Any] | None:
        over = [m for m in flow.slack.messages("#general", ts) if "[Retry]" in flow.slack.visible_text(m)]
        return over[-1] if len(over) == count else None

    return await until(found, 10, f"{count} finished answers in {flow.thread('#general', ts)}")


async def told(flow: Flow, user: str, words: str) -> str:
    """What was said to this person alone."""

    def found() -> str | None:
        texts = [flow.slack.visible_text(m) for m in flow.slack.ephemerals(user)]
        return next((text for text in texts if words in text), None)

    return await until(found, 10, f"{words!r} to {user}")


# ---- buttons -----------------------------------------------------------------------------------------------------


async def test_retry_asks_the_same_again_once_a_press(flow: Flow) -> None:
    ts, message = await answered(flow)
    await flow.slack.click("jonas", message, "turn_retry")
    await finished(flow, ts, 2)
    await flow.slack.click("jonas", message, "turn_retry")
    await finished(flow, ts, 3)
    (process,) = flow.host.processes.values()
    assert [text for _, text in process.prompts] == ["hello there"] * 3
    (session,) = await flow.sessions.list()
    assert [turn.user_id for turn in await flow.sessions.turns(session.id)][1:] == [flow.slack.user("jonas").id] * 2
    await told(flow, "jonas", "answer that anew")
    edits = [call for call in flow.calls("chat.update") if call["ts"] == message["ts"]]
    assert [call for call in edits if "Retry" in str(call["blocks"])] == edits[-1:], "the first answer is not edited"


async def test_a_press_that_slack_tells_of_twice_counts_once(flow: Flow) -> None:
    ts, message = await answered(flow)
    (session,) = await flow.sessions.list()
    (turn,) = await flow.sessions.turns(session.id)
    first = await controls.retry(flow.door, turn, "U1", "17.5")
    again = await controls.retry(flow.door, turn, "U1", "17.5")
    assert (bool(first), again) == (True, "")
    await finished(flow, ts, 2)
    assert len(await flow.sessions.turns(session.id)) == 2
    assert message["ts"]


async def test_continue_goes_on_after_a_stop(flow: Flow) -> None:
    ts = await flow.slack.post("maya", "#general", "@flow HOLD on")
    await flow.process("HOLD on")
    await flow.slack.click("maya", flow.slack.messages("#general", ts)[1], "stop_turn")
    await flow.slack.click("maya", await finished(flow, ts, 1), "turn_continue")
    await finished(flow, ts, 2)
    (process,) = flow.host.processes.values()
    assert process.prompts[-1][1] == "Continue."


async def test_an_answer_can_be_had_as_a_file(flow: Flow) -> None:
    ts, message = await answered(flow, "# A title with `code`")
    await flow.slack.click("jonas", message, "turn_copy")

    def shared() -> list[Any]:
        return [file for m in flow.slack.messages("#general", ts) for file in m.get("files", [])]

    (file,) = await until(shared)
    assert file["name"] == "answer.md"
    assert flow.slack.workspace.files[file["id"]].content == b"# A title with `code`\n"


async def test_opinions_are_kept_and_thanked_for(flow: Flow) -> None:
    _, message = await answered(flow)
    await flow.slack.click("maya", message, "turn_up")
    await told(flow, "maya", "👍 Noted")
    await flow.slack.click("jonas", message, "turn_down")
    await told(flow, "jonas", "👎 Noted")
    (session,) = await flow.sessions.list()
    (turn,) = await flow.sessions.turns(session.id)
    maya, jonas = (flow.slack.user(name).id for name in ("maya", "jonas"))
    assert await flow.sessions.controls.ratings(turn.id) == {maya: True, jonas: False}
