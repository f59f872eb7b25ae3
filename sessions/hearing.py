"""What Claude's process says while a turn runs, as far as it is about that turn."""

from __future__ import annotations

from collections.abc import Callable

from sessions import loss
from sessions.inbox import Batch
from sessions.link import Link
from sessions.purse import Purse
from sessions.shared import Patience
from sessions.turnasks import TurnAsks
from sessions.turnend import TurnEnd
from sessions.types import Failed, TurnId
from worklets.events import AgentEvent, AgentExited, AgentReady, DiskFull, PromptTaken, Spent, TurnEnded

_DROPPED = "Claude did not take this message in. Send it again, worded differently."
_STOPPED_SECONDS = 0.5  # for the result of a prompt that the CLI calls cancelled: it comes first, or not at all


class Hearing:
    """Of one turn, over all the processes that work on it."""

    def __init__(
        self,
        patience: Patience,
        link: Link,
        turn_id: TurnId,
        asks: TurnAsks,
        purse: Purse,
        end: TurnEnd,
        tell: Callable[[AgentEvent], None],
    ) -> None:
        self.taken = False  # this process has begun with it
        self.ending: str | None = None  # why the last process was lost
        self._epoch = ""  # of the process that is being heard
        self._patience = patience
        self._link = link
        self._turn_id = turn_id
        self._asks = asks
        self._purse = purse
        self._end = end
        self._tell = tell

    async def take(self, batch: Batch, *, started: bool, given: bool) -> AgentExited | None:
        """Stores and tells what is said, and notes its outcome if it ends the turn. Returns the process's own end.

        `started`: somebody was given the prompt. `given`: this process was, by us, before a restart.
        """
        before = self._link.is_from_before(batch[0])
        owner = (lambda event: self._owner_before(event, started)) if before else self._owner
        self._epoch = batch[0].epoch
        exited: AgentExited | None = None
        for event in await self._link.take(batch, owner, self._asks.store):
            if owner(event) is None:
                continue
            self._tell(event)
            if before and isinstance(event, DiskFull):
                self.ending = loss.disk_clause(event)
            if isinstance(event, TurnEnded):
                self._end.outcome = self._end.outcome_of(event)
            elif isinstance(event, AgentExited):
                exited = event
            elif not before:
                self._note(event, given)
                await self._asks.note(event)
        return exited

    def _note(self, event: AgentEvent, given: bool) -> None:
        match event:
            case Spent():
                self._purse.spent()
            case DiskFull():
                self._end.exceed(loss.disk_full(event))
            case AgentReady() | PromptTaken(_, "started"):
                self.taken = True
            case PromptTaken(prompt_id, "cancelled" | "discarded" | "refused") if self._is_mine(prompt_id):
                if self._end.asked:
                    self._end.set_deadline(min(_STOPPED_SECONDS, self._patience.verdict), self._end.of_stopped())
                elif not self._end.has_deadline:
                    self._end.set_deadline(self._patience.verdict, Failed(_DROPPED))
            case PromptTaken(prompt_id, "completed") if self._is_mine(prompt_id):
                # A process that has not begun with it and does not mean to: it thinks that it knows the prompt.
                if not self.taken and not given and not self._end.has_deadline:
                    self._end.set_deadline(self._patience.verdict, Failed(_DROPPED))

    def _is_mine(self, prompt_id: str) -> bool:
        return prompt_id == self._turn_id or prompt_id == loss.again_id(self._turn_id, self._epoch)

    def _owner(self, event: AgentEvent) -> TurnId | None:
        """This turn; None for the end of another, which the agent began unasked (a background task had finished)."""
        if not isinstance(event, TurnEnded) or any(self._is_mine(prompt_id) for prompt_id in event.prompt_ids):
            return self._turn_id
        # An interrupt may hit before the CLI has noted whose turn it is.
        return self._turn_id if self._end.asked and not event.prompt_ids else None

    def _owner_before(self, event: AgentEvent, started: bool) -> TurnId | None:
        """Of what a lost process said last. Its exit is no news: this is why there is a new one."""
        return self._owner(event) if started and not isinstance(event, AgentExited) else None
