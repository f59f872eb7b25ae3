"""Worklets' doors to the gateway, as their host opens them: with what each was granted, and its sidecars behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worklets.errors import WorkletError, WorkletStartFailed
from worklets.profile import Profile
from worklets.rundir import worklet_dir
from worklets.runtime import Worklet

if TYPE_CHECKING:
    from worklets.gateway import Doors
    from worklets.sidecars import Sidecars


class OpenDoors:
    """One per program. It remembers what each door was told that it opened."""

    def __init__(self, gateway: Doors, share_dir: Path, sidecars: Sidecars | None) -> None:
        self._gateway, self._share_dir, self._sidecars = gateway, share_dir, sidecars
        self._granted: dict[str, dict[str, Any]] = {}  # by whose door it was told

    async def open(self, worklet: Worklet, worklet_id: str | None, profile: Profile) -> None:
        """The worklet's, with its profile's grants. Idempotent. Raises WorkletError."""
        try:
            granted = dict(profile.grants)
            if self._sidecars is not None:
                granted = await asyncio.to_thread(self._sidecars.placed, worklet.name, granted)
            self._granted[worklet.name] = granted
            await self._gateway.open(worklet.name, worklet.run_dir, worklet_id, granted)
        except OSError as error:
            raise WorkletStartFailed(
                f"Flow cannot listen in {worklet.run_dir}: {error.strerror or error}.",
                suggestion="Check the rights of FLOW_SHARE_DIR, then write again.",
            ) from error
        if self._sidecars is not None:
            self._sidecars.begin(worklet.name, granted)

    async def grant(self, name: str, subject: str, grant: Any) -> None:
        """What lies behind that door of one subject from now on; nothing where it was not opened here.

        Raises WorkletError.
        """
        if (granted := self._granted.get(name)) is not None:
            self._granted[name] = granted = {**granted, subject: grant}  # new: the gateway keeps the old one
            await self._reopen(name, granted)

    async def close(self, name: str) -> None:
        """Idempotent. Raises WorkletError."""
        self._granted.pop(name, None)  # before the door closes: what is granted meanwhile must not open it again
        await self._gateway.close(name)

    async def _reopen(self, name: str, granted: Mapping[str, Any]) -> None:
        run_dir = worklet_dir(self._share_dir, name) / "run"
        try:
            await self._gateway.open(name, run_dir, None, granted)
        except OSError as error:
            raise WorkletError(f"Flow cannot listen in {run_dir}: {error.strerror or error}.") from error
