"""One run of the program, from its start to its end or its death, and what it reaches of the world outside."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lockstep import FaultyDatabase, Power
from scripted import ScriptedAgent

from sessions.events import AskClosed, AskOpened, Preparing, Queued, Settled, Started, Stopping, WaitingForPlace
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.store import Store
from sessions.types import Cut, Done, Turn, TurnId, Withdrawn

if TYPE_CHECKING:
    from statefulworld import World

TIMEOUT = timedelta(minutes=30)


class Program:
    """One run of it, from its start to its end or its death."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.power = Power()
        self.db = FaultyDatabase(world.disk.path, self.power)
        self.store = Store(self.db, world.clock)
        self.host = Reach(world, self)
        self.sessions = Sessions(self.store, self.host, max_sessions=world.max_sessions)
        self.reaper = Reaper(self.sessions, self.store, self.host, session_timeout=TIMEOUT, clock=world.clock)
        self.sessions.observe(self.observe)
        self.told: dict[TurnId, list[Any]] = defaultdict(list)
        self.delivered: set[TurnId] = set()
        self.sent: Counter[tuple[str, str]] = Counter()  # by process and prompt
        self.attached: dict[str, AgentReach] = {}
        self.ready = False

    async def start(self) -> None:
        await self.sessions.__aenter__()
        await self.reaper.recover()
        self.ready = True

    async def end(self, grace: float) -> None:
        await self.reaper.close()
        await self.sessions.drain(grace)
        await self.sessions.__aexit__(None, None, None)
        await self.db.close()
        self.power.off = True

    async def deliver(self, turn_id: TurnId) -> None:
        await self.sessions.delivered(turn_id)
        self.delivered.add(turn_id)

    def observe(self, _session: Any, turn: Turn, event: Any) -> None:
        if not self.power.off:
            before = self.told[turn.id]
            if wrong := _out_of_order(before, event):
                self.world.laws.broke(f"{wrong}: {event} after {before} of {self.world.name(turn.id)}")
            if isinstance(event, Settled):
                self.world.settled(turn.id, event.outcome)
            before.append(event)


def _out_of_order(before: list[Any], event: Any) -> str | None:
    if any(isinstance(earlier, Settled) for earlier in before):
        return "told after the end"
    if isinstance(event, (AskOpened, AskClosed, Settled)) and (wrong := _wrong_about_asks(before, event)):
        return wrong
    if isinstance(event, Queued):
        return "told again that it is queued" if before else None
    if not before:
        return "told before it was said to be queued"
    started = any(isinstance(earlier, Started) for earlier in before)
    if isinstance(event, Started):
        return "told again that it started" if started else None
    if isinstance(event, (Preparing, WaitingForPlace, Stopping)):
        return None
    if isinstance(event, Settled):
        begun = started or not isinstance(event.outcome, (Done, Cut))
        return None if begun and not (started and isinstance(event.outcome, Withdrawn)) else "not such an end"
    return None if started else "told before it started"


def _wrong_about_asks(before: list[Any], event: Any) -> str | None:
    opened = [earlier.ask.id for earlier in before if isinstance(earlier, AskOpened)]
    closed = [earlier.ask.id for earlier in before if isinstance(earlier, AskClosed)]
    if isinstance(event, Settled):
        return None if sorted(opened) == sorted(closed) else "ended while people are asked"
    if isinstance(event, AskOpened):
        return "asked twice" if event.ask.id in opened else None
    return "closed and not open" if event.ask.id not in opened or event.ask.id in closed else None


class AgentReach:
    """An agent, as one run of the program reaches it."""

    def __init__(self, agent: ScriptedAgent, program: Program) -> None:
        self._agent, self._program = agent, program
        self.closed = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._agent, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **named: Any) -> Any:
            await self._program.power.on()
            return await found(*args, **named)

        return call

    async def events(self) -> Any:
        async for batch in self._agent.events():
            await self._program.power.on()
            yield batch

    async def send(self, prompt_id: str, text: str, context: Sequence[str] = (), pictures: Sequence[Any] = ()) -> None:
        await self._program.power.on()
        self._program.world.sent(self._program, self._agent.process, prompt_id, text, context)
        await self._agent.send(prompt_id, text, context, pictures)

    async def close(self) -> None:
        await self._program.power.on()
        self.closed = True
        await self._agent.close()


class Reach:
    """The host, as one run of the program reaches it."""

    def __init__(self, world: World, program: Program) -> None:
        self._world, self._program = world, program

    async def open(self, name: str, **wanted: Any) -> AgentReach:
        await self._program.power.on()
        await self._world.gate.wait()
        await self._program.power.on()
        attached = self._program.attached.get(name)
        self._world.laws.expect(attached is None or attached.closed, f"two agents at once for {name}")
        agent = AgentReach(await self._world.host.open(name, **wanted), self._program)
        self._program.attached[name] = agent
        return agent

    async def close(self, name: str, *rest: Any) -> Any:
        await self._program.power.on()
        return await self._world.host.close(name, *rest)

    async def destroy(self, name: str) -> None:
        await self._program.power.on()
        await self._world.host.destroy(name)

    def __getattr__(self, name: str) -> Any:
        """Whatever else a host can do: by a program that runs."""

        async def call(*args: Any, **named: Any) -> Any:
            await self._program.power.on()
            return await getattr(self._world.host, name)(*args, **named)

        return call
