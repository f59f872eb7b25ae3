"""The part of `Sessions` about what people set and ask without a turn: the model, Claude's process, forks."""

from __future__ import annotations

from typing import Any

from config.logging import get_logger
from sessions.agents import AgentHost
from sessions.controls import Controls
from sessions.errors import SessionBusy
from sessions.livetasks import LiveTasks
from sessions.store import Store
from sessions.types import Session, SessionId, TurnId
from worklets.errors import AgentGone, AgentRefused

log = get_logger(__name__)


class Steering:
    """Mixed into `Sessions`, which has the attributes."""

    store: Store
    controls: Controls
    _host: AgentHost
    _tasks: LiveTasks

    async def ask_agent(self, session_id: SessionId, subtype: str, **fields: Any) -> dict[str, Any] | None:
        """A control request to Claude's process, also while it works. None: the session has none in this program.

        Raises AgentGone, AgentRefused, TimeoutError.
        """
        live = self._tasks.get(session_id)
        return await live.ask(subtype, fields) if live is not None else None

    async def choose_model(self, session_id: SessionId, model: str) -> Session:
        """From now on, in the middle of a turn too; at the next prompt where another process runs the session.

        Raises AgentRefused (nothing is changed then), SessionNotFound, StoreUnavailable.
        """
        try:
            if live := self._tasks.get(session_id):
                await live.choose_model(model)
        except AgentGone as error:
            log.info("the model is set with the next prompt", session=session_id, why=repr(error))
        session = await self.controls.configure(session_id, model=model)
        if live := self._tasks.get(session_id):
            live.configured(session)
            try:
                await live.choose_model()  # a process that has begun meanwhile was told the model of before
            except (AgentGone, AgentRefused) as error:
                log.info("the model is set with the next prompt", session=session_id, why=repr(error))
        return session

    async def fork(self, session_id: SessionId, source_id: str, by: str) -> Session:
        """A session of its own that goes on from here, on a copy of the workspace. It has no thread: see `opened`.

        The same again for the same `source_id`. Raises SessionBusy, WorkletError, SessionNotFound, StoreUnavailable.
        """
        origin, before = await self.store.get(session_id), await self._at_rest(session_id)
        forked = await self.controls.fork(origin, source_id, by)
        if forked.thread.thread_ts is None and origin.has_history and origin.retired_at is None:
            await self._host.copy(origin.worklet, forked.worklet)
            try:
                if await self._at_rest(session_id) != before:
                    raise SessionBusy
            except SessionBusy:  # the copy may be of files that were half written
                if await self.controls.discard(forked.id):
                    await self._host.destroy(forked.worklet)
                raise
        return forked

    async def _at_rest(self, session_id: SessionId) -> list[TurnId]:
        """The turns so far, none of which is open. Raises SessionBusy."""
        turns = await self.store.turns(session_id)
        if any(not turn.state.settled for turn in turns):
            raise SessionBusy
        return [turn.id for turn in turns]
