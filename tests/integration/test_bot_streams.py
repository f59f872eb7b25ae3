"""Answers as Slack's own streams: appended to while they grow, and in the end what edits would have made of them."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from slackdoor import MANIFEST, Flow, Start
from unit.sessions.scripted import Process
from waiting import until

from bot.nativestream import LIFE
from simulator.slack import SlackSimulator
from worklets.events import PreviewVoided, Text, TextDelta, ToolFinished, ToolStarted

STREAM_CALLS = ("chat.startStream", "chat.appendStream", "chat.stopStream")


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator(manifest=MANIFEST, retry_delays=(0.1, 0.2, 0.3), limit_scale=20) as running:
        yield running


WORDS = "One word after the other, "


async def _asks(flow: Flow, place: str = "dm", text: str = "HOLD hi") -> tuple[str, Process]:
    ts = await flow.slack.post("maya", place, text if place == "dm" else f"@flow {text}")
    return ts, await flow.process(text)


async def _says(flow: Flow, process: Process, place: str, ts: str, *words: str) -> None:
    """Delta by delta, each after the one before is shown: what comes last waits for what confirms it."""
    for word in words:
        process.say(TextDelta(word))
    process.say(TextDelta("and so on "))
    await flow.shows(place, ts, words[0].strip(), user="maya")


def _answers(flow: Flow, place: str, ts: str) -> list[dict[str, Any]]:
    return [m for m in flow.slack.messages(place, ts, "maya") if m.get("bot_id")]


def _look(message: dict[str, Any]) -> str:
    """Without what differs between two messages of the same look."""
    blocks = [{k: v for k, v in block.items() if k != "block_id"} for block in message["blocks"]]
    look = repr([message["text"], blocks]).replace(message["metadata"]["event_payload"]["turn"], "TURN")
    return re.sub(r"[\d.]+ s ", "", look)


@pytest.mark.parametrize(("streaming", "place"), [("auto", "dm"), ("native", "dm"), ("native", "#general")])
async def test_an_answer_is_streamed_and_ends_up_as_edits_would_have_left_it(
    start: Start, streaming: Any, place: str
) -> None:
    looks = []
    for mode in (streaming, "edits"):
        async with start(streaming=mode, pace=10, reactions=False) as flow:
            text = f"HOLD {mode}"
            before = [len(flow.calls(name)) for name in STREAM_CALLS]
            ts, process = await _asks(flow, place, text)
            process.say(ToolStarted("t1", "Bash", {"command": "make"}))
            process.say(ToolFinished("t1", True, "done", {"exit_code": 0}))
            words = [f"Line {n} of **many**.\n" for n in range(6)]
            for word in words:
                process.say(TextDelta(word))
            await flow.shows(place, ts, "Line 0", user="maya")
            for more in ("```py\nx = 1\n", "y = 2\n```\n", "And **done", "**."):
                words.append(more)
                process.say(TextDelta(more))
            process.say(Text("".join(words)))
            process.end()
            await flow.shows(place, ts, "tokens in", "And **done**", user="maya")
            assert await flow.show.outbox.flush(60)
            [answer] = _answers(flow, place, ts)
            looks.append(_look(answer))
            used = [len(flow.calls(name)) - count for name, count in zip(STREAM_CALLS, before, strict=True)]
            assert all(used) if mode != "edits" else not any(used)
            assert answer.get("streaming_state") == ("completed" if mode != "edits" else None)
    assert looks[0] == looks[1]


async def test_a_code_block_that_grows_within_its_lines_stays_in_one_stream(start: Start) -> None:
    async with start(streaming="auto", pace=10) as flow:
        ts, process = await _asks(flow)
        process.say(TextDelta("See how:\n\n```py\nfirst = 1\nx = lo"))
        await flow.shows("dm", ts, "first = 1\nx =", user="maya")
        process.say(TextDelta("ng_name + 1\nlast = an"))
        await flow.shows("dm", ts, "x = long_name + 1", user="maya")
        process.say(TextDelta("other\n```\nThat is it, "))
        await flow.shows("dm", ts, "last = another", "That is", user="maya")
        assert len(flow.calls("chat.startStream")) == 1
        assert not flow.calls("chat.stopStream")
        process.end()
        await flow.shows("dm", ts, "tokens in", user="maya")


@pytest.mark.parametrize(("streaming", "place"), [("auto", "#general"), ("edits", "dm")])
async def test_elsewhere_answers_are_edited(start: Start, streaming: Any, place: str) -> None:
    async with start(streaming=streaming, pace=10) as flow:
        ts, process = await _asks(flow, place)
        await _says(flow, process, place, ts, WORDS)
        process.answer("Done.")
        await flow.shows(place, ts, "tokens in", user="maya")
        assert not any(flow.calls(name) for name in STREAM_CALLS)


async def test_a_stream_is_stopped_before_slack_ends_it_and_the_answer_goes_on_in_another(start: Start) -> None:
    skipped = 0.0
    first = "One sentence before the time is over. " * 4
    then = "\n\nOne sentence after the time is over. " * 4
    async with start(streaming="auto", pace=10, clock=lambda: time.monotonic() + skipped) as flow:
        ts, process = await _asks(flow)
        await _says(flow, process, "dm", ts, first)
        skipped = LIFE
        process.say(TextDelta("and still "))
        await until(lambda: len(flow.calls("chat.stopStream")) == 1)
        assert flow.calls("chat.stopStream")[0].get("session_status") == "processing"
        await flow.shows("dm", ts, "and still", user="maya")
        process.say(TextDelta(then))
        await until(lambda: len(flow.calls("chat.startStream")) == 2)
        process.say(TextDelta("The end. "))
        process.say(Text(f"{first}and so on and still {then}The end. "))
        process.end()
        await flow.shows("dm", ts, "The end.", "tokens in", user="maya")
        assert await flow.show.outbox.flush(60)
        answers = _answers(flow, "dm", ts)
        assert [answer["streaming_state"] for answer in answers] == ["completed", "completed"]
        shown = "\n".join(flow.thread("dm", ts, "maya"))
        assert (shown.count("before the time"), shown.count("after the time"), shown.count("and so on")) == (4, 4, 1)


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("chat.startStream", "channel_type_not_supported"),
        ("chat.startStream", "unknown_method"),
        ("chat.appendStream", "message_not_in_streaming_state"),
        ("chat.appendStream", "msg_blocks_too_long"),
        ("chat.appendStream", "internal_error"),
        ("chat.stopStream", "internal_error"),
        ("chat.stopStream", "message_not_in_streaming_state"),
    ],
)
async def test_on_any_error_of_a_stream_the_message_goes_on_by_edits(start: Start, method: str, error: str) -> None:
    async with start(streaming="auto", pace=10) as flow:
        flow.slack.faults.fail(method, error=error, times=1)
        ts, process = await _asks(flow)
        for word in ("One ", "two ", "three ", "four "):
            process.say(TextDelta(word))
            await flow.shows("dm", ts, user="maya")
        await until(lambda: _answers(flow, "dm", ts))
        process.say(Text("One two three four five"))
        process.end()
        texts = await flow.shows("dm", ts, "One two three four five", "tokens in", user="maya")
        assert len(texts) == 2
        assert await flow.show.outbox.flush(60)
        [answer] = _answers(flow, "dm", ts)
        assert answer.get("streaming_state") in (None, "completed")


async def test_a_start_without_an_answer_is_looked_for_and_not_repeated(start: Start) -> None:
    async with start(streaming="auto", pace=10) as flow:
        flow.slack.faults.reset("chat.startStream", after=True)
        ts, process = await _asks(flow)
        process.say(TextDelta(WORDS))
        process.say(Text(WORDS))
        process.end()
        await flow.shows("dm", ts, "tokens in", user="maya")
        assert len(_answers(flow, "dm", ts)) == 1
        assert len(flow.calls("chat.startStream")) == 1


async def test_words_that_are_taken_back_end_the_stream(start: Start) -> None:
    async with start(streaming="auto", pace=10) as flow:
        ts, process = await _asks(flow)
        await _says(flow, process, "dm", ts, WORDS)
        process.say(PreviewVoided())
        process.say(TextDelta("Something else altogether. "))
        process.say(TextDelta("And more "))
        await flow.shows("dm", ts, "Something else", user="maya")
        assert not any(WORDS.strip() in text for text in flow.thread("dm", ts, "maya"))
        process.say(Text("Something else altogether. And more "))
        process.end()
        await flow.shows("dm", ts, "tokens in", user="maya")
        assert len(_answers(flow, "dm", ts)) == 1


async def test_a_stream_that_a_killed_bot_left_open_is_taken_over(start: Start) -> None:
    async with start(streaming="auto", pace=10, flush=False) as flow:
        ts, process = await _asks(flow)
        await _says(flow, process, "dm", ts, WORDS)
        [before] = _answers(flow, "dm", ts)
        assert before["streaming_state"] == "in_progress"
    async with start(streaming="auto", pace=10) as flow:
        process.say(TextDelta("after the restart "))
        process.say(Text(f"{WORDS}and so on after the restart "))
        process.end()
        await flow.shows("dm", ts, "after the restart", "tokens in", user="maya")
        [after] = _answers(flow, "dm", ts)
        assert (after["ts"], after["streaming_state"]) == (before["ts"], "completed")


async def test_one_that_was_left_open_is_taken_over_also_where_streams_are_switched_off_now(start: Start) -> None:
    async with start(streaming="auto", pace=10, flush=False) as flow:
        ts, process = await _asks(flow)
        await _says(flow, process, "dm", ts, WORDS)
    async with start(streaming="edits", pace=10) as flow:
        process.answer("After the restart.")
        await flow.shows("dm", ts, "After the restart.", "tokens in", user="maya")
        [answer] = _answers(flow, "dm", ts)
        assert answer["streaming_state"] == "completed"


async def test_a_program_that_ends_leaves_no_stream_open(start: Start) -> None:
    async with start(streaming="auto", pace=10, flush=False) as flow:
        ts, process = await _asks(flow)
        await _says(flow, process, "dm", ts, WORDS)
        assert await flow.show.flush(60)
        [answer] = _answers(flow, "dm", ts)
        assert answer["streaming_state"] == "completed"
        assert any("and so on" in text for text in flow.thread("dm", ts, "maya"))
        process.say(TextDelta("not any more "))


async def test_a_long_answer_is_streamed_message_after_message(start: Start) -> None:
    async with start(streaming="auto", pace=10) as flow:
        ts, process = await _asks(flow)
        lines = [f"This is line {n} of a long answer, as there are some.\n" for n in range(400)]
        for at in range(0, 400, 40):
            process.say(TextDelta("".join(lines[at : at + 40])))
            await flow.shows("dm", ts, user="maya")
        await until(lambda: len(flow.calls("chat.startStream")) >= 2)
        process.say(Text("".join(lines)))
        process.end()
        texts = await flow.shows("dm", ts, "tokens in", "line 399 ", user="maya")
        shown = "\n".join(texts[1:])
        assert all(shown.count(f"This is line {n} of") == 1 for n in range(400))
        assert all(m.get("streaming_state") in (None, "completed") for m in _answers(flow, "dm", ts))
