"""What people write, as turns in the table: a prompt stored, edited, taken back, put first, begun again."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from config.logging import get_logger
from sessions.controls import at_least
from sessions.edits import Edited
from sessions.halting import Halting
from sessions.livetasks import LiveTasks
from sessions.options import Options
from sessions.policy import Policy
from sessions.store import Store
from sessions.telling import Telling
from sessions.types import Attached, Prompt, Session, Submitted, Turn, TurnId, TurnState

log = get_logger(__name__)

_CONTINUE = (
    "Your work on the last message was cut off: the process was lost while a tool ran. Look at what took effect and "
    "what did not, then go on from there. Do not repeat what is done, nor what you have written already."
)


class Prompts:
    """`owner` names this process in leases. `Sessions` says what the methods promise."""

    def __init__(
        self,
        store: Store,
        options: Options,
        policy: Policy,
        telling: Telling,
        tasks: LiveTasks,
        halting: Halting,
        *,
        owner: str,
    ) -> None:
        self._store = store
        self._options = options
        self._policy = policy
        self._telling = telling
        self._tasks = tasks
        self._halting = halting
        self._owner = owner

    async def submit(self, prompt: Prompt) -> Submitted | None:
        stored = await self._store.submit(self._preferred(prompt), self._look)
        if stored is None:
            return None
        submitted = stored.submitted
        if submitted.fresh:
            session, turn = submitted.session, submitted.turn
            log.info("turn stored", session=session.id, turn=turn.id, ahead=stored.ahead)
            if stored.holder in (None, self._owner):
                self._telling.stored(session, turn, stored.ahead, new_session=submitted.new_session)
                self._tasks.ring_here(session.id)
            else:
                await self._tasks.ring_elsewhere(session.id)
        elif submitted.turn.state is TurnState.QUEUED:
            # Whoever stored it may have heard that it could not be, and have rung and told nobody.
            if stored.holder in (None, self._owner):
                self._tasks.ring(submitted.session.id)
            else:
                await self._tasks.ring_elsewhere(submitted.session.id)
        return submitted

    def _preferred(self, prompt: Prompt) -> Prompt:
        """With the model and the mode that the channel or the person prefers for what is started.

        Not with a mode in which Claude would ask less than the settings want.
        """
        channel, user, mode = prompt.thread.channel, prompt.user_id, prompt.mode
        if mode is None:
            preferred = self._options.get("mode", channel=channel, user=user)
            mode = preferred if preferred in at_least(self._policy.mode) else None
        model = prompt.model or self._options.get("model", channel=channel, user=user)
        return replace(prompt, model=model, mode=mode)

    def _look(self, session: Session, user_id: str) -> tuple[str, bool]:
        return self._options.level(session, user_id).value, self._options.mention(session, user_id)

    async def amend(self, team: str, channel: str, source_id: str, edited: Edited) -> Turn | None:
        now = self._store.clock()
        turn = await self._store.edits.amend(team, channel, source_id, edited, by=None, now=now)
        if turn is not None and turn.state.settled:
            await self._halting.settled_elsewhere(turn)
        return turn

    async def withdraw(self, turn_id: TurnId, by: str) -> bool:
        turn = await self._store.edits.withdraw(turn_id, by, self._store.clock())
        if turn is not None:
            await self._halting.settled_elsewhere(turn)
        return turn is not None

    async def hurry(self, turn_id: TurnId, by: str) -> bool:
        turn = await self._store.edits.hurry(turn_id)
        if turn is None:
            return False
        running = await self._store.next_turn(turn.session_id)
        # It may have begun in this moment, and is not to be interrupted for its own sake.
        if running is not None and running.id != turn.id and running.started_at is not None:
            await self._halting.interrupt(turn.session_id, by, only=running.id)
        await self._tasks.ring_all(turn.session_id)
        return True

    async def resume(self, turn_id: TurnId, by: str, how: Literal["continue", "again"], ts: str) -> Submitted | None:
        turn = await self._store.turn(turn_id)
        if turn.state is not TurnState.CUT:
            return None
        session = await self._store.get(turn.session_id)
        text, files = _CONTINUE, tuple[Attached, ...]()
        if how == "again":
            text, files = turn.text, await self._store.files.attached(turn.id)
        prompt = Prompt(session.thread, _resumes(turn), ts, by, text, starts=False, files=files)
        return await self.submit(prompt)

    async def resumed(self, turn: Turn) -> Turn | None:
        turns = await self._store.turns(turn.session_id)
        return next((one for one in turns if one.source_id == _resumes(turn)), None)


def _resumes(turn: Turn) -> str:
    return f"resume:{turn.id}"
