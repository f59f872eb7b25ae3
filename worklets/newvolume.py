"""The workspace that a new volume gets: its repository, cloned outside of the worklet, put in whole or not at all."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path

from worklets import rundir
from worklets.mirrors import Mirrors
from worklets.profile import Origin, Profiles
from worklets.runtime import Runtime
from worklets.shielded import Shielded


class NewVolumes:
    """One per program. `profiles` learn what the repository says of its worklets."""

    def __init__(
        self, runtime: Runtime, share_dir: Path, mirrors: Mirrors, profiles: Profiles, shielded: Shielded
    ) -> None:
        self._runtime, self._share_dir = runtime, share_dir
        self._mirrors, self._profiles, self._shielded = mirrors, profiles, shielded

    async def is_there(self, name: str, repository: str | None, has_history: bool) -> bool:
        """Where Claude has not worked yet, a volume for a repository counts only when it is known to be full."""
        if not await self._runtime.has_volume(name):
            return False
        if repository is None or has_history:
            return True
        return await asyncio.to_thread(rundir.is_filled, self._share_dir, name)

    async def bring(self, name: str, repository: str, branch: str | None, origin: Origin | None) -> None:
        """Clones outside the worklet, which has no network. Raises WorkletError."""
        temporary = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="flow-clone-"))
        try:
            await self._mirrors.checkout(
                repository,
                branch,
                temporary / "repository",
                worklet=name,
                work_branch=origin.work_branch if origin is not None else None,
                seen_at=self._runtime.mirror_at,
            )
            if origin is not None:
                await self._profiles.learn(name, origin, temporary / "repository")
        except BaseException:
            await asyncio.shield(_discard(temporary))
            raise
        await self._shielded.to_its_end(name, self._fill(name, temporary))

    async def _fill(self, name: str, temporary: Path) -> None:
        """A volume that got half of the repository is not kept."""
        try:
            await self._runtime.put(name, temporary / "repository")
        except BaseException:
            await asyncio.shield(self._runtime.remove_volume(name))
            raise
        finally:
            await asyncio.shield(_discard(temporary))


async def _discard(directory: Path) -> None:
    with suppress(OSError):  # in a thread: to remove a large repository takes seconds
        await asyncio.to_thread(rundir.discard, directory)
