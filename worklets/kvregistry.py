"""Flow's own dealings with the key-value store: worklets registered, their tokens revoked, their data removed.

A worklet starts also while the store is away: what could not be done is tried again until it holds.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import structlog

from config.errors import FlowError

if TYPE_CHECKING:
    from kvstore.gateway.backend import Admin

T = TypeVar("T")

#: Owners in the store are uuids made from Slack's user ids, the same wherever they are made.
_OWNERS = uuid.UUID("6f0d2c3e-6d2b-5b0a-9f57-0d7f6b1c5a11")
_PATIENCE = 0.25  # seconds that a session waits for its worklet's registration
_AGAIN = (1.0, 5.0, 15.0, 60.0)  # seconds before each further try; then as the last one
_SWEEP_SECONDS = 60.0
_CALL_SECONDS = 15.0
_AT_ONCE = 8

log = structlog.get_logger(__name__)


class StoreAway(FlowError):
    """The key-value store does not answer."""


def owner_of(user_id: str) -> str:
    """The uuid of a Slack user as the owner of worklets."""
    return str(uuid.uuid5(_OWNERS, user_id))


class Registry:
    """One per program. `open_admin` may raise FlowError. `max_keys` and `max_bytes` are each worklet's quotas."""

    def __init__(
        self,
        open_admin: Callable[[], Admin],
        *,
        max_keys: int,
        max_bytes: int,
        patience: float = _PATIENCE,
        again: tuple[float, ...] = _AGAIN,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open_admin, self._quotas = open_admin, {"max_keys": max_keys, "max_bytes": max_bytes}
        self._patience, self._again, self._clock = patience, again, clock
        self._admin: Admin | None = None
        self._opening = asyncio.Lock()
        self._trouble = ""
        self._known: set[str] = set()  # worklets that were registered from here
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # those that another took the place of
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._swept = 0.0

    # -- what sessions call: see sessions/agents.py: WorkletData

    async def begin(self, worklet_id: str, user_id: str, name: str) -> None:
        """The worklet of `user_id` (Slack's) has a store when this returns; or soon, when the store is slow or away."""
        owner = owner_of(user_id)

        async def register(admin: Admin) -> None:
            await admin.register(worklet_id, owner, name, **self._quotas)
            self._known.add(worklet_id)

        # One that is known here has its store already: it is only made sure of, and nobody waits for that.
        await self._soon("register", worklet_id, register, wait=worklet_id not in self._known)

    async def end(self, worklet_id: str) -> None:
        """Tokens that were issued until now are void, or soon will be."""
        now = self._clock()
        await self._soon("revoke", worklet_id, lambda a: a.revoke(worklet_id, now))

    async def retire(self, worklet_id: str) -> None:
        """Nothing: the store's data go with the transcript."""

    async def remove(self, worklet_id: str) -> None:
        """Deletes all that the worklet keeps. Raises FlowError when the store does not answer."""
        from kvstore.gateway.opening import StoreNotSet

        await self._stop(("register", worklet_id), ("revoke", worklet_id))
        self._known.discard(worklet_id)
        try:
            await self._ask(lambda a: a.remove(worklet_id))
        except StoreNotSet as error:  # Flow may not administer the store, and never registered anything
            log.debug("nothing to remove from the key-value store", reason=str(error))

    async def sweep(self) -> None:
        """Deletes what has expired, once a minute at most. Raises FlowError when the store does not answer."""
        if self._clock() - self._swept >= _SWEEP_SECONDS:
            self._swept = self._clock()
            if swept := await self._ask(lambda a: a.sweep()):
                log.info("expired entries of the key-value store are gone", entries=swept)

    # -- the rest

    @property
    def waiting(self) -> int:
        """Registrations and revocations that are still to be done."""
        return len(self._tasks)

    @property
    def trouble(self) -> str:
        """Why the last of them could not be done; empty when it was."""
        return self._trouble

    async def aclose(self) -> None:
        await self._stop(*self._tasks)
        if self._admin is not None:
            await self._admin.close()
        if rest := [*self._tasks.values(), *self._leaving]:  # the connections that they waited for are gone
            await asyncio.wait(rest)

    async def _soon(
        self, what: str, worklet_id: str, call: Callable[[Admin], Awaitable[None]], *, wait: bool = True
    ) -> None:
        """Begins what is repeated until it holds, and waits a moment for it."""
        key = what, worklet_id
        if (before := self._tasks.get(key)) is not None:
            # Nobody waits for its end, which a silent store may delay. To do either twice does no harm.
            self._leaving.add(before)
            before.add_done_callback(self._leaving.discard)
            before.cancel()
        self._tasks[key] = task = asyncio.create_task(self._until_it_holds(what, worklet_id, call))
        task.add_done_callback(lambda task: self._ended(key, task))
        if wait:
            await asyncio.wait([task], timeout=self._patience)

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled() and (error := task.exception()):
            log.error("the key-value store was not told", what=key[0], worklet=key[1], error=type(error).__name__)

    async def _until_it_holds(self, what: str, worklet_id: str, call: Callable[[Admin], Awaitable[None]]) -> None:
        tries = 0
        while True:
            try:
                async with self._few:
                    await self._ask(call)
            except FlowError as error:
                trouble = error.sentence()
                if trouble != self._trouble:
                    log.warning("the key-value store cannot be used; it is tried again", what=what, error=trouble)
                self._trouble = trouble
                await asyncio.sleep(self._again[min(tries, len(self._again) - 1)])
                tries += 1
            else:
                if self._trouble:
                    log.info("the key-value store answers again")
                self._trouble = ""
                log.debug("the key-value store was told", what=what, worklet=worklet_id)
                return

    async def _ask(self, call: Callable[[Admin], Awaitable[T]]) -> T:
        """Raises FlowError."""
        from kvstore.gateway.errors import Refusal

        async with self._opening:
            if self._admin is None:  # in a thread: to load what it needs takes a tenth of a second
                self._admin = await asyncio.to_thread(self._open_admin)
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                return await call(self._admin)
        except Refusal as error:
            raise StoreAway(f"The key-value store refused: {error.message}") from error
        except (OSError, TimeoutError) as error:
            raise StoreAway(f"The key-value store does not answer ({type(error).__name__}).") from error

    async def _stop(self, *keys: tuple[str, str]) -> None:
        """Waits a moment for their end: a silent store may delay it."""
        tasks = [task for key in keys if (task := self._tasks.get(key))]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=self._patience)
