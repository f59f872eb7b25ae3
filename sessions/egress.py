"""What sessions' worklets may reach outside by people's word: asked in the thread, kept, and told to the gateway.

What the gateway is told is always put together anew, of the tables and of whether a turn runs, so it does not matter
how often or in which order: at a door's opening, at a turn's begin and end, when something is decided or taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakValueDictionary

from config.logging import get_logger
from sessions.asks import AskKind, Decision
from sessions.askstore import AskStore
from sessions.db import Database
from sessions.egressstore import EgressStore, StoredGrant, Working, asked_place
from sessions.errors import SessionNotFound, StoreUnavailable
from sessions.events import AskClosed, LifeEvent, Settled, Started
from sessions.manager import Sessions
from sessions.types import Session, SessionId, Turn
from worklets.egressgrants import SUBJECT, Place, named
from worklets.errors import WorkletError
from worklets.events import AgentEvent
from worklets.profile import Origin, Profile

log = get_logger(__name__)

_FOLLOW = 10.0  # seconds between two looks at what other Flows have changed
_PAUSE = 1.0  # seconds between two tries on a database that does not serve

#: Tells the gateway what the worklet of that name may reach from now on. Raises WorkletError.
Grant = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]


class Doors(Protocol):
    """The gateway's doors, those too that an earlier run of the program opened. See `worklets.gatewayclient`."""

    def grants(self) -> Mapping[str, Mapping[str, Any]]:
        """What is granted at each, by subject, as far as it is known here."""

    async def look(self) -> None:
        """Learns which doors there are by now, and what others have granted at theirs. Raises WorkletError."""

    async def regrant(self, name: str, subject: str, value: Mapping[str, Any], was: Mapping[str, Any] | None) -> None:
        """Tells the gateway what that worklet may have of the subject from now on, if it still may what it `was`.

        Raises OSError, WorkletError.
        """


class Grants:
    """The part of worklets' profiles about people's grants. There before sessions are.

    `asked`: people may be asked for hosts; else nothing is granted by them, whatever they said before.
    """

    def __init__(self, database: Database, *, asked: bool) -> None:
        self.asked = asked
        self._asks, self._grants = AskStore(database), EgressStore(database)
        self._given: dict[str, Mapping[str, Any]] = {}  # by others, for the worklet: what tightens
        self.sessions: dict[str, SessionId] = {}  # of the worklets whose doors were opened here

    async def part(self, name: str, origin: Origin, profile: Profile) -> Profile:
        """See `bot.profiles.Part`; the last one. A worklet runs for a turn, so there is somebody to ask."""
        session_id = self.sessions[name] = SessionId(origin.session_id)
        self._given[name] = profile.grants.get(SUBJECT) or {}
        if not self.asked:
            return profile
        return replace(profile, grants={**profile.grants, SUBJECT: await self.of(name, session_id, asks=True)})

    async def ended(self, name: str, _origin: Origin) -> None:
        """See `bot.profiles.Ending`."""
        self._given.pop(name, None)
        self.sessions.pop(name, None)

    async def of(
        self, name: str, session_id: SessionId, *, asks: bool, given: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The worklet's grant, as `worklets.egressgrants` has it. Waits until the database serves.

        What was refused in the session goes before what its channel allows. `given`: what others say of it; None: as
        its profile has it.
        """
        while True:
            try:
                stored = await self._grants.of_session(session_id)
                once = [asked_place(ask) for ask in await self._asks.allowed_once(session_id)]
                break
            except StoreUnavailable as error:
                log.debug("the database does not serve; waiting", error=error.sentence())
                await asyncio.sleep(_PAUSE)
        refused = {one.place for one in stored if not one.allowed}
        granted = {*once, *(one.place for one in stored if one.allowed)} - refused
        people = {"granted": _names(granted), "refused": _names(refused), "asks": asks}
        return {**(self._given.get(name, {}) if given is None else given), **people}

    async def working(self, names: Sequence[str]) -> list[Working]:
        """See `EgressStore.working`. Waits until the database serves."""
        while True:
            try:
                return await self._grants.working(names)
            except StoreUnavailable as error:
                log.debug("the database does not serve; waiting", error=error.sentence())
                await asyncio.sleep(_PAUSE)


class Egress:
    """Asks, and tells the gateway. `close` it before the sessions."""

    def __init__(self, sessions: Sessions, grants: Grants, grant: Grant, doors: Doors) -> None:
        self._sessions, self._grants, self._grant, self._doors = sessions, grants, grant, doors
        self._store = EgressStore(sessions.store.db)
        self._asking: set[tuple[str, Place]] = set()
        self._telling: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: object = None  # what all grants looked like when they were followed last
        sessions.observe(self._hear)

    # What the gateway says: it comes again while somebody waits, and other Flows hear it too

    def wanted(self, fields: Mapping[str, Any]) -> None:
        """A connection to a host waits for people."""
        name, place = str(fields["worklet"]), (str(fields["host"]), int(fields["port"]))
        session_id = self._grants.sessions.get(name)
        if session_id is not None and self._sessions.is_live(session_id) and (name, place) not in self._asking:
            self._asking.add((name, place))
            self._start(self._ask(name, session_id, place))

    def blocked(self, fields: Mapping[str, Any]) -> None:
        """A host was refused, to the worklet or to a sidecar of it (`worklets.sidecargrants`)."""
        session_id = self._grants.sessions.get(str(fields["worklet"]).partition(".")[0])
        if session_id is not None:
            place = str(fields["host"]), int(fields["port"])
            self._sessions.blocked(session_id, named(place), str(fields.get("reason", "")))

    async def _ask(self, name: str, session_id: SessionId, place: Place) -> None:
        try:
            await self._sessions.caught_up(session_id)
            turn = self._working(session_id)
            found = await self._sessions.store.asks.of_turn(turn.id) if turn is not None else []
            # After the questions were read: one that is answered in between would else be asked anew.
            if turn is None or await self._is_settled(name, session_id, place):
                await self._tell(name)
                return
            given = {"host": place[0], "port": place[1]}
            about = f"egress {named(place)} {turn.id}"
            # What was taken back, or ran out, since it was asked for in this turn is asked for anew.
            asked = [one.ask for one in found if one.ask.kind is AskKind.EGRESS and asked_place(one.ask) == place]
            if closed := sum(not ask.is_open for ask in asked):
                about = f"{about} {closed}"
            ask = await self._sessions.ask_people(session_id, about, SUBJECT, given, kind=AskKind.EGRESS)
            if ask is None or not ask.is_open:
                await self._tell(name)
        finally:
            self._asking.discard((name, place))

    def _working(self, session_id: SessionId) -> Turn | None:
        """The turn whose people can be asked: Claude has begun with it, and so a worklet's startup script has ended."""
        turn = self._sessions.running(session_id)
        return turn if turn is not None and turn.started_at is not None else None

    async def _is_settled(self, name: str, session_id: SessionId, place: Place) -> bool:
        grant = await self._grants.of(name, session_id, asks=True)
        return named(place) in (*grant["granted"], *grant["refused"])

    # What people have granted

    @property
    def asked(self) -> bool:
        """People may be asked for hosts; else nothing that they granted before holds."""
        return self._grants.asked

    async def of_session(self, session_id: SessionId) -> list[StoredGrant]:
        """The session's own and its channel's, the oldest first. Raises StoreUnavailable."""
        return await self._store.of_session(session_id)

    async def of_channel(self, team: str, channel: str) -> list[StoredGrant]:
        """Those for all of the channel, the oldest first. Raises StoreUnavailable."""
        return await self._store.of_channel(team, channel)

    async def granted(self, grant_id: str) -> StoredGrant | None:
        """None: there is no such one. Raises StoreUnavailable."""
        return await self._store.get(grant_id)

    async def revoke(self, grant_id: str, by: str) -> StoredGrant | None:
        """The one that was; None: there is none any more. Its connections are cut off. Raises StoreUnavailable."""
        grant = await self._store.remove(grant_id)
        if grant is not None:
            log.info("egress taken back", host=named(grant.place), scope=grant.scope, scope_id=grant.scope_id, by=by)
            self._follow()
        return grant

    # Telling the gateway

    def _hear(self, session: Session, _turn: Turn, event: LifeEvent | AgentEvent) -> None:
        match event:
            case Started() | Settled():
                self._start(self._tell(session.worklet))
            case AskClosed(ask) if ask.kind is AskKind.EGRESS:
                decision = ask.decision or Decision("deny")
                if decision.scope == "channel":
                    self._follow()
                else:
                    self._start(self._tell(session.worklet))

    def _follow(self) -> None:
        """All worklets of sessions that are run here. Those of other processes follow with their next turn."""
        for name in self._grants.sessions:
            self._start(self._tell(name))

    async def _tell(self, name: str) -> None:
        """One at a time for a worklet, so that the last word is the newest."""
        session_id = self._grants.sessions.get(name)
        if session_id is None or not self.runs(name) or not self._grants.asked:
            return
        async with self._telling.setdefault(name, asyncio.Lock()):
            try:
                # By the table: a turn that was begun before a restart is told of before it is taken up.
                works = any(one.works for one in await self._grants.working([name]))
                grant = await self._grants.of(name, session_id, asks=works)
                await self._grant(name, SUBJECT, grant)
            except BaseException:
                self._seen = None  # the next look tells it again
                raise
        if (turn := self._working(session_id)) is not None:
            await self._take_back(turn, name)

    def runs(self, name: str) -> bool:
        """The worklet's door was opened here, and its session is run here still: what it is granted is ours to say."""
        session_id = self._grants.sessions.get(name)
        return session_id is not None and self._sessions.is_live(session_id)

    def connected(self, _fields: Mapping[str, Any]) -> None:
        """The gateway's process is there. What ended before a crash, or was taken back, it may not have been told."""
        if self._grants.asked:
            self._start(self._tell_all())

    def watch(self, every: float = _FOLLOW) -> None:
        """Begins to follow what other Flows do, and what those leave undone that end in the middle of it."""
        if self._grants.asked:
            self._start(self._watch(every))

    async def _watch(self, every: float) -> None:
        while True:
            await asyncio.sleep(every)
            await _safely(self.look())

    async def look(self) -> None:
        """Worklets that are run here hear of what others granted or took back; so do those that nobody runs any more.

        Raises StoreUnavailable, WorkletError.
        """
        await self._doors.look()
        seen = await self._store.stamp()
        changed, self._seen = seen != self._seen, seen  # before they are told: one that fails wants it done again
        await self._tell_all(own=changed)

    async def _tell_all(self, *, own: bool = True) -> None:
        if not (names := list(self._doors.grants())):
            return
        for one in await self._grants.working(names):
            if self.runs(one.worklet):
                if own:
                    self._start(self._tell(one.worklet))
            elif not one.held or self._sessions.holds(one.session_id):
                self._start(self._retell(one))

    async def _retell(self, one: Working) -> None:
        """Of a door that another process opened: an earlier run, or one that runs the session no more."""
        async with self._telling.setdefault(one.worklet, asyncio.Lock()):
            was = self._doors.grants().get(one.worklet, {}).get(SUBJECT)
            grant = await self._grants.of(one.worklet, one.session_id, asks=one.works, given=was or {})
            if grant == was or one.worklet not in self._doors.grants() or self.runs(one.worklet):
                return
            if one in await self._grants.working([one.worklet]):  # else somebody has taken it up, or its turn has ended
                await self._doors.regrant(one.worklet, SUBJECT, grant, was)

    async def _take_back(self, turn: Turn, name: str) -> None:
        """Questions about hosts that people have allowed all of the channel meanwhile, in another thread."""
        found = [one.ask for one in await self._sessions.store.asks.of_turn(turn.id)]
        wanted = [ask for ask in found if ask.kind is AskKind.EGRESS and ask.is_open]
        if wanted:  # what is granted is looked at last: it may have been asked for because it was taken back
            granted = (await self._grants.of(name, turn.session_id, asks=True))["granted"]
            if moot := [ask.id for ask in wanted if named(asked_place(ask)) in granted]:
                await self._sessions.take_back_asks(moot)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_safely(work), name="egress")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        await asyncio.sleep(0)  # what was just started begins, so that its end is its own
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _safely(work: Awaitable[None]) -> None:
    try:
        await work
    except (StoreUnavailable, SessionNotFound, WorkletError, OSError) as error:
        log.warning("what a worklet may reach could not be settled", error=str(error))
    except Exception:
        log.exception("what a worklet may reach could not be settled")


def _names(places: set[Place]) -> list[str]:
    return [named(place) for place in sorted(places)]
