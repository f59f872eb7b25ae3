"""How the parts of a running Flow are, in the words of a home tab: what /health probes, and the worklet image."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bot.homeview import Part

if TYPE_CHECKING:
    from config.settings import Settings

_IMAGE_SECONDS = 60.0  # asking the engine takes a while, and an image does not change often


class SetupState:
    """Awaitable as `Homes.setup`."""

    def __init__(
        self,
        settings: Settings,
        states: Callable[[], Awaitable[Mapping[str, Mapping[str, Any]]]],
        good: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`states` answers as /health does, part by part; `good` are the words for a part that works."""
        self._settings = settings
        self._states = states
        self._good = good
        self._clock = clock
        self._image: tuple[float, Part] | None = None

    async def __call__(self) -> Sequence[Part]:
        found = await self._states()
        return [*(self._part(name, state) for name, state in found.items()), await self._image_part()]

    async def _image_part(self) -> Part:
        if self._image is None or self._clock() - self._image[0] > _IMAGE_SECONDS:
            from bot.doctor import find

            finding = await find("worklet image", self._settings)
            good = {"ok": True, "skip": None}.get(finding.state, False)
            self._image = self._clock(), Part("image", good, " – ".join(filter(None, (finding.text, finding.advice))))
        return self._image[1]

    def _part(self, name: str, state: Mapping[str, Any]) -> Part:
        word, kind = str(state["state"]), state.get("kind")
        good = None if word == "disabled" else word in self._good
        return Part(name, good, str(state.get("error") or f"{word}{f' ({kind})' if kind else ''}"))
