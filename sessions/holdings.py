"""The leases that this process holds, kept alive; and whether one certainly still counts.

A process that stood still (stopped, swapped out) finds its leases run out by its own clock, and does nothing more in
their name, before it has asked the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

from config.logging import get_logger
from sessions.errors import StoreUnavailable
from sessions.leases import Lease, Leases
from sessions.types import Session, SessionId

log = get_logger(__name__)


class Holdings:
    """`seconds`: how long a lease lasts without renewal. `exclusive`: no other process can be there."""

    def __init__(self, leases: Leases, seconds: float, *, exclusive: bool) -> None:
        self.owner = str(uuid4())
        self.exclusive = exclusive
        self._leases = leases
        self._seconds = seconds
        self._held: dict[SessionId, tuple[Lease, float]] = {}  # until when, in the loop's time
        self._told: dict[SessionId, Lease] = {}  # under which observers know what the table does

    async def acquire(self, session_id: SessionId) -> tuple[Lease, Session] | None:
        """None while another process holds it."""
        until = self._from_now()
        acquired = await self._leases.acquire(session_id, self.owner, self._seconds)
        if acquired is not None:
            self._held[session_id] = acquired[0], until
        return acquired

    def valid(self, session_id: SessionId) -> bool:
        held = self._held.get(session_id)
        return held is not None and (self.exclusive or held[1] > asyncio.get_running_loop().time())

    def told(self, lease: Lease) -> None:
        """Observers have been told what the table says of the session, after the lease was acquired."""
        self._told[lease.session_id] = lease

    def may_show(self, session_id: SessionId) -> bool:
        """Nobody else shows the session, and what is known of it here is not older than what others have shown."""
        held = self._held.get(session_id)
        return self.exclusive or (held is not None and self.valid(session_id) and self._told.get(session_id) == held[0])

    async def release(self, lease: Lease) -> None:
        """Cancelled, it leaves the lease to `release_all`."""
        held = self._held.get(lease.session_id)
        if held is not None and held[0] == lease:
            del self._held[lease.session_id]
        try:
            await self._leases.release([lease])
        except asyncio.CancelledError:
            if held is not None and held[0] == lease:
                self._held.setdefault(lease.session_id, held)
            raise
        finally:
            if lease.session_id not in self._held:
                self._told.pop(lease.session_id, None)

    async def release_all(self) -> None:
        held, self._held = self._held, {}
        try:
            await self._leases.release([lease for lease, _ in held.values()])
        except StoreUnavailable as error:  # they run out by themselves
            log.debug("leases were not given back", error=error.sentence())

    async def keep(self, lost: Callable[[SessionId], None]) -> None:
        """Renews for ever; `lost` is told of each lease that is another's now, or will run out unrenewed."""
        if self.exclusive:
            return
        renewing: asyncio.Task[None] | None = None
        try:
            while True:
                await asyncio.sleep(self._seconds / 6)
                # In a task of its own: a database that hangs must not hide that the leases run out.
                if renewing is None or renewing.done():
                    renewing = asyncio.create_task(self._renew(), name="renew leases")
                self._let_go(lost)
        finally:
            if renewing is not None:
                renewing.cancel()
                await asyncio.wait([renewing])

    def _let_go(self, lost: Callable[[SessionId], None]) -> None:
        soon = asyncio.get_running_loop().time() + self._seconds / 3
        for session_id, (_, until) in list(self._held.items()):
            if until < soon:
                log.warning("lease lost; letting go", session=session_id)
                del self._held[session_id]
                self._told.pop(session_id, None)
                lost(session_id)

    async def _renew(self) -> None:
        asked, until = dict(self._held), self._from_now()
        try:
            renewed = await self._leases.renew(self.owner, asked, self._seconds)
        except StoreUnavailable as error:
            log.debug("leases not renewed", error=error.sentence())
            return
        except Exception:
            log.exception("leases not renewed")
            return
        for session_id, (lease, _) in asked.items():
            if self._held.get(session_id, (None,))[0] == lease:
                self._held[session_id] = lease, until if session_id in renewed else float("-inf")

    def _from_now(self) -> float:
        return asyncio.get_running_loop().time() + self._seconds
