"""CPU for 1,000 lines of an agent's output, beside `json.loads` of the same lines.

Twice. The pipeline in this process: line → wire → transcript (SQLite) → observers → renderer → outbox, the real parts
in virtual time at ten lines a second, against a Slack in memory. And the whole program as a child process, by the
kernel's account: there the relay's WebSocket, the model's traffic through the gateway, and HTTP to the simulated Slack
come on top. Lines are those of recordings of the real CLI, repeated, with a paragraph of streamed text after each.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

from benchmarks import virtual
from benchmarks.harness import Row, milliseconds, ratio, say
from benchmarks.program import ROOT, World, running
from benchmarks.workspace import Workspace
from bot.delivery import Delivery
from bot.show import Show
from bot.store import MessageStore
from sessions.agents import AgentLike
from sessions.db import open_database
from sessions.manager import Sessions
from sessions.store import Store
from sessions.types import Prompt, ThreadId
from worklets.events import AgentEvent, Position
from worklets.profile import Profile
from worklets.runtime import Worklet
from worklets.wire import Decoder

_RECORDED = ROOT / "tests" / "unit" / "worklets" / "recorded"
_PACE = 0.1  # seconds a line
_CYCLES = 8
_THREAD_SECONDS = 0.004  # given to the database's thread before virtual time jumps
_WORDS = "The quick brown fox jumps over the lazy dog, "


async def measure(quick: bool) -> list[Row]:
    runs = 1 if quick else 5
    lines = stream("p")
    parsing = median(_parse(lines) for _ in range(20))
    pipeline = []
    for number in range(runs):
        say(f"CPU of the pipeline: run {number + 1} of {runs}")
        pipeline.append(await asyncio.to_thread(lambda: virtual.run(_pipeline(lines), _THREAD_SECONDS)))
    spent = median(cpu for cpu, _ in pipeline)
    whole = []
    for number in range(1 if quick else 3):
        say(f"CPU of the program: run {number + 1}")
        async with running("local", FLOW_MAX_SESSIONS="10") as world:
            whole.append(await _program(world))
    beside = f"json.loads: {milliseconds(parsing)}"
    return [
        Row(
            "CPU per 1,000 lines: pipeline",
            f"{milliseconds(spent)} = {ratio(spent, parsing)}",
            f"{beside}; {pipeline[0][1]} edits",
        ),
        Row("CPU per 1,000 lines: whole program", milliseconds(median(whole)), "5 threads at once"),
    ]


# ---- the lines ---------------------------------------------------------------------------------------------------


def stream(prompt_id: str) -> list[bytes]:
    """One turn of `prompt_id`: thinking, tools and text, again and again, then its result."""
    recorded = (_RECORDED / "thinking_tools.jsonl").read_text(encoding="utf-8").splitlines()
    written = (_RECORDED / "text.jsonl").read_text(encoding="utf-8").splitlines()
    begin = next(i for i, line in enumerate(recorded) if '"message_start"' in line)
    end = next(i for i, line in enumerate(recorded) if '"type": "result"' in line)
    lines = recorded[:begin]
    for cycle in range(_CYCLES):
        lines += [_renamed(line, cycle) for line in recorded[begin:end]]
        lines += [_renamed(line, cycle) for line in _paragraph(written)]
    lines.append(recorded[end])
    asked = json.loads(recorded[0])["command_uuid"]
    return [line.replace(asked, prompt_id).encode() for line in lines]


def _renamed(line: str, cycle: int) -> str:
    """Ids are unique in a stream."""
    return re.sub(r'"((?:msg|toolu)_\w+)"', rf'"\g<1>{cycle}"', line)


def _paragraph(written: list[str]) -> list[str]:
    """The recorded text message with 60 deltas in place of its own."""
    first = next(i for i, line in enumerate(written) if '"message_start"' in line)
    last = next(i for i, line in enumerate(written) if '"message_stop"' in line)
    lines: list[str] = []
    for line in written[first : last + 1]:
        message = json.loads(line)
        if '"text_delta"' in line:
            if not any("text_delta" in earlier for earlier in lines):
                message["event"]["delta"]["text"] = _WORDS
                lines += [json.dumps(message)] * 60
        elif message["type"] == "assistant":
            message["message"]["content"][0]["text"] = _WORDS * 60
            lines.append(json.dumps(message))
        else:
            lines.append(line)
    return lines


def _parse(lines: list[bytes]) -> float:
    began = time.process_time()
    for line in lines:
        json.loads(line)
    return (time.process_time() - began) / len(lines) * 1000


# ---- the pipeline ------------------------------------------------------------------------------------------------


class _Agent:
    """Says the lines as soon as it has a prompt."""

    epoch, worklet_id = "epoch", "worklet"
    earlier: Sequence[tuple[Position, Sequence[AgentEvent]]] = ()
    ending: str | None = None
    new_volume = True
    profile = Profile()

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self._prompt: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def forget_earlier(self) -> None: ...

    async def send(self, prompt_id: str, _text: str, _context: Sequence[str] = ()) -> None:
        self._prompt.set_result(prompt_id)

    async def events(self) -> AsyncIterator[tuple[Position, list[AgentEvent]]]:
        prompt_id, decoder = (await self._prompt).encode(), Decoder()
        for number, line in enumerate(self._lines, 1):
            await asyncio.sleep(_PACE)
            yield Position(self.epoch, number), decoder.feed(line.replace(b'"p"', b'"%s"' % prompt_id))
        await asyncio.Event().wait()

    async def interrupt(self, timeout: float = 10.0) -> None: ...

    async def terminate(self) -> None: ...

    async def ack(self, position: Position) -> None: ...

    async def close(self) -> None: ...


class _Host:
    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    async def open(self, *_: Any, on_step: Callable[[str], None], **__: Any) -> AgentLike:
        on_step("starting")
        return _Agent(self._lines)

    async def close(self, name: str, grace: float = 5.0) -> str | None: ...

    async def destroy(self, name: str) -> None: ...

    async def introduce(self, name: str, author: str, email: str) -> None: ...

    async def allow_spending(self, name: str, dollars: float | None, spent: float = 0.0, of: str = "") -> None: ...

    async def running(self) -> Mapping[str, Worklet]:
        return {}


async def _pipeline(lines: list[bytes]) -> tuple[float, int]:
    """CPU seconds per 1,000 lines, all threads of this process; and the edits that were made."""
    from migrations import upgrade

    with tempfile.TemporaryDirectory(prefix="flow-bench-") as home:
        dsn = f"sqlite://{Path(home) / 'db.sqlite'}"
        database = open_database(dsn)
        await upgrade(dsn)
        workspace = Workspace(lambda *_: None)
        async with Sessions(Store(database), cast(Any, _Host(lines)), max_sessions=1) as sessions:
            show = Show(
                sessions, Delivery(cast(Any, workspace), "B1"), MessageStore(database),
                clock=asyncio.get_running_loop().time,
            )  # fmt: skip
            sessions.observe(show.observe)
            async with show.outbox:
                await _turn(sessions, show, "1700000000.000100")  # warms SQLAlchemy's caches
                made, began = workspace.calls["chat.update"], time.process_time()
                await _turn(sessions, show, "1700000000.000200")
                spent = time.process_time() - began
        await database.close()
    return spent / len(lines) * 1000, workspace.calls["chat.update"] - made


async def _turn(sessions: Sessions, show: Show, ts: str) -> None:
    prompt = Prompt(ThreadId("T1", "C1", ts), f"C1:{ts}", ts, "U1", "go on", True, None, None)
    submitted = await sessions.submit(prompt)
    assert submitted is not None
    while len(show.outbox):
        await asyncio.sleep(1)
    await sessions.stop(submitted.session.id, by="U1")


# ---- the program -------------------------------------------------------------------------------------------------


async def _program(world: World) -> float:
    """CPU seconds of the child per 1,000 lines in the journals of five worklets."""
    slack, name = world.slack, uuid.uuid4().hex[:6]
    roots = [await slack.post("maya", "general", f"{slack.mention()} HOLD {name}{n}") for n in range(5)]
    for number in range(5):
        await world.model.held(f"{name}{number}")  # all containers are up: their start is no part of this
    for root in roots:
        await slack.post("maya", "general", "WORDS 400 50", thread_ts=root)
    began, lines = world.cpu(), world.journal_lines()
    for number in range(5):
        world.model.release(f"{name}{number}")

    def shown() -> bool:
        return all(
            any("word400" in slack.visible_text(m) and "tokens in" in slack.visible_text(m) for m in found)
            for found in (slack.messages("general", root) for root in roots)
        )

    await slack.wait_for(shown, 120)
    return (world.cpu() - began) / (world.journal_lines() - lines) * 1000
