"""The money of one turn on its way: asked for before it begins, watched while it runs.

What the process has spent is asked of it whenever an answer of the API has ended (`get_usage`, CLI 2.1.329): so a turn
is ended after the request that went beyond the limit, not in the middle of it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from config.logging import get_logger
from sessions.asks import Ask, AskKind, AskState, own_ask_id
from sessions.budgets import Budgets, Level, LimitKind
from sessions.costs import dollars
from sessions.link import Link
from sessions.shared import Shared
from sessions.types import Failed, Interrupted, Outcome, Turn
from worklets.errors import WorkletError
from worklets.usage import dollars_so_far

log = get_logger(__name__)

_LOOK = 30.0  # seconds after which a limit is looked at again: somebody may have raised it in another thread


class Purse:
    """One for each turn that is run."""

    def __init__(self, shared: Shared, link: Link, turn: Turn) -> None:
        self.warnings: deque[Level] = deque()  # to be told in the thread
        self.exceeded: Level | None = None  # the turn has to end
        self.waits = False  # for people, before the turn begins or goes on
        self._shared, self._link, self._turn = shared, link, turn
        self._base: float | None = None  # what the process had spent before the turn
        self._epoch = ""  # of that process
        self._poke = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    @property
    def _budgets(self) -> Budgets | None:
        budgets = self._shared.budgets
        return budgets if budgets is not None and budgets.any else None

    # -- before the turn begins, or goes on ------------------------------------------------------------------------

    async def suffices(self) -> bool:
        """Nobody need be asked before the turn goes on."""
        budgets = self._budgets
        if budgets is None:
            return True
        return await self._shared.stored(lambda: budgets.reached(self._link.session, self._turn)) is None

    async def afford(self, on_wait: Callable[[], Awaitable[None]]) -> Outcome | None:
        """Waits for people where a limit is reached. How the turn ends, if they do not let it go on.

        `on_wait` is awaited before each look at the bell, and may raise to end the wait.
        """
        budgets, stored = self._budgets, self._shared.stored
        if budgets is None:
            return None
        while (level := await stored(lambda: budgets.reached(self._link.session, self._turn))) is not None:
            ask = await self._ask(level)
            if ask.is_open:
                await self._wait(on_wait)
            elif ask.state is AskState.ALLOWED:
                await stored(lambda level=level, ask=ask: budgets.grant(level, ask))  # type: ignore[misc]
                log.info("more money was granted", limit=level.kind.value, amount=level.base, by=ask.decided_by)
            elif ask.state is AskState.DENIED:
                return Interrupted(ask.decided_by)
            else:
                return Failed(f"{level.words}, and nobody let me go on. Write again to ask once more.")
        await self._take_back()
        return None

    async def _ask(self, level: Level) -> Ask:
        """The same question again for the same limit, however often it is looked at."""
        now, expires = self._shared.store.clock(), self._shared.policy.expires
        ask = Ask(
            id=own_ask_id(self._turn.session_id, f"{self._turn.id} {level.name}"),
            session_id=self._turn.session_id,
            turn_id=self._turn.id,
            kind=AskKind.BUDGET,
            tool="",
            tool_id=level.name,
            input={"text": f"{level.words}. Go on?", "more": level.base},
            suggestions=(),
            state=AskState.OPEN,
            asked_at=now,
            expires_at=now + expires if expires is not None else None,
        )
        stored, fresh = await self._shared.stored(lambda: self._shared.store.asks.open(None, ask))
        if fresh:
            log.info("a limit is reached", limit=level.kind.value, spent=round(level.spent, 4), of=level.limit)
        self._shared.tell_ask(stored.ask)
        return stored.ask

    async def _wait(self, on_wait: Callable[[], Awaitable[None]]) -> None:
        """For the bell, or long enough to look again. What an idle agent says meanwhile is kept."""
        self.waits = True
        try:
            await on_wait()
            batch = await self._link.inbox.get(_LOOK)
        finally:
            self.waits = False
        if batch is not None:
            await self._link.take(batch, lambda _event: None)

    async def _take_back(self) -> None:
        """A question that nobody need answer any more: the limit was raised elsewhere, or its day is over."""
        if await self.is_asking():
            asks, now = self._shared.store.asks, self._shared.store.clock()
            for ask in await self._shared.stored(lambda: asks.take_back(self._turn.id, AskKind.BUDGET, now)):
                self._shared.tell_ask(ask)

    async def is_asking(self) -> bool:
        """People have not decided yet on what this turn may cost."""
        asks, session_id = self._shared.store.asks, self._turn.session_id
        found = await self._shared.stored(lambda: asks.open_ones(session_id=session_id))
        return any(ask.turn_id == self._turn.id and ask.kind is AskKind.BUDGET for ask in found)

    # -- while it runs ---------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Just before the prompt goes out, or goes out again."""
        budgets, agent = self._budgets, self._link.agent
        if agent is None:
            return
        if budgets is None:
            await self._tell(None)  # there may have been a limit, which the gateway would keep
            return
        session, turn_id = self._link.session, self._turn.id
        base = await self._shared.stored(lambda: budgets.costs.base(session, turn_id, agent.epoch))
        # None still: what the process says first is the base, else one turn would pay for the whole conversation.
        self._base, self._epoch = await self._spent() if base is None else base, agent.epoch
        await self._allow(budgets)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(budgets), name="purse")
        self._poke.set()

    async def _allow(self, budgets: Budgets) -> None:
        """Has the gateway end what goes beyond the hard limit, also what does not pass through Claude's process."""
        session, turn = self._link.session, self._turn
        left = await self._shared.stored(lambda: budgets.left(session, turn))
        # After `left`: what the account gets in between would else be subtracted twice.
        spent = await self._shared.stored(lambda: budgets.costs.of_turn(turn.id))
        await self._tell(left, spent.cost)

    async def _tell(self, left: float | None, spent: float = 0.0) -> None:
        try:
            await self._shared.host.allow_spending(self._link.session.worklet, left, spent, self._turn.id)
        except WorkletError as error:
            log.warning("the gateway does not know what a worklet may spend", error=error.sentence())

    def spent(self) -> None:
        """An answer of the API has ended."""
        self._poke.set()

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self, budgets: Budgets) -> None:
        while True:
            await self._poke.wait()
            self._poke.clear()
            try:
                await self._note(budgets)
                await self._look(budgets)
            except Exception:
                log.exception("the turn's costs could not be looked at")

    async def _note(self, budgets: Budgets) -> None:
        agent, spent = self._link.agent, await self._spent()
        if agent is None or spent is None or agent.epoch != self._epoch:
            return
        if self._base is None or spent < self._base:  # `/clear` begins to count anew
            self._base = spent if self._base is None else 0.0
        base, session, turn_id, now = self._base, self._link.session, self._turn.id, self._shared.store.clock()
        if spent > base:
            await budgets.costs.metered(session, turn_id, agent.epoch, base=base, cost=spent - base, now=now)

    async def _spent(self) -> float | None:
        """By the process's own account; None where it cannot tell."""
        agent = self._link.agent
        if agent is None:
            return None
        try:
            return dollars_so_far(await agent.request("get_usage"))
        except (TimeoutError, WorkletError) as error:
            log.debug("the process does not say what it has spent", error=repr(error))
            return None

    async def _look(self, budgets: Budgets) -> None:
        await self._allow(budgets)
        for level in await budgets.levels(self._link.session, self._turn):
            if level.exceeded:
                self.exceeded = self.exceeded or level
                self._link.inbox.ring()
            elif await budgets.warned(level, self._turn.id):
                self.warnings.append(level)
                self._link.inbox.ring()


def stopped(level: Level) -> Failed:
    """How a turn ends that went beyond a limit."""
    first = "" if level.kind is LimitKind.TURN else "; somebody has to allow it first"
    return Failed(f"{level.words}: I had to stop here. Write again to go on{first}.")


def warning(level: Level) -> str:
    """For the thread."""
    return f"{level.words} ({dollars(max(0.0, level.limit - level.spent))} left)."
