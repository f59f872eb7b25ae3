"""Sidecars put together: where they run, and who hears of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from worklets.sidecars import Place, Sidecars

if TYPE_CHECKING:
    from config.settings import Settings
    from sessions.manager import Sessions
    from sessions.types import SessionId
    from worklets.gatewayclient import GatewayClient
    from worklets.identity import Identity
    from worklets.prebuilt import Prebuilt
    from worklets.runtime import Runtime


def sidecars_of(settings: Settings, identity: Identity, runtime: Runtime, images: Prebuilt | None) -> Sidecars | None:
    """None: where worklets run there can be none, since the gateway's sockets are not there."""
    place = _place(settings, identity, runtime)
    if place is None:
        return None

    async def image(base: str) -> str:
        assert images is not None
        return await images.image(base, lambda _step: None)

    egress = settings.egress.mode != "none"
    return Sidecars(place, settings.share_dir, egress=egress, image=image if images is not None else None)


def _place(settings: Settings, identity: Identity, runtime: Runtime) -> Place | None:
    if runtime.kind == "local":
        from worklets.localsidecars import LocalSidecars

        return LocalSidecars(settings.share_dir, identity)
    from worklets.docker import DockerRuntime
    from worklets.dockersidecars import Bounds, DockerSidecars

    if type(runtime) is not DockerRuntime:
        return None
    return DockerSidecars(runtime, Bounds(memory=settings.isolation.sidecar_memory))


def attend(sidecars: Sidecars, sessions: Sessions, gateway: GatewayClient, of_worklet: Mapping[str, SessionId]) -> None:
    """What goes wrong with one is told in the thread of its worklet, while a turn runs there."""

    def tell(worklet: str, text: str) -> None:
        if (session := of_worklet.get(worklet)) is not None:
            sessions.remark(session, text)

    sidecars.tell = tell
    gateway.on("sidecar wanted", sidecars.missed)
    gateway.on("sidecar ended", sidecars.ended)
