"""The clone that a worklet gets of a mirror: its files measured before they are written, and bounded while they are."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

from config.units import format_size
from worklets.errors import CloneFailed
from worklets.git import Git, Source, failed
from worklets.mirror import Mirror
from worklets.treesize import Counted, TooMuch, bounded

_CHECKOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Clone:
    """One that is to be made in `destination`, at `branch` (None: the default one), on `work_branch`."""

    source: Source
    branch: str | None
    destination: Path
    work_branch: str | None


class MirrorClone:
    """`disk`: bytes that a clone's files may take; 0: any."""

    def __init__(self, git: Git, disk: int) -> None:
        self._git, self._disk = git, disk

    async def make(self, mirror: Mirror, clone: Clone, seen: str | None) -> None:
        """`seen`: where its worklet sees the mirror's objects; None: nowhere, and it gets all of its own.

        The mirror is ready, and its lock held. Raises GitSaid, CloneFailed.
        """
        here = ("-C", str(clone.destination))
        wanted = [f"--branch={clone.branch}"] if clone.branch else []
        try:
            async with asyncio.timeout(_CHECKOUT_SECONDS):
                # It is there already where the session pushed it, and its workspace was put away since.
                begun = clone.work_branch is not None and await mirror.has(clone.work_branch, only="heads")
                await self._measure(mirror, await mirror.ref(clone.branch))
                if begun:
                    await self._measure(mirror, f"refs/heads/{clone.work_branch}")
                await self._write(
                    clone.destination,
                    "clone", "--quiet", *(["--shared"] if seen else []), "--no-recurse-submodules", "--template=",
                    *wanted, "--", str(mirror.repo), str(clone.destination),
                )  # fmt: skip
                await self._git.run(*here, "remote", "set-url", "origin", clone.source.address)
                if clone.work_branch is not None:
                    at = ["--track", f"origin/{clone.work_branch}"] if begun else []
                    await self._write(clone.destination, *here, "checkout", "--quiet", "-b", clone.work_branch, *at)
        except TimeoutError:
            raise failed(clone.source, f"its files took longer than {_CHECKOUT_SECONDS:.0f} s to write.") from None
        if seen:
            alternates = clone.destination / ".git" / "objects" / "info" / "alternates"
            await asyncio.to_thread(alternates.write_text, seen + "\n", encoding="utf-8")

    async def _write(self, destination: Path, *words: str) -> None:
        """Git writes files. `_measure` knows how many, but not what the repository's attributes make of their bytes."""
        work = self._git.run(*words)
        await (bounded(destination, self._disk, self._too_large, work) if self._disk else work)

    async def _measure(self, mirror: Mirror, ref: str | None) -> None:
        """Raises CloneFailed for what takes more disk than there may be: a few kilobytes of git can be terabytes."""
        if ref is None or not self._disk:
            return
        counted = Counted(self._disk)
        try:
            here = f"--git-dir={mirror.repo}"
            await self._git.run(here, "ls-tree", "-r", "-l", "-z", "--full-tree", ref, heard=counted.hear)
        except TooMuch:
            raise self._too_large() from None

    def _too_large(self) -> CloneFailed:
        return CloneFailed(
            f"The repository's files take more than {format_size(self._disk)}, which is the disk of a worklet.",
            suggestion="Have FLOW_WORKLET_DISK raised, or name a branch with less in it.",
        )


async def clear(destination: Path, existed: bool) -> None:
    """Takes away what a broken clone left."""
    await asyncio.to_thread(shutil.rmtree, destination, ignore_errors=True)
    if existed:
        await asyncio.to_thread(destination.mkdir, parents=True, exist_ok=True)
