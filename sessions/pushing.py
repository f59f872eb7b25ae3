"""Pushes of worklets that wait for people: asked in the thread while Claude's command waits, decided in the table.

The ask is one like Claude's own, under the name of a tool that Flow has no other use for: so rules for it, in the
settings, for a channel or a session, are the rules about pushing. A rule speaks of the session's own branch only. What
a rule lets through waits until the audit has a row of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from config.logging import get_logger
from sessions.asks import PULL_REQUEST, PUSH, Ask, AskId, AskKind, AskState, Decision, own_ask_id
from sessions.errors import SessionNotFound, StoreUnavailable
from sessions.events import AskClosed, LifeEvent, Settled, Started
from sessions.manager import Sessions
from sessions.types import Session, SessionId, Turn, TurnId
from worklets.errors import WorkletError
from worklets.events import AgentEvent
from worklets.gitgrants import Decided

log = get_logger(__name__)

_REMEMBERED = 1_000  # requests: each waits for less than two minutes
_MOST_OPEN, _MOST_ASKED = 4, 20  # questions of one turn: those that wait, and all
_MOST_PASSED = 200  # that rules let through in one turn, or between two: each is a row
_REQUEST = "push "  # before the number of a request, in an ask's tool id

_WHY = 200  # characters of people's reason
_FLOODED = (
    "this turn has pushed, or asked to push, too often; tell people what you want pushed, and go on in the next one"
)
_NOBODY = "nobody could be asked, because Claude is answering nobody in this thread just now; push while it does"

K = TypeVar("K", bound=str)
T = TypeVar("T")
Tell = Callable[[SessionId], Awaitable[None]]


class Pushes:
    """`told(session_id)` tells the gateway what the session may do by now. Entered while sessions run.

    `allows`: FLOW_PUSH=allow, which lets the session's own branch through where no rule says otherwise.
    """

    def __init__(self, sessions: Sessions, told: Tell, *, allows: bool = False) -> None:
        self._sessions, self._told, self._allows = sessions, told, allows
        self._unasked: dict[str, tuple[SessionId, str]] = {}  # requests that people were not asked about, and why
        self._passed: dict[str, SessionId] = {}  # requests that rules let through, once that is written down
        self._asking: set[str] = set()  # requests that are being asked about, or passed
        self._one_by_one: WeakValueDictionary[SessionId, asyncio.Lock] = WeakValueDictionary()
        self._counted: dict[SessionId, int] = {}  # of those, by the session, since its turn began or ended
        self._joined: dict[str, AskId] = {}  # requests that wait for the answer to another one's question
        self._waiting: dict[AskId, set[str]] = {}  # by question; none left: a yes to it has served nobody yet
        self._over: dict[str, None] = {}  # requests that wait no more
        self._tasks: set[asyncio.Task[None]] = set()
        sessions.observe(self._hear)
        sessions.on_rules(lambda session_id: self._start(self._told(session_id)))

    def wanted(self, fields: Mapping[str, Any]) -> None:
        """The gateway's event: a push waits. It comes again while it does; `fields` come from our own gateway."""
        self._start(self._ask(SessionId(str(fields["session"])), str(fields["request"]), dict(fields)))

    def unanswered(self, fields: Mapping[str, Any]) -> None:
        """The gateway's event: a push waits no more. A yes that still comes counts for the next one like it."""
        request = str(fields["request"])
        _remember(self._over, request, None)
        ask_id = self._joined.get(request) or _own(SessionId(str(fields["session"])), request)
        if (waiting := self._waiting.get(ask_id)) is not None:
            waiting.discard(request)

    def opened(self, fields: Mapping[str, Any]) -> None:
        """The gateway's event: a pull request is open."""
        change = f" ({fields['change']})" if fields["change"] else ""
        what = "Merge request !" if fields.get("called") == "merge request" else "Pull request "
        told = f"{what}{fields['number']}: {fields['title']}{change}\n{fields['url']}"
        self._sessions.remark(SessionId(str(fields["session"])), told)

    async def decided(self, session_id: str, own: str) -> Decided:
        """What may be pushed as things stand, of a session that runs here. Raises StoreUnavailable."""
        session = await self._sessions.get(SessionId(session_id))
        rules = await self._sessions.permissions(session)
        answers: dict[str, bool | str] = {
            one: why for one, (whose, why) in self._unasked.items() if whose == session_id
        }
        answers |= {one: True for one, whose in self._passed.items() if whose == session_id}
        if (turn := self._sessions.running(session.id)) is not None:
            for stored in await self._sessions.store.asks.of_turn(turn.id):
                ask = stored.ask
                if ask.tool in (PUSH, PULL_REQUEST) and not ask.is_open:
                    waiting = [request for request, joined in self._joined.items() if joined == ask.id]
                    for request in (ask.tool_id.removeprefix(_REQUEST), *waiting):
                        answers[request] = _answer(ask)
        mine = frozenset({own}) if own else frozenset()
        pulls_asked = PULL_REQUEST in rules.ask
        return Decided(
            mine if PUSH in rules.allow and PUSH not in rules.ask else frozenset(),
            frozenset({"*"}) if PUSH in rules.deny else frozenset(),
            answers,
            False if PULL_REQUEST in rules.deny else (PULL_REQUEST in rules.allow and not pulls_asked) or None,
            PUSH in rules.ask,
            pulls_asked,
        )

    async def close(self) -> None:
        await asyncio.sleep(0)  # what was just started begins, so that its end is its own
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, session_id: SessionId, request: str, fields: Mapping[str, Any]) -> None:
        if request in self._unasked or request in self._asking or not self._sessions.is_live(session_id):
            return  # another Flow runs it, and hears of it too
        self._asking.add(request)
        try:
            if await self._goes_unasked(session_id, request, fields):
                return
            await self._sessions.caught_up(session_id)
            # Meanwhile others may have been asked about; and each sees the question of the one before.
            async with self._one_by_one.setdefault(session_id, asyncio.Lock()):
                if not await self._goes_unasked(session_id, request, fields):
                    await self._ask_people(session_id, request, fields)
        finally:
            self._asking.discard(request)

    async def _goes_unasked(self, session_id: SessionId, request: str, fields: Mapping[str, Any]) -> bool:
        """Whether an answer, or a rule, is there; the gateway has been told."""
        tool, given = _wish(fields)
        own = str(fields["own"])
        decided = await self.decided(session_id, own)
        if not _is_denied(decided, tool) and request not in (decided.answers or {}):
            if (rule := self._rule(decided, tool, is_own=given["branch"] == own)) is None:
                return False
            await self._pass(session_id, request, tool, given, rule)
        await self._told(session_id)
        return True

    async def _ask_people(self, session_id: SessionId, request: str, fields: Mapping[str, Any]) -> None:
        tool, given = _wish(fields)
        own = str(fields["own"])
        if await self._joins(session_id, request, tool, given):
            if request in ((await self.decided(session_id, own)).answers or {}):
                await self._told(session_id)
            return
        if await self._is_flooded(session_id, request):
            log.warning("a push is refused: too many are asked about", session=session_id)
            _remember(self._unasked, request, (session_id, _FLOODED))
            await self._told(session_id)
            return
        rules = (tool,) if given["branch"] == own and "deletes" not in given else ()
        ask = await self._sessions.ask_people(session_id, f"{_REQUEST}{request}", tool, given, rules)
        if ask is None and await self._is_taken_up(session_id):
            return
        if ask is None:
            log.info("a push is refused: no turn runs, so nobody can be asked", session=session_id)
            _remember(self._unasked, request, (session_id, _NOBODY))
        else:
            self._waits(ask.id, request)
            if ask.is_open:
                return
        await self._told(session_id)

    async def _is_taken_up(self, session_id: SessionId) -> bool:
        """A turn goes on whose process is not listened to yet, or not any more: people can be asked a moment later."""
        turn = await self._sessions.store.next_turn(session_id)
        return turn is not None and turn.started_at is not None

    def _rule(self, decided: Decided, tool: str, *, is_own: bool) -> str | None:
        """What lets it through, so that nobody need be asked. None: nothing does."""
        asked = decided.pulls_asked if tool == PULL_REQUEST else decided.asked
        if decided.pulls is True if tool == PULL_REQUEST else is_own and decided.granted:
            return tool
        return "FLOW_PUSH=allow" if self._allows and is_own and not asked else None

    async def _pass(self, session_id: SessionId, request: str, tool: str, given: dict[str, Any], rule: str) -> None:
        count = self._counted.get(session_id, 0) + 1
        if count > _MOST_PASSED:
            _remember(self._unasked, request, (session_id, _FLOODED))
            return
        turn, now = self._sessions.running(session_id), self._sessions.store.clock()
        about = f"{_REQUEST}{request}"
        ask = Ask(
            id=own_ask_id(session_id, about),
            session_id=session_id,
            turn_id=turn.id if turn is not None else TurnId(""),
            kind=AskKind.PERMISSION,
            tool=tool,
            tool_id=about,
            input=given,
            suggestions=(),
            state=AskState.OPEN,
            asked_at=now,
            expires_at=None,
        ).decided_by_policy(Decision("allow", message="nobody was asked"))
        await self._sessions.store.asks.note(ask, (rule,))
        _remember(self._counted, session_id, count)
        _remember(self._passed, request, session_id)

    async def _joins(self, session_id: SessionId, request: str, tool: str, given: Mapping[str, str]) -> bool:
        """Whether the same is asked already: a worklet that tries again and again does not fill the thread."""
        if request in self._joined:
            return True
        turn = self._sessions.running(session_id)
        for stored in await self._sessions.store.asks.of_turn(turn.id) if turn is not None else []:
            ask = stored.ask
            if ask.tool != tool or ask.input != given or ask.tool_id == f"{_REQUEST}{request}":
                continue
            # A yes that came when nobody waited any more counts once, for who tries again.
            late = ask.state is AskState.ALLOWED and self._waiting.get(ask.id) == set()
            if ask.is_open or late:
                _remember(self._joined, request, ask.id)
                self._waits(ask.id, request)
                return True
        return False

    def _waits(self, ask_id: AskId, request: str) -> None:
        """It waits for that answer, unless it has stopped waiting while it was being asked about."""
        waiting = self._waiting.get(ask_id, set())
        _remember(self._waiting, ask_id, waiting if request in self._over else waiting | {request})

    async def _is_flooded(self, session_id: SessionId, request: str) -> bool:
        """Whether a worklet has asked so much in this turn that people are not asked any more."""
        turn = self._sessions.running(session_id)
        stored = await self._sessions.store.asks.of_turn(turn.id) if turn is not None else []
        asked = [one.ask for one in stored if one.ask.tool in (PUSH, PULL_REQUEST)]
        if any(ask.tool_id == f"{_REQUEST}{request}" for ask in asked):
            return False
        return len(asked) >= _MOST_ASKED or sum(ask.is_open for ask in asked) >= _MOST_OPEN

    def _hear(self, session: Session, _turn: Turn, event: LifeEvent | AgentEvent) -> None:
        if isinstance(event, Started | Settled):
            self._counted.pop(session.id, None)
        if isinstance(event, AskClosed) and event.ask.tool in (PUSH, PULL_REQUEST):
            self._start(self._told(session.id))

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(self._logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _logged(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (StoreUnavailable, WorkletError, SessionNotFound) as error:
            log.warning("a push waits in vain", error=error.sentence())  # its event comes again
        except Exception:
            log.exception("a push waits in vain")


def _own(session_id: SessionId, request: str) -> AskId:
    return own_ask_id(session_id, f"{_REQUEST}{request}")


def _wish(fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The tool that stands for what the gateway asks for, and what people are told of it."""
    given: dict[str, Any] = {"repository": str(fields["repository"]), "branch": str(fields["branch"])}
    tool = PUSH if fields["what"] == "push" else PULL_REQUEST
    if tool == PULL_REQUEST:
        given |= {name: str(fields.get(name, "")) for name in ("title", "base", "body")}
    if fields.get("deletes") is True:
        given["deletes"] = True
    return tool, given


def _is_denied(decided: Decided, tool: str) -> bool:
    """Whether rules say no, so that nobody need be asked."""
    return decided.pulls is False if tool == PULL_REQUEST else bool(decided.refused)


def _answer(ask: Ask) -> bool | str:
    """True, or why not."""
    match ask.state:
        case AskState.ALLOWED:
            return True
        case AskState.EXPIRED:
            return "nobody in the thread answered in time"
        case AskState.WITHDRAWN:
            return "nobody in the thread answered before the turn ended in which they were asked"
    message = " ".join(ask.decision.message.split())[:_WHY] if ask.decision is not None else ""
    return f"people in the thread said no{f': {message}' if message else ''}"


def _remember(known: dict[K, T], request: K, value: T) -> None:
    known[request] = value
    if len(known) > _REMEMBERED:
        del known[next(iter(known))]
