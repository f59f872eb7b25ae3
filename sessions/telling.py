"""What observers are told of turns, and which turns this process shows.

A turn is told from Queued to Settled once. Whoever holds a session tells its turns: a process that takes one over
tells what is stored first, one that loses it tells Released and nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from config.logging import get_logger
from sessions.asks import Ask, AskId, AskState, ask_id
from sessions.events import AskClosed, AskOpened, LifeEvent, Observer, Queued, Released, Settled, Started
from sessions.lookup import Waiting
from sessions.store import Store
from sessions.transcript import Transcript
from sessions.types import Session, SessionId, Turn, TurnId, outcome_of
from worklets.events import AgentEvent, Asked

log = get_logger(__name__)

_REMEMBERED = 1_000  # turns: more than can be shown while the table is read


@dataclass(slots=True)
class _Told:
    session: Session
    turn: Turn
    settled: bool = False
    asks: dict[AskId, Ask] = field(default_factory=dict)  # as they were told last


class Telling:
    def __init__(self, store: Store, transcript: Transcript) -> None:
        self._store = store
        self._transcript = transcript
        self._observers: list[Observer] = []
        self._told: dict[SessionId, dict[TurnId, _Told]] = {}  # announced and not delivered
        self._read: set[SessionId] = set()  # what the table knew of them is told
        self._catching: dict[SessionId, asyncio.Lock] = {}
        self._missed: set[SessionId] = set()  # got a turn while their table was being read, or before
        self._delivered: dict[TurnId, int] = {}  # the newest, numbered: what was read of the table may be older
        self._deliveries = 0

    def observe(self, observer: Observer) -> None:
        self._observers.append(observer)

    def shows(self, session_id: SessionId) -> bool:
        """There are turns that were announced here and are not delivered yet."""
        return session_id in self._told

    def stored(self, session: Session, turn: Turn, ahead: int, *, new_session: bool) -> None:
        """A turn came in. Announced now; but by `catch_up` where the session may have older ones that are not told."""
        if new_session:
            self._read.add(session.id)
        if session.id in self._read:
            self.announce(session, turn, ahead)
        else:
            self._missed.add(session.id)

    def announce(self, session: Session, turn: Turn, ahead: int, *, read: int = 0) -> bool:
        """Queued, unless it was told. The first word about every turn.

        `read`: how many turns had been delivered when the table was read, and did not call this one delivered. One that
        had been is to be shown again.
        """
        if self._delivered.get(turn.id, 0) > read or turn.id in self._told.get(session.id, {}):
            return False
        self._told.setdefault(session.id, {})[turn.id] = _Told(session, turn)
        self._pass_on(session, turn, Queued(ahead))
        return True

    def tell(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        """Drops what comes after the end, and what is about a turn that is not shown here."""
        told = self._told.get(session.id, {}).get(turn.id)
        if told is None or told.settled:
            return
        told.session, told.turn, told.settled = session, turn, isinstance(event, Settled)
        self._pass_on(session, turn, event)

    def ask(self, ask: Ask) -> None:
        """AskOpened and AskClosed, each once for each time it is asked; nothing of a turn that is not shown here."""
        told = self._told.get(ask.session_id, {}).get(ask.turn_id)
        if told is None or told.settled or ask.is_silent:
            return
        known = told.asks.get(ask.id)
        if known is None or known.asked_at < ask.asked_at:
            known = told.asks[ask.id] = _as_asked(ask)
            self.tell(told.session, told.turn, AskOpened(known))
        if known.is_open and known.asked_at == ask.asked_at and not ask.is_open:
            told.asks[ask.id] = ask
            self.tell(told.session, told.turn, AskClosed(ask))

    def settled(self, turn: Turn) -> None:
        """The table has the turn's end, and no runner tells it."""
        told, outcome = self._told.get(turn.session_id, {}).get(turn.id), outcome_of(turn)
        if told is not None and outcome is not None:
            self.tell(told.session, turn, Settled(outcome, turn.seconds))

    def delivered(self, session_id: SessionId, turn_id: TurnId) -> None:
        self._deliveries += 1
        self._delivered[turn_id] = self._deliveries
        if len(self._delivered) > _REMEMBERED:
            del self._delivered[next(iter(self._delivered))]
        told = self._told.get(session_id, {})
        told.pop(turn_id, None)
        if not told:
            self._told.pop(session_id, None)

    def ended(self, session_id: SessionId) -> None:
        """Nobody runs it here: whoever does so next reads the table first."""
        self._read.discard(session_id)
        self._missed.discard(session_id)
        lock = self._catching.get(session_id)
        if lock is not None and not lock.locked():
            del self._catching[session_id]

    def release(self, session_id: SessionId) -> None:
        """The session is another's now."""
        self.ended(session_id)
        for told in self._told.pop(session_id, {}).values():
            self._pass_on(told.session, told.turn, Released())

    def _release_turns(self, session_id: SessionId, turn_ids: Collection[TurnId]) -> None:
        """Turns that were announced here, and that another process has shown to the end meanwhile."""
        told = self._told.get(session_id, {})
        for turn_id in turn_ids:
            one = told.get(turn_id)
            if one is not None and not one.settled:  # else its end was told just now, and its delivery is under way
                del told[turn_id]
                self._pass_on(one.session, one.turn, Released())
        if not told:
            self._told.pop(session_id, None)

    async def catch_up(self, session_id: SessionId, mine: Callable[[], bool] = lambda: True) -> None:
        """Tells what the table knows and observers do not: turns that are new here, and ends that others set.

        One at a time for a session: a second one would tell the end of a turn whose beginning is still being told.
        """
        lock = self._catching.setdefault(session_id, asyncio.Lock())
        async with lock:
            await self._catch_up(session_id, mine)

    async def _catch_up(self, session_id: SessionId, mine: Callable[[], bool]) -> None:
        while True:
            self._missed.discard(session_id)
            read = self._deliveries
            told = [turn_id for turn_id, one in self._told.get(session_id, {}).items() if not one.settled]
            found = await self._store.undelivered(session_id)
            if not mine():
                return
            self._release_turns(session_id, {*told} - {waiting.turn.id for waiting in found})
            for waiting in found:
                if not mine():
                    return
                if self.announce(waiting.session, waiting.turn, waiting.ahead, read=read):
                    await self._replay(waiting)
                    continue
                await self._tell_asks(waiting.turn)
                if outcome := outcome_of(waiting.turn):
                    self.tell(waiting.session, waiting.turn, Settled(outcome, waiting.turn.seconds))
            if session_id not in self._missed:
                break
        self._read.add(session_id)

    async def _replay(self, waiting: Waiting) -> None:
        session, turn = waiting.session, waiting.turn
        if turn.started_at is not None:
            self.tell(session, turn, Started())
            await self._replay_events(session, turn)
        await self._tell_asks(turn)  # what Flow itself asked; or what has its event still to come
        if outcome := outcome_of(turn):
            self.tell(session, turn, Settled(outcome, turn.seconds))

    async def _tell_asks(self, turn: Turn) -> None:
        """What another process, or nobody yet, has told of them."""
        for stored in await self._store.asks.of_turn(turn.id):
            self.ask(stored.ask)

    async def _replay_events(self, session: Session, turn: Turn) -> None:
        """Only of a turn that had started when it was read: what it says from then on is told as it comes."""
        cursor = 0
        while entries := await self._transcript.read(session.id, turn_id=turn.id, after=cursor):
            # Read after the events: an ask whose event is there is there too, as it is stored first.
            asks = {stored.ask.id: stored.ask for stored in await self._store.asks.of_turn(turn.id)}
            own = [ask for ask in asks.values() if ask.is_own]
            for entry in entries:
                for ask in own:
                    if ask.asked_at <= entry.created_at:
                        self.ask(ask)
                self.tell(session, turn, entry.event)
                if isinstance(entry.event, Asked) and (asked := asks.get(ask_id(session.id, entry.event.tool_id))):
                    self.ask(asked)
            cursor = entries[-1].cursor

    def _pass_on(self, session: Session, turn: Turn, event: LifeEvent | AgentEvent) -> None:
        for observer in self._observers:
            try:
                observer(session, turn, event)
            except Exception:
                log.exception("an observer failed", observer=repr(observer), session=session.id, turn=turn.id)


def _as_asked(ask: Ask) -> Ask:
    return replace(ask, state=AskState.OPEN, decided_by=None, decided_at=None, decision=None)
