"""What a worklet is to be, put together: the settings, its session's template, its repository's configuration.

Each part is a function of its own file, and adds to the profile that the parts before it made; none gives more than
the settings allow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from config.errors import FlowError
from config.logging import get_logger
from worklets.errors import RuntimeUnavailable, WorkletError
from worklets.profile import Origin, Profile

log = get_logger(__name__)

Part: TypeAlias = Callable[[str, Origin, Profile], Awaitable[Profile]]
Learner: TypeAlias = Callable[[str, Origin, Path], Awaitable[None]]
Fork: TypeAlias = Callable[[str, str], Awaitable[None]]
Ending: TypeAlias = Callable[[str, Origin], Awaitable[None]]


class Composed:
    """`worklets.profile.Profiles` of these parts, in this order."""

    def __init__(
        self,
        parts: Sequence[Part] = (),
        learners: Sequence[Learner] = (),
        endings: Sequence[Ending] = (),
        forks: Sequence[Fork] = (),
    ) -> None:
        self._parts, self._learners = tuple(parts), tuple(learners)
        self._endings, self._forks = tuple(endings), tuple(forks)

    async def learn(self, name: str, origin: Origin, checkout: Path) -> None:
        with _told_of_worklets():
            for learner in self._learners:
                await learner(name, origin, checkout)

    async def of(self, name: str, origin: Origin) -> Profile:
        profile = Profile()
        with _told_of_worklets():
            for part in self._parts:
                profile = await part(name, origin, profile)
        return profile

    async def forked(self, source: str, name: str) -> None:
        with _told_of_worklets():
            for fork in self._forks:
                await fork(source, name)

    async def ended(self, name: str, origin: Origin) -> None:
        for ending in self._endings:
            try:
                await ending(name, origin)
            except Exception:
                log.exception("what was made for a worklet could not be taken back", worklet=name)


@contextmanager
def _told_of_worklets() -> Iterator[None]:
    """Whatever a part depends on may be away, such as Vault: a running turn tries again, as when the engine is away."""
    try:
        yield
    except WorkletError:
        raise
    except FlowError as error:
        raise RuntimeUnavailable(
            f"What this worklet is to be cannot be told: {error}",
            suggestion=error.suggestion or "Write again in a moment.",
        ) from error
