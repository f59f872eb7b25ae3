"""A scripted agent host in memory: what a worklet and the Claude CLI in it do, as far as sessions can see.

A prompt is answered at once with its own text, unless it begins with HOLD: then the test says what happens. Like the
CLI, a process runs a prompt id once; a volume remembers which ones it has begun to answer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from worklets.errors import AgentGone
from worklets.events import (
    AgentEvent,
    AgentExited,
    AgentReady,
    Asked,
    AskWithdrawn,
    Position,
    PromptTaken,
    Text,
    TextDelta,
    ToolFinished,
    ToolStarted,
    TurnEnded,
    Usage,
)
from worklets.link import Refused
from worklets.pictures import Picture
from worklets.profile import Profile
from worklets.relaydial import Answer
from worklets.runtime import Worklet
from worklets.slash import forgets

Batch = tuple[Position, Sequence[AgentEvent]]

_numbers = itertools.count(1)


def _replies() -> dict[str, dict[str, Any] | Exception]:
    return {"get_usage": {"session": {"model_usage": {}}}}  # nothing is spent yet


def _already() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class Process:
    """A relay and its CLI. It lives on while no agent is attached."""

    name: str
    volume: set[str]
    claude_session_id: str
    resumed: bool
    epoch: str = field(default_factory=lambda: f"epoch-{next(_numbers)}")
    journal: list[Sequence[AgentEvent]] = field(default_factory=list)
    prompts: list[tuple[str, str]] = field(default_factory=list)
    contexts: list[tuple[str, ...]] = field(default_factory=list)  # what was told before each of them
    pictures: list[tuple[Picture, ...]] = field(default_factory=list)  # what was shown before each of them
    ending: str | None = None  # what the runtime knows of its end
    running: str | None = None
    asks: dict[str, str] = field(default_factory=dict)  # requests that wait for an answer, and their tools
    heard: dict[str, dict[str, Any]] = field(default_factory=dict)  # answers, by request
    on_allowed: Callable[[], None] = lambda: None  # a tool that waited for people begins
    slept: bool = False  # was ended while it waited for people
    dead: bool = False
    restless: bool = False  # goes on when its relay is asked to let it rest
    resting: bool = False  # ended, and its container goes on
    stubborn: bool = False  # ignores interrupts
    deaf: bool = False  # ignores SIGTERM too
    mute: bool = False  # takes a prompt without a word
    crashes: bool = False  # ends when it is given a prompt
    unready: Exception | None = None  # why it can be given none
    prepared: asyncio.Event = field(default_factory=_already)  # until then whoever wants to give it one waits
    answering: asyncio.Event = field(default_factory=_already)  # until then control requests wait for their reply
    refuses: bool = False  # has a newer owner
    acked: int = 0
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # control requests: subtype, fields
    replies: dict[str, dict[str, Any] | Exception] = field(default_factory=_replies)  # to requests, by subtype
    lost_at: int | None = None  # lines beyond it reach no agent any more
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def say(self, *events: AgentEvent) -> None:
        """One line of the journal."""
        self.journal.append(events)
        self.news.set()

    def take(self, prompt_id: str, text: str, context: Sequence[str], pictures: Sequence[Picture] = ()) -> None:
        self.prompts.append((prompt_id, text))
        self.pictures.append(tuple(pictures))
        self.contexts.append(tuple(context))
        if prompt_id == self.running or prompt_id in self.volume:
            return self.say(PromptTaken(prompt_id, "completed"))
        self.running = prompt_id
        self.volume.add(prompt_id)
        if self.crashes:
            return self.exit(134, "out of memory")
        if self.mute:
            return None
        self.say(PromptTaken(prompt_id, "started"))
        if forgets(text):
            self.claude_session_id += "-anew"
        self.say(AgentReady(self.claude_session_id, "scripted", "2.1"))
        if not text.startswith("HOLD"):
            self.answer(text)
        return None

    def answer(self, text: str) -> None:
        for half in (text[: len(text) // 2], text[len(text) // 2 :]):
            self.say(TextDelta(half))
        self.say(Text(text))
        self.end()

    def end(self, outcome: Any = "done", error: str | None = None, prompt_ids: tuple[str, ...] | None = None) -> None:
        prompt_id, self.running = self.running, None
        assert prompt_id is not None
        ids = (prompt_id,) if prompt_ids is None else prompt_ids
        self.say(TurnEnded(outcome, ids, Usage(10, 20), 0.5, error))

    def ask(self, tool: str, arguments: dict[str, Any], **more: Any) -> str:
        """Wants to use a tool that people must be asked about; the id of its request."""
        tool_id, request_id = f"tool-{next(_numbers)}", f"request-{next(_numbers)}"
        self.say(ToolStarted(tool_id, tool, arguments))
        self.say(Asked(request_id, tool, arguments, tool_id, **more))
        self.asks[request_id] = tool_id
        return request_id

    def hear(self, request_id: str, answer: dict[str, Any]) -> None:
        """An answer that nobody waits for is passed over, as the CLI does it."""
        if request_id in self.asks:
            tool_id = self.asks.pop(request_id)
            self.heard[request_id] = answer
            if answer["behavior"] == "allow":
                self.on_allowed()
            self.say(ToolFinished(tool_id, answer["behavior"] == "allow", answer.get("message", "")))

    def exit(self, code: int, stderr: str = "") -> None:
        self.say(AgentExited(code, stderr))
        self.dead = True

    def cut(self) -> None:
        """The container is killed and the connection with it: what is written from now on is found in its journal."""
        self.lost_at = len(self.journal)
        self.die()

    def refuse(self) -> None:
        """Another Flow owns the worklet now."""
        self.refuses = True
        self.news.set()

    def die(self, ending: str | None = None) -> None:
        """The container is killed."""
        self.dead, self.resting, self.ending = True, False, ending
        self.news.set()


class ScriptedAgent:
    def __init__(self, process: Process, after: int, host: ScriptedHost) -> None:
        self.process = process
        self.closed = False
        self.earlier: Sequence[Batch] = ()
        self.ending: str | None = None
        self.new_volume = False
        self.profile = host.profile
        self._after = after
        self._held = len(process.journal)
        self._host = host

    @property
    def epoch(self) -> str:
        return self.process.epoch

    @property
    def worklet_id(self) -> str:
        return f"container of {self.process.epoch}"

    @property
    def behind(self) -> bool:
        return self._after < self._held

    async def events(self) -> AsyncIterator[Batch]:
        process = self.process
        while True:
            while self._after < (len(process.journal) if process.lost_at is None else process.lost_at):
                self._after += 1
                batch = process.journal[self._after - 1]
                yield Position(process.epoch, self._after), batch
                if any(isinstance(event, AgentExited) for event in batch):
                    return
            if process.dead:
                raise AgentGone
            if process.refuses:
                raise Refused
            process.news.clear()
            await process.news.wait()

    async def forget_earlier(self) -> None:
        self.earlier = ()
        self._host.put_aside.pop(self.process.name, None)

    async def ready(self) -> None:
        await self.process.prepared.wait()
        if self.process.unready is not None:
            raise self.process.unready

    async def send(
        self, prompt_id: str, text: str, context: Sequence[str] = (), pictures: Sequence[Picture] = ()
    ) -> None:
        if self.process.dead:
            raise AgentGone
        self.process.take(prompt_id, text, context, pictures)

    async def interrupt(self, timeout: float = 10.0) -> None:
        if self.process.dead:
            raise AgentGone
        if self.process.running and not self.process.stubborn:
            for request_id in list(self.process.asks):
                self.process.asks.pop(request_id)
                self.process.say(AskWithdrawn(request_id))
            self.process.end("interrupted")

    async def request(self, subtype: str, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:
        if self.process.dead:
            raise AgentGone
        self.process.asked.append((subtype, fields))
        await self.process.answering.wait()
        reply = self.process.replies.get(subtype, {})
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def allow(
        self, request_id: str, tool_input: Mapping[str, Any] | None = None, mode: str | None = None
    ) -> None:
        self._hear(request_id, {"behavior": "allow", "input": tool_input, "mode": mode})

    async def deny(self, request_id: str, reason: str) -> None:
        self._hear(request_id, {"behavior": "deny", "message": reason})

    def _hear(self, request_id: str, answer: dict[str, Any]) -> None:
        if self.process.dead:
            raise AgentGone
        self.process.hear(request_id, answer)

    async def terminate(self) -> None:
        if self.process.dead:
            raise AgentGone
        if not self.process.deaf:
            self.process.exit(143)

    async def ack(self, position: Position) -> None:
        if position.epoch == self.process.epoch:
            self.process.acked = position.seq

    async def close(self) -> None:
        self.closed = True


class ScriptedHost:
    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}  # by worklet, the latest
        self.opened: list[dict[str, Any]] = []
        self.introduced: list[tuple[str, str, str]] = []
        self.granted: list[tuple[str, str, Any]] = []
        self.closed: list[str] = []
        self.rested: list[str] = []
        self.refusals: list[Exception] = []  # raised by the next opens, first one first
        self.gate = asyncio.Event()  # opens wait for it
        self.gate.set()
        self.on_start: Callable[[Process], None] = lambda process: None
        self.unavailable: Exception | None = None
        self.silent: set[str] = set()  # worklets whose relay does not answer
        self.said: dict[str, Answer] = {}  # by their relay, else
        self.profile = Profile()
        self.copied: list[tuple[str, str]] = []
        self.on_copy: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)  # what happens meanwhile
        self.on_rest: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)
        self.put_aside: dict[str, list[Process]] = {}  # whose last words were not stored yet, by worklet
        self.allowed: dict[str, float | None] = {}  # dollars that a worklet may still spend
        self.accounted: dict[str, tuple[str, float]] = {}  # the turn that this was told for, what it had cost
        self.stopped = set[str]()  # containers that ended by themselves
        self.used: dict[str, datetime] = {}  # when volumes were used last
        self.sweeps = 0
        self._volumes: dict[str, set[str]] = {}
        self.workspaces: dict[str, dict[str, bytes]] = {}  # path → content, by worklet

    async def open(self, name: str, **wanted: Any) -> ScriptedAgent:
        self.opened.append({"name": name, **wanted})
        await self.gate.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        position: Position | None = wanted["position"]
        process = self.processes.get(name)
        if process and not process.dead:
            known = position is not None and process.epoch == position.epoch
            agent = ScriptedAgent(process, position.seq if known and position else 0, self)
            agent.earlier = [] if known else self._earlier(name, position)
            return agent
        wanted["on_step"]("waking" if wanted["has_history"] else "starting")
        new_volume = name not in self._volumes
        volume = self._volumes.setdefault(name, set())
        if process:
            self.put_aside.setdefault(name, []).append(process)
        ending = process.ending if process else None
        process = Process(name, volume, wanted["claude_session_id"], wanted["has_history"])
        self.processes[name] = process
        self.on_start(process)
        agent = ScriptedAgent(process, 0, self)
        agent.earlier, agent.new_volume, agent.ending = self._earlier(name, position), new_volume, ending
        return agent

    def _earlier(self, name: str, position: Position | None) -> list[Batch]:
        """What lost processes had still written after the position."""
        found: list[Batch] = []
        for process in self.put_aside.get(name, []):
            known = position is not None and process.epoch == position.epoch
            after = position.seq if position and known else 0
            lines = [(Position(process.epoch, n), batch) for n, batch in enumerate(process.journal, 1) if n > after]
            found = lines if known else found + lines
        return found

    async def close(self, name: str, grace: float = 5.0) -> str | None:
        self.closed.append(name)
        self.stopped.discard(name)
        if self.unavailable:
            raise self.unavailable
        process = self.processes.get(name)
        if process is None:
            return None
        ending = process.ending
        process.slept = process.slept or (not process.dead and bool(process.asks))
        process.die(ending)
        return ending

    async def rest(self, name: str, fence: int) -> bool:
        assert fence
        self.rested.append(name)
        await self.on_rest()
        process = self.processes[name]
        if not process.dead and not process.restless:
            process.exit(143)
            process.resting = True
        return process.resting

    async def allow_spending(self, name: str, dollars: float | None, spent: float = 0.0, of: str = "") -> None:
        self.allowed[name] = dollars
        self.accounted[name] = (of, spent)

    async def copy(self, source: str, name: str) -> None:
        if self.unavailable:
            raise self.unavailable
        self.copied.append((source, name))
        await self.on_copy()
        self._volumes.setdefault(name, set(self._volumes[source]))

    async def introduce(self, name: str, author: str, email: str) -> None:
        self.introduced.append((name, author, email))

    async def grant(self, name: str, subject: str, grant: Any) -> None:
        self.granted.append((name, subject, grant))

    async def taken(self, name: str, paths: Sequence[str]) -> set[str]:
        return set(paths) & set(self.workspaces.get(name, {}))

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        workspace = self.workspaces.setdefault(name, {})
        for path, source in files.items():
            workspace[path] = source.read_bytes()

    async def destroy(self, name: str) -> None:
        await self.close(name)
        self._volumes.pop(name, None)
        self.workspaces.pop(name, None)

    async def answers(self, name: str, seconds: float = 10.0) -> Answer:
        return self.said.get(name, Answer.SILENT if name in self.silent else Answer.PROVEN)

    async def standing(self) -> Mapping[str, Worklet]:
        stopped = {name: Worklet(name, "a container that ended", Path("/run"), running=False) for name in self.stopped}
        return {**stopped, **await self.running()}

    async def kept(self) -> Mapping[str, datetime | None]:
        return {name: self.used.get(name) for name in self._volumes}

    async def sweep(self) -> None:
        self.sweeps += 1

    async def running(self) -> Mapping[str, Worklet]:
        if self.unavailable:
            raise self.unavailable
        return {
            name: Worklet(name, f"container of {process.epoch}", Path("/run"), running=True)
            for name, process in self.processes.items()
            if not process.dead or process.resting
        }
