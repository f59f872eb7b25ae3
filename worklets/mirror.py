"""One mirror as it lies on disk: what is in it, whether it is whole, and how another one takes its place."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import structlog

from worklets.filelock import locked
from worklets.git import Git, GitSaid, reason

log = structlog.get_logger(__name__)


class Mirror:
    """The mirror in the directory `place`, which may be missing; see `worklets.mirrors` for what lies there."""

    def __init__(self, place: Path, git: Git) -> None:
        self.place, self.repo = place, place / "repo.git"
        self._git, self._here = git, f"--git-dir={place / 'repo.git'}"

    @property
    def key(self) -> str:
        return self.place.name

    @property
    def objects(self) -> Path:
        return self.repo / "objects"

    def locked(self, kind: int) -> AbstractAsyncContextManager[None]:
        """Held while it is made, fetched, packed or removed (fcntl.LOCK_EX), or read (LOCK_SH)."""
        return locked(self.place / "lock", kind)

    def prepare(self) -> None:
        """Makes its directory, and that of all mirrors, where they are missing. Raises OSError."""
        self.place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.place.parent.chmod(0o700)
        self.place.mkdir(exist_ok=True)
        self.place.chmod(0o755)
        self.use()

    def use(self) -> None:
        """Notes that it is used now. Raises OSError."""
        (self.place / "used").touch()

    # -- what is in it ---------------------------------------------------------

    async def has(self, branch: str, only: str | None = None) -> bool:
        """Whether it has that branch or tag; `only`: heads or tags."""
        for kind in ("heads", "tags"):
            if only in (None, kind):
                with suppress(GitSaid):
                    ref = f"refs/{kind}/{branch}"  # exactly: a name may be the first part of others'
                    await self._git.run(self._here, "show-ref", "--verify", "--quiet", ref)
                    return True
        return False

    async def ref(self, branch: str | None) -> str | None:
        """What `branch` is, exactly; None: there is no commit at all."""
        if branch is not None:
            return f"refs/{'heads' if await self.has(branch, only='heads') else 'tags'}/{branch}"
        with suppress(GitSaid):
            await self._git.run(self._here, "rev-parse", "--quiet", "--verify", "HEAD")
            return "HEAD"
        return None

    async def newest(self, most: int) -> tuple[str, ...]:
        """Its branches, those with the newest commits first, at most so many. Raises GitSaid."""
        said = await self._git.run(
            self._here, "for-each-ref", "--sort=-committerdate", f"--count={most}", "--format=%(refname)", "refs/heads"
        )
        return tuple(ref.removeprefix("refs/heads/") for ref in said.splitlines())

    async def files(self, directory: str, at: str) -> list[str]:
        """Names in a directory, as the commit `at` has it. Raises GitSaid."""
        said = await self._git.run(self._here, "ls-tree", "-z", "--name-only", at, f"{directory}/")
        return [path.rpartition("/")[2] for path in said.split("\0") if path]

    # -- whether it is whole ---------------------------------------------------------

    async def is_whole(self) -> bool:
        """Whether all that its branches lead to is there, and each pack as it was written. Takes a while."""
        try:
            await self._git.run(self._here, "fsck", "--connectivity-only", "--no-dangling", "--no-progress")
            await self._git.run(self._here, "rev-parse", "--is-bare-repository")
            return not await self._unsound()
        except GitSaid as e:
            log.warning("a mirror is broken", mirror=self.key, error=reason(str(e)))
            return False

    async def _unsound(self) -> list[str]:
        """Packs of it that are not as they were written, without their endings."""
        found = []
        for pack in await asyncio.to_thread(lambda: sorted(self._packs.glob("*.pack"))):
            try:
                await self._git.run("verify-pack", str(pack.with_suffix(".idx")))
            except GitSaid:
                found.append(pack.stem)
        return found

    def unlock(self) -> bool:
        """Removes the lock files that a killed git left. False: there is none."""
        found = [*self.repo.glob("*.lock"), *(self.repo / "refs").rglob("*.lock")]
        for path in found:
            path.unlink(missing_ok=True)
        return bool(found)

    def packs(self) -> int:
        """How many it has: each fetch brings one."""
        return len(list(self._packs.glob("*.pack")))

    @property
    def _packs(self) -> Path:
        return self.objects / "pack"

    # -- another one in its place ---------------------------------------------------------

    def draft(self) -> Path:
        """Where another one can be made."""
        return self.place / f"new-{secrets.token_hex(4)}"

    def remove_drafts(self) -> None:
        for path in self.place.glob("new-*"):
            shutil.rmtree(path, ignore_errors=True)

    async def become(self, draft: Path) -> None:
        """Puts the draft in its place. The directory of its objects stays: running worklets have it mounted."""
        if await asyncio.to_thread(self.objects.is_dir):
            await asyncio.to_thread(self._renew, draft, await self._unsound())
        else:
            await asyncio.to_thread(self._replace, draft)

    def _replace(self, draft: Path) -> None:
        if self.repo.exists():
            self.repo.rename(self.draft())  # goes with the drafts
        draft.rename(self.repo)

    def _renew(self, draft: Path, unsound: list[str]) -> None:
        """Makes it what `draft` is, with all objects that both have, in the directory that worklets have mounted."""
        (self.place / "fetched").unlink(missing_ok=True)
        objects = draft / "objects"
        found = [path for path in objects.rglob("*") if path.is_file()]
        for path in sorted(found, key=lambda one: one.suffix == ".idx"):  # a pack is seen by its index
            to = self.objects / path.relative_to(objects)
            to.parent.mkdir(parents=True, exist_ok=True)
            path.rename(to)
        new = {path.stem for path in found}
        for path in self._packs.iterdir():
            if path.name.startswith("multi-pack-index") or (path.stem in unsound and path.stem not in new):
                path.unlink()
        for path in (self.objects / "info").glob("commit-graph*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(objects)
        for path in sorted(self.repo.iterdir()):
            if path.name != "objects":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(draft.iterdir()):
            path.rename(self.repo / path.name)
