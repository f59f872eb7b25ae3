"""What `flow doctor` says of the worklet images: the usual one, and those on other bases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.doctorfinding import Finding
from bot.enginedoctor import docker_of
from bot.engines import engine_at
from config.units import format_size

if TYPE_CHECKING:
    from config.settings import Settings


async def usual(settings: Settings) -> Finding:
    """Raises FlowError, also ImageMissing."""
    from worklets.imagebuild import needs_build

    image = settings.worklets.image
    if settings.worklets.runtime == "local":
        return Finding("skip", "not needed by the local runtime")
    async with docker_of(settings) as docker:
        await docker.check()
    if await needs_build(image, docker_host=engine_at(settings)):
        return Finding("warn", f"{image} was built by an older Flow", "Build it anew with `flow image build`.")
    return Finding("ok", image)


async def bases(settings: Settings) -> Finding:
    """Which there may be, and what those that are there take. Raises FlowError."""
    from worklets.identity import Identity
    from worklets.prebuilt import Prebuilt

    allowed = settings.images.bases
    if settings.worklets.runtime == "local":
        return Finding("skip", "not used by the local runtime")
    if not allowed:
        return Finding("skip", "only the usual one (FLOW_BASE_IMAGES is not set)")
    made = Prebuilt(settings.share_dir, Identity.load(settings.share_dir).instance, engine_at(settings))
    try:
        found = await made.list()
    finally:
        await made.aclose()
    told = (
        f"{', '.join(allowed)}; {len(found)} made, {format_size(sum(one.size for one in found))} with what they share"
    )
    if "*" in allowed:
        return Finding("warn", told, "FLOW_BASE_IMAGES lets repositories choose any image; name registries or images.")
    return Finding("ok", told)
