"""What worklets keep beside their volumes, where they have Vault: tokens end with a worklet, secrets go with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sessions.templates import TemplateInvalid
from sessions.types import SessionId
from worklets.secrets import SecretsAway, SecretsSealed

if TYPE_CHECKING:
    from sessions.templatestore import TemplateStore
    from worklets.kvregistry import Registry
    from worklets.secretstokens import SessionTokens

_REST_SECONDS = 60.0  # Vault was away: so long nobody waits for it again here, since many sessions may be due


class DataAndVault:
    """`sessions.agents.WorkletData`: the key-value store, and what sessions have in Vault."""

    def __init__(
        self,
        registry: Registry,
        tokens: SessionTokens,
        templates: TemplateStore,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry, self._tokens, self._templates, self._clock = registry, tokens, templates, clock
        self._away: tuple[float, SecretsAway | SecretsSealed] | None = None  # until when, and what was wrong

    async def begin(self, worklet_id: str, user_id: str, name: str) -> None:
        """Only the store's: a token is issued with the worklet's profile (bot/vaultprofile.py)."""
        await self._registry.begin(worklet_id, user_id, name)

    async def end(self, worklet_id: str) -> None:
        await self._registry.end(worklet_id)
        await self._tokens.end(worklet_id)

    async def retire(self, worklet_id: str) -> None:
        """What the session stored in Vault goes, where its template had that. Raises FlowError."""
        if not await self._had_vault(worklet_id):
            return
        if self._away is not None and self._clock() < self._away[0]:
            raise self._away[1]
        try:
            await self._tokens.remove(worklet_id)
        except (SecretsAway, SecretsSealed) as error:
            self._away = self._clock() + _REST_SECONDS, error
            raise

    async def _had_vault(self, worklet_id: str) -> bool:
        try:
            config = await self._templates.config_of(SessionId(worklet_id))
        except TemplateInvalid:  # a later Flow knows more of it
            return True
        return config is not None and config.vault is not None

    async def remove(self, worklet_id: str) -> None:
        """The store's; Vault's has gone with the volume. Raises FlowError."""
        await self._registry.remove(worklet_id)

    async def sweep(self) -> None:
        """Tokens are swept by `SessionTokens` itself. Raises FlowError."""
        await self._registry.sweep()
