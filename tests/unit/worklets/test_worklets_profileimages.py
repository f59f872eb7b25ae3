"""Which image a profile's worklet gets: on its base, and with a browser where a server needs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from config.errors import FlowError
from worklets.containeryaml import McpServer
from worklets.errors import ImageMissing, RuntimeUnavailable, WorkletStartFailed
from worklets.mcpservers import resolve, wants_browser
from worklets.prebuiltimages import BaseUnfit
from worklets.profile import Profile
from worklets.profileimages import ProfileImages


class Made:
    """As `Prebuilt`: an image on another is called so."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.error: FlowError | None = None

    async def image(self, base: str, on_step: Callable[[str], None]) -> str:
        on_step("image 1/2")
        if self.error:
            raise self.error
        return f"{base}+{self.what}"


async def servers(*known: McpServer) -> dict[str, Any]:
    return (await resolve(known, None, None)).servers


PLAYWRIGHT = McpServer("eyes", builtin="playwright")


async def test_only_flows_own_playwright_wants_a_browser() -> None:
    assert wants_browser(await servers(PLAYWRIGHT))
    assert not wants_browser(await servers(McpServer("memory", builtin="memory")))
    assert not wants_browser(await servers(McpServer("playwright", command="playwright-mcp", args=("--headless",))))
    assert not wants_browser({})


@pytest.mark.parametrize(
    ("base", "browser", "image"),
    [(None, False, None), ("go", False, "go+flow"), (None, True, "usual+browser"), ("go", True, "go+flow+browser")],
)
async def test_the_browser_is_put_on_top_of_the_rest(base: str | None, browser: bool, image: str | None) -> None:
    images = ProfileImages("usual", Made("flow"), Made("browser"))  # type: ignore[arg-type]
    profile = Profile(base=base, mcp_servers=await servers(*[PLAYWRIGHT] * browser))
    steps: list[str] = []
    made = await images.of(profile, steps.append)
    assert (made.image, made.missing) == (image, ())
    assert len(steps) == (base is not None) + browser


@pytest.mark.parametrize("error", [ImageMissing("No registry."), BaseUnfit("Too old."), WorkletStartFailed("Full.")])
async def test_without_a_browser_claude_works_and_the_thread_is_told(error: FlowError) -> None:
    browsers = Made("browser")
    browsers.error = error
    images = ProfileImages("usual", Made("flow"), browsers)  # type: ignore[arg-type]
    made = await images.of(Profile(base="go", mcp_servers=await servers(PLAYWRIGHT)), lambda _: None)
    assert made.image == "go+flow"
    (told,) = made.missing
    assert told.startswith("The MCP server playwright has no browser, since its image could not be made.")
    assert error.sentence() in told


async def test_an_engine_that_is_away_is_not_taken_for_a_missing_browser() -> None:
    browsers = Made("browser")
    browsers.error = RuntimeUnavailable("No engine answers.")
    images = ProfileImages("usual", Made("flow"), browsers)  # type: ignore[arg-type]
    with pytest.raises(RuntimeUnavailable):
        await images.of(Profile(mcp_servers=await servers(PLAYWRIGHT)), lambda _: None)
