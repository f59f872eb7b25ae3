"""How one turn ends: its outcome, and until there is one what is to end it: people, a limit, a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sessions.agents import AgentLike
from sessions.events import Stopping
from sessions.inbox import Inbox
from sessions.shared import Patience
from sessions.stopping import Escalation, Stopped
from sessions.types import Done, Failed, Interrupted, Outcome
from worklets.events import TurnEnded


class TurnEnd:
    """`tell` is told once that the turn is to stop; `inbox` is rung then, for whoever follows it."""

    def __init__(self, patience: Patience, inbox: Inbox, tell: Callable[[Stopping], None]) -> None:
        self.outcome: Outcome | None = None
        self.stopped = asyncio.Event()
        self._patience = patience
        self._inbox = inbox
        self._tell = tell
        self._stop: Interrupted | None = None
        self._over: Failed | None = None  # it went beyond a limit, and was stopped for that
        self._escalation: Escalation | None = None
        self._deadline: tuple[float, Outcome | None] | None = None  # loop time; the outcome then, None: escalate

    # -- who ends it ---------------------------------------------------------

    @property
    def asked(self) -> bool:
        """It is to stop."""
        return self._stop is not None

    def interrupt(self, by: str | None) -> None:
        """Idempotent: the first one counts."""
        if self._stop is None:
            self._stop = Interrupted(by)
            self._tell(Stopping(by))
            self.stopped.set()
            self._inbox.ring()

    def exceed(self, over: Failed) -> None:
        """It went beyond a limit."""
        if self._over is None and self._stop is None:
            self._over = over
            self.interrupt(None)

    def of_stopped(self) -> Outcome:
        """What a turn that was asked to stop ends with, where its process does not say."""
        assert self._stop is not None
        return self._over or self._stop

    def outcome_of(self, ended: TurnEnded) -> Outcome:
        """What it means that the process ended the turn so."""
        match ended.outcome:
            case "done":
                return Done()
            case "failed":
                return self._over or Failed(ended.error or "Claude could not finish. Write again to go on.")
            case "interrupted":
                return self._over or self._stop or Interrupted()

    # -- when it ends by itself ---------------------------------------------------------

    @property
    def has_deadline(self) -> bool:
        return self._deadline is not None

    def set_deadline(self, seconds: float, outcome: Outcome | None) -> None:
        """`outcome` is the turn's unless it ends within so many seconds; None: then it is told so harder."""
        self._deadline = asyncio.get_running_loop().time() + seconds, outcome

    def forget_deadline(self) -> None:
        self._deadline = None

    def time_left(self) -> float | None:
        """Seconds until the deadline; None: there is none."""
        return max(0.0, self._deadline[0] - asyncio.get_running_loop().time()) if self._deadline else None

    def time_is_up(self) -> None:
        """The deadline has come. Raises Stopped when no step is left that could end the turn."""
        assert self._deadline is not None
        if self._deadline[1] is not None:
            self.outcome = self._deadline[1]
        else:
            self._next_step()

    # -- how hard it is ended ---------------------------------------------------------

    @property
    def escalating(self) -> bool:
        return self._escalation is not None

    def escalate(self, agent: AgentLike) -> None:
        """Asks the process to end the turn; the deadline is that of the next step."""
        self._escalation = Escalation(agent, self._patience)
        self._next_step()

    def _next_step(self) -> None:
        assert self._escalation is not None
        seconds = self._escalation.next()
        if seconds is None:
            raise Stopped
        self.set_deadline(seconds, None)

    async def close(self) -> None:
        if self._escalation is not None:
            await self._escalation.close()
