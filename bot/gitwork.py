"""Puts together what sessions may do with their repositories: grants for the gateway, and pushes that people allow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sessions.origin import origin_of
from sessions.pushing import Pushes
from worklets.gitdoor import OPENED, SUBJECT, UNANSWERED, WANTED
from worklets.gitgrants import Decided, GitGrants

if TYPE_CHECKING:
    from sessions.manager import Sessions
    from sessions.types import SessionId
    from worklets.gatewayclient import GatewayClient
    from worklets.host import WorkletHost
    from worklets.identity import Identity
    from worklets.mirrors import Mirrors
    from worklets.profile import Origin, Profile
    from worklets.repositories import Repositories


class GitWork:
    """One per program. Its `part` of profiles is there before sessions are; people decide once `attending`."""

    def __init__(self, repositories: Repositories, mirrors: Mirrors, identity: Identity) -> None:
        self._allows = repositories.settings.push == "allow"
        self._grants = GitGrants(repositories, mirrors, identity, self._decided)
        self._pushes: Pushes | None = None

    async def part(self, name: str, origin: Origin, profile: Profile) -> Profile:
        """See `bot.profiles.Part`."""
        return await self._grants.part(name, origin, profile)

    @asynccontextmanager
    async def attending(self, sessions: Sessions, host: WorkletHost, gateway: GatewayClient) -> AsyncIterator[None]:
        async def tell(session_id: SessionId) -> None:
            session = await sessions.get(session_id)
            grant = await self._grants.grant(session.worklet, origin_of(session))
            if grant is not None:
                await host.grant(session.worklet, SUBJECT, grant)

        self._pushes = pushes = Pushes(sessions, tell, allows=self._allows)
        gateway.on(WANTED, pushes.wanted)
        gateway.on(UNANSWERED, pushes.unanswered)
        gateway.on(OPENED, pushes.opened)
        try:
            yield
        finally:
            await pushes.close()

    async def _decided(self, session_id: str, own: str) -> Decided:
        return await self._pushes.decided(session_id, own) if self._pushes is not None else Decided()
