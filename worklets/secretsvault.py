"""Secrets in Vault or OpenBao: KV version 2, `<mount>/data/<prefix>/<path>`.

hvac blocks, so it runs in threads of its own, each request under a time limit. What was read once can still be read
while the server is away or sealed, until it is too old; when the server says no, nothing is given any more.
"""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from worklets.secrets import (
    Known,
    SecretError,
    SecretMissing,
    SecretsAway,
    SecretsForbidden,
    SecretsSealed,
    check_path,
    check_values,
)
from worklets.secretshvac import Vault, answered
from worklets.secretskv import KV

if TYPE_CHECKING:
    import hvac

    from config.settings import SecretSettings

T = TypeVar("T")

_THREADS = 4
_PAUSES = (0.2, 0.6)  # seconds before each further try
_REST_SECONDS = 5.0  # after a failure the server is left alone so long by those who have a copy
_RENEW_AGAIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


class VaultStore:
    """A `SecretStore`. `start` keeps its token alive in the background; close it with `aclose`."""

    kind = "vault"

    def __init__(
        self,
        settings: SecretSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings, self._clock, self._sleep = settings, clock, sleep
        self.vault = Vault(settings, clock)
        self._threads = ThreadPoolExecutor(_THREADS, "vault")
        self._kv = KV(settings.mount, settings.prefix)
        self._known = Known()
        self._copies: dict[str, tuple[dict[str, str], float]] = {}  # by path, with when they were read
        self._away_since: float | None = None
        self._rest_until = 0.0
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Logs in, and from then on renews the token at two thirds of its life. Returns at once. Idempotent."""
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name="Vault's token")

    async def get(self, path: str) -> Mapping[str, str]:
        """The secret's values; a copy while Vault is away. Raises SecretError."""
        check_path(path)
        if self._copy(path) is not None and self._clock() < self._rest_until:
            return self._given(path)
        try:
            values, _ = await self.do(lambda client: self._kv.read(client, path))
        except SecretMissing as error:
            self._copies.pop(path, None)
            raise SecretMissing(f"There is no secret {path}.") from error
        except SecretsForbidden:
            self._copies.clear()
            raise
        except (SecretsAway, SecretsSealed):
            if self._copy(path) is None:
                raise
            return self._given(path)
        self._copies[path] = values, self._clock()
        self._known.note(values)
        return dict(values)

    async def put(self, path: str, values: Mapping[str, str], *, keep: bool = False) -> None:
        """Nobody's change in between is written over unseen: check-and-set. Raises SecretError."""
        check_path(path)
        stored = check_values(values)
        await self.do(lambda client: self._kv.write(client, path, stored, keep))
        self._known.note(stored)
        self._copies.pop(path, None)

    async def delete(self, path: str) -> None:
        """All its versions. Raises SecretMissing."""
        check_path(path)

        try:
            await self.do(lambda client: self._kv.delete(client, path))
        except SecretMissing as error:
            raise SecretMissing(f"There is no secret {path}.") from error
        self._copies.pop(path, None)

    async def list(self) -> builtins.list[str]:
        """Those with names that Flow could have given; at most a thousand."""
        return sorted(await self.do(self._kv.paths))

    async def state(self) -> Mapping[str, Any]:
        try:
            await self.token()
        except SecretError as error:
            return {"state": _state_of(error), "kind": self.kind, "error": str(error)}
        return {"state": "ok", "kind": self.kind}

    async def server(self) -> Mapping[str, Any]:
        """{"version", "state"}: what anybody may ask. Raises SecretsAway, SecretsSealed."""

        def ask(client: hvac.Client) -> Mapping[str, Any]:
            return answered(client.sys.read_seal_status())

        told = await self._bounded(lambda: self.vault.open(ask))
        state = "not set up" if not told["initialized"] else "sealed" if told["sealed"] else "unsealed"
        return {"version": str(told.get("version", "unknown")), "state": state}

    async def token(self) -> Mapping[str, Any]:
        """Flow's own: {"ttl" in seconds (0: for ever), "renewable", "policies"}. Raises SecretError."""

        def ask(client: hvac.Client) -> Mapping[str, Any]:
            data: Mapping[str, Any] = answered(client.auth.token.lookup_self())["data"]
            return data

        data = await self._bounded(lambda: self.vault.call(ask))
        policies = sorted({*data.get("policies", ()), *(data.get("identity_policies") or ())})
        return {"ttl": data["ttl"], "renewable": bool(data.get("renewable")), "policies": policies}

    async def lacking(self) -> builtins.list[str]:
        """Of what Flow needs to give sessions tokens, the paths that its policy forbids. Raises SecretError."""
        needed = {
            "sys/policy/flow-worklet-0": {"create", "update"},
            f"auth/token/create/{self._settings.token_role}": {"create", "update"},
            "auth/token/renew-accessor": {"create", "update"},
            "auth/token/revoke-accessor": {"create", "update"},
        }

        def ask(client: hvac.Client) -> Mapping[str, Any]:
            asked = {"paths": builtins.list(needed)}
            data: Mapping[str, Any] = answered(client.adapter.post("/v1/sys/capabilities-self", json=asked))["data"]
            return data

        found = await self.do(ask)
        return [path for path, any_of in needed.items() if not {*any_of, "root"} & set(found.get(path, ()))]

    def known(self) -> builtins.list[str]:
        return self._known.values()

    async def aclose(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.vault.close()

    async def do(self, act: Callable[[hvac.Client], T]) -> T:
        """What `act` gives, in a thread; tried again where the server does not answer. Raises SecretError."""
        began, pauses = self._clock(), builtins.list(_PAUSES)
        while True:
            try:
                result = await self._timed(act)
            except SecretsAway as error:
                if not pauses or self._clock() - began > self._settings.timeout:
                    self._failed(error)
                    raise
                await self._sleep(pauses.pop(0))
            except SecretsSealed as error:
                self._failed(error)
                raise
            else:
                self._served()
                return result

    # In threads

    async def _timed(self, act: Callable[[hvac.Client], T]) -> T:
        """hvac's limit is for each read of a socket; this one for all of it."""
        return await self._bounded(lambda: self.vault.call(act), times=2)

    async def _bounded(self, work: Callable[[], T], times: int = 1) -> T:
        try:
            async with asyncio.timeout(times * self._settings.timeout):
                return await self._in_thread(work)
        except TimeoutError:
            raise SecretsAway("Vault does not answer in time.") from None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # While it is away

    def _copy(self, path: str) -> dict[str, str] | None:
        values, read = self._copies.get(path, (None, 0.0))
        return values if values is not None and self._clock() - read < self._settings.cache else None

    def _given(self, path: str) -> dict[str, str]:
        values = self._copy(path)
        assert values is not None
        return dict(values)

    def _failed(self, error: SecretError) -> None:
        self._rest_until = self._clock() + _REST_SECONDS
        if self._away_since is None and self._copies:
            self._away_since = self._clock()
            log.warning(
                "Vault does not serve; secrets that were read before go on being used",
                error=str(error),
                at_most=self._settings.cache,
            )

    def _served(self) -> None:
        self._rest_until = 0.0
        if self._away_since is not None:
            log.info("Vault is back", seconds=round(self._clock() - self._away_since))
            self._away_since = None

    # The token

    async def _keep(self) -> None:
        told = ""
        while True:
            try:
                await self._in_thread(self._renewed)
                told = ""
            except SecretError as error:
                if told != str(error):
                    log.warning("Flow's token for Vault could not be renewed", error=error.sentence())
                told = str(error)
            except Exception as error:  # an answer of another shape: without this loop the token would end
                if told != repr(error):
                    log.exception("Flow's token for Vault could not be renewed")
                told = repr(error)
            lease = self.vault.lease
            due = lease.due if lease is not None and not told else None
            # Without an end it is still looked at: a login after Forbidden may have brought another one.
            wait = _RENEW_AGAIN_SECONDS if told else 60.0
            await self._sleep(min(wait, max(0.1, due - self._clock())) if due is not None else wait)

    def _renewed(self) -> None:
        """Renews the token where that is due; logs in where nobody has yet."""
        lease = self.vault.lease
        if lease is None:
            self.vault.call(lambda _client: None)
        elif lease.due is not None and lease.due <= self._clock():
            self.vault.renew()


def _state_of(error: Exception) -> str:
    match error:
        case SecretsSealed():
            return "sealed"
        case SecretsForbidden():
            return "forbidden"
    return "away"
