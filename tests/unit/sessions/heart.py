"""One run of the program in a test: a scripted host, and a record of what observers were told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scripted import Process, ScriptedHost
from waiting import until

from sessions.db import Database
from sessions.events import Settled
from sessions.loss import again_id
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.shared import Patience
from sessions.types import Outcome, Prompt, Session, SessionState, Submitted, ThreadId, Turn, TurnId

THREAD = ThreadId("T1", "C1", "1700000000.000100")


@dataclass
class Heart:
    """One run of the program."""

    db: Database
    host: ScriptedHost
    sessions: Sessions
    reaper: Reaper
    told: list[tuple[Session, Turn, Any]] = field(default_factory=list)
    asked: int = 0

    async def ask(self, text: str, thread: str | ThreadId = THREAD, ts: str | None = None, **changes: Any) -> Submitted:
        submitted = await self.try_to_ask(text, thread, ts, **changes)
        assert submitted is not None
        return submitted

    async def try_to_ask(
        self, text: str, thread: str | ThreadId = THREAD, ts: str | None = None, **changes: Any
    ) -> Submitted | None:
        self.asked += 1
        ts = ts or f"17000001{self.asked:02}.000000"
        if isinstance(thread, str):
            thread = ThreadId("T1", "C1", thread)
        values = {"thread": thread, "source_id": f"C1:{ts}:{id(self)}", "ts": ts, "user_id": "U1", "text": text}
        return await self.sessions.submit(Prompt(**{**values, **changes}))

    def events(self, turn_id: TurnId) -> list[Any]:
        return [event for _, turn, event in self.told if turn.id == turn_id]

    def kinds(self, turn_id: TurnId) -> list[str]:
        return [type(event).__name__ for event in self.events(turn_id)]

    def outcomes(self, turn_id: TurnId) -> list[Outcome]:
        return [event.outcome for event in self.events(turn_id) if isinstance(event, Settled)]

    async def settled(self, turn: Submitted | TurnId, timeout: float = 60) -> Outcome:
        turn_id = turn.turn.id if isinstance(turn, Submitted) else turn
        found = await until(
            lambda: self.outcomes(turn_id), timeout, f"the end of turn {turn_id}: {self.events(turn_id)}"
        )
        assert len(found) == 1
        return found[0]

    async def process(self, submitted: Submitted) -> Process:
        """The process that works on the turn."""

        def found() -> Process | None:
            process = self.host.processes.get(submitted.session.worklet)
            if process is None or process.dead:
                return None
            turn_id = submitted.turn.id
            return process if process.running in (turn_id, again_id(turn_id, process.epoch)) else None

        return await until(found, 60, "the prompt to arrive")

    async def in_state(self, submitted: Submitted, state: SessionState) -> Session:
        async def reached() -> Session | None:
            session = await self.sessions.get(submitted.session.id)
            return session if session.state is state else None

        return await until(reached, 60, f"state {state}")


QUICK = Patience(interrupt=0.2, terminate=0.2, verdict=0.2, again=(0.01, 0.02), store=0.05)

Start = Callable[..., Any]
