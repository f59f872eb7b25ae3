"""What `flow doctor` says of the Docker engine, and of what worklets are held to and find there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from bot import hostdoctor, remotedoctor
from bot.core import docker_runtime, make_share_dir
from bot.doctorfinding import Finding
from config.errors import FlowError

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.docker import DockerRuntime

GIB = 1024**3


async def engine(settings: Settings) -> Finding:
    """Raises FlowError for one that is away, or that cannot be used as it is set."""
    from worklets.errors import ImageMissing, RuntimeUnavailable
    from worklets.remote import RemoteRuntime

    wanted = settings.worklets.runtime
    if wanted == "local":
        return Finding("warn", "local: worklets are plain processes", "Isolates nothing; use Docker for real work.")
    async with docker_of(settings) as docker:
        if isinstance(docker, RemoteRuntime):
            return await remotedoctor.engine(settings, docker)
        try:
            await docker.check()
        except ImageMissing:
            pass  # there is a line for that
        except RuntimeUnavailable as e:
            if wanted != "auto":
                raise
            told = f"{e} Worklets would be plain processes."
            return Finding("warn", told, "Start Docker for real work.", blocks=True)
    return Finding("ok", "the Docker engine answers")


@asynccontextmanager
async def docker_of(settings: Settings) -> AsyncIterator[DockerRuntime]:
    """The engine that the settings name. Raises FlowError."""
    from worklets.identity import Identity

    make_share_dir(settings.share_dir)
    docker = docker_runtime(settings, Identity.load(settings.share_dir))
    try:
        yield docker
    finally:
        await docker.close()


async def isolation(settings: Settings) -> Finding:
    """What the engine does not hold worklets to. Raises FlowError."""
    if settings.worklets.runtime == "local":
        return Finding("skip", "the local runtime isolates nothing")
    async with docker_of(settings) as docker:
        found = await docker.weaknesses()
        unheld = await docker.disk_obstacle()
    if found:
        return Finding("warn", "; ".join(found), "See `docker info`: kernel and engine have to allow it.")
    runtime = settings.isolation.runtime or "the engine's own"
    if unheld and settings.isolation.disk_image == "on":
        advice = "Mend that, or set FLOW_WORKLET_DISK_IMAGE=auto."
        return Finding("fail", f"worklets' disks cannot be held to a size: {unheld}", advice)
    disk = "watched" if settings.isolation.disk_image == "off" else "held to by the kernel"
    disk = f"watched ({unheld})" if unheld else disk if settings.isolation.disk else "any size"
    return Finding("ok", f"all limits hold, the filter of system calls too; disk: {disk}; OCI runtime: {runtime}")


async def networks(settings: Settings) -> Finding:
    """Raises FlowError."""
    if settings.worklets.runtime == "local":
        return Finding("skip", "not needed by the local runtime")
    async with docker_of(settings) as docker:
        return hostdoctor.networks(await docker.network_use())


async def disk(settings: Settings) -> Finding:
    """Of the share directory, and of the engine's where it is on this machine and can be asked."""
    from worklets.room import Room, sentence

    make_share_dir(settings.share_dir)
    places: list[Path] = []
    if settings.worklets.runtime != "local":
        with suppress(FlowError):  # the engine's own line says why
            async with docker_of(settings) as docker:
                places = await docker.places()

    async def others() -> list[Path]:
        return places

    found = await Room(settings.share_dir, settings.isolation.disk_reserve, others).state()
    free, text = found["free"], f"{found['free'] / GIB:.1f} GiB free for {found['place']}"
    if found["state"] == "low":
        return Finding("fail", sentence(found), "Make room: a full disk stops Flow from storing what people write.")
    if free < 5 * GIB:
        return Finding("warn", text, "Make room soon; repositories and images are large.")
    return Finding("ok", text)
