"""The image of each worklet whose profile wants another than the usual one: on another base, or with a browser.

Both are made when somebody wants them first (`prebuilt.py`), the second on top of the first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from worklets.errors import ImageMissing, WorkletStartFailed
from worklets.mcpservers import wants_browser
from worklets.prebuilt import Prebuilt
from worklets.prebuiltimages import BaseUnfit
from worklets.profile import Profile


class ProfileImages:
    """`usual`: the image of worklets without any wish. `on_bases` and `with_browser` make the others."""

    def __init__(self, usual: str, on_bases: Prebuilt, with_browser: Prebuilt) -> None:
        self._usual, self.on_bases, self._with_browser = usual, on_bases, with_browser

    async def of(self, profile: Profile, on_step: Callable[[str], None]) -> Profile:
        """The profile with its image, made where it is missing; `on_step` is told what `Prebuilt.image` tells.

        Without a browser Claude still works, and the thread is told why there is none. Raises what `Prebuilt.image`
        does for the base.
        """
        if profile.base is not None:
            profile = replace(profile, image=await self.on_bases.image(profile.base, on_step))
        if not wants_browser(profile.mcp_servers):
            return profile
        try:
            return replace(profile, image=await self.browser(profile.image, on_step))
        except (BaseUnfit, ImageMissing, WorkletStartFailed) as error:
            told = f"The MCP server playwright has no browser, since its image could not be made. {error.sentence()}"
            return replace(profile, missing=(*profile.missing, told))

    async def browser(self, image: str | None, on_step: Callable[[str], None]) -> str:
        """The tag of that worklet image, or the usual one, with a browser. Raises what `Prebuilt.image` does."""
        return await self._with_browser.image(image or self._usual, on_step)

    async def aclose(self) -> None:
        """Ends what is being made."""
        await self._with_browser.aclose()
        await self.on_bases.aclose()
