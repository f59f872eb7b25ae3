"""What a session has of Vault, where its template says so: see bot/profiles.py and docs/secrets.md."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bot.templateprofile import config_of
from config.errors import FlowError
from config.logging import get_logger
from worklets.profile import Origin, Profile
from worklets.secrets import SecretsAway, SecretsSealed
from worklets.secretstokens import SessionTokens, allowed_paths

if TYPE_CHECKING:
    from config.settings import SecretSettings
    from sessions.templatestore import TemplateStore
    from worklets.identity import Identity

_INSTRUCTIONS = """\
VAULT_ADDR and VAULT_TOKEN lead to a Vault server, KV version 2 at {mount}/, for this session alone. You may read and \
write below {mount}/{own}/{read}. The token is of no use elsewhere and is renewed for you. In Python use \
hvac.Client(strict_http=True). Never print the value of a secret."""

log = get_logger(__name__)


async def _nothing(_name: str) -> Mapping[str, Any]:
    return {}


class VaultProfiles:
    """`part` is for `bot.profiles.Composed`. `tokens` None: Flow has no Vault.

    `granted`: what a worklet's door to the gateway has by now, by subject.
    """

    def __init__(
        self,
        templates: TemplateStore,
        tokens: SessionTokens | None,
        settings: SecretSettings,
        identity: Identity,
        granted: Callable[[str], Awaitable[Mapping[str, Any]]] = _nothing,
    ) -> None:
        self._templates, self._tokens = templates, tokens
        self._settings, self._identity, self._granted = settings, identity, granted

    async def part(self, name: str, origin: Origin, profile: Profile) -> Profile:
        """With a token in its environment, and the way to Vault behind its door. What is missing is a note."""
        config = await config_of(self._templates, origin)
        if config is None or config.vault is None:
            return profile
        if self._tokens is None:
            return _noted(profile, "Flow has no Vault, so this thread has none either (FLOW_SECRETS).")
        may, may_not = allowed_paths(config.vault.paths, self._settings.mount, self._settings.shared)
        if may_not:
            named = ", ".join(may_not)
            profile = _noted(profile, f"This thread may not read {named} in Vault: FLOW_VAULT_SHARED does not open it.")
        try:
            grant = await self._tokens.issue(origin.session_id, may)
        except FlowError as error:
            held = await self._held(name, origin, may) if isinstance(error, SecretsAway | SecretsSealed) else None
            if held is None:
                log.warning("a session has no token for Vault", session=origin.session_id, error=error.sentence())
                return replace(profile, missing=(*profile.missing, f"This thread has no Vault now. {error}"))
            log.info("a session keeps its token for Vault", session=origin.session_id, error=error.sentence())
            grant = held
        return replace(
            profile,
            env={**profile.env, "VAULT_TOKEN": self._identity.token("gateway", name)},
            grants={**profile.grants, "vault": grant},
            instructions="\n\n".join(filter(None, (profile.instructions, _told(grant, may)))),
        )

    async def _held(self, name: str, origin: Origin, may: Sequence[str]) -> dict[str, Any] | None:
        """What its door has from before Flow was started again: it works as soon as Vault does."""
        grant = (await self._granted(name)).get("vault")
        if not isinstance(grant, dict) or not str(grant.get("own", "")).endswith(f"/{origin.session_id}"):
            return None
        return grant if grant.get("readable") == list(may) else None


def _told(grant: dict[str, Any], may: Sequence[str]) -> str:
    read = f", and read {', '.join(may)}" if may else ""
    return _INSTRUCTIONS.format(mount=grant["mount"], own=grant["own"], read=read)


def _noted(profile: Profile, note: str) -> Profile:
    return replace(profile, notes=(*profile.notes, note))
