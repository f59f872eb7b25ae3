"""What the gateway needs of a database, and what Flow needs to look after one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from kvstore.gateway.callers import Caller


class Backend(Protocol):
    """Where the entries are. One event loop; `open` first, `close` last, both idempotent."""

    @property
    def kind(self) -> str:
        """`sqlite`, `postgres` or `supabase`."""

    async def open(self) -> None:
        """Raises Refusal when the database cannot be used; may be tried again."""

    async def call(self, caller: Caller, function: str, arguments: Mapping[str, Any]) -> str:
        """The function's answer as JSON text.

        `arguments` come from `functions.validated`, without `p_wait`: `kv_watch` answers at once.
        Who may do what is the backend's to decide, not the gateway's. Raises Refusal.
        """

    async def check(self) -> None:
        """Raises Refusal when the database does not answer."""

    async def close(self) -> None:
        """Ends what is open. Calls on their way are finished or refused."""


class Admin(Protocol):
    """What Flow itself does with the worklets of a store. Opens by itself at the first call; raises Refusal."""

    async def register(
        self, worklet_id: str, owner_id: str, name: str, *, max_keys: int | None, max_bytes: int | None
    ) -> None:
        """Makes the worklet's store, or changes its owner, name and quotas. Idempotent. None: the store's default."""

    async def revoke(self, worklet_id: str, now: float) -> None:
        """Tokens issued before `now` (seconds since 1970) are void. Nothing where there is no such worklet."""

    async def remove(self, worklet_id: str) -> None:
        """Deletes the worklet and all that it keeps. Nothing for a worklet that is not there."""

    async def sweep(self) -> int:
        """Deletes expired entries, and tombstones of more than 24 h; how many they were."""

    async def worklets(self) -> list[dict[str, str]]:
        """`{"id", "owner_id", "name"}` of each, sorted by id."""

    async def close(self) -> None:
        """Ends what is open."""
