"""A Vault token for each session whose template says so: its own policy, a short life, revoked at the session's end.

The token stays with Flow: the bot tells it to the gateway, which puts it in the place of the worklet's own
(`worklets.secretsdoor`). Flow keeps its accessor, by which it is renewed and revoked and nothing can be read; so a Flow
that was killed revokes it when it is back, and where it does not come back the token ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

import structlog

from config.errors import FlowError
from worklets.secrets import SecretError, SecretsAway, SecretsNotAllowed, SecretsSealed
from worklets.secretshvac import answered
from worklets.secretskv import KV

if TYPE_CHECKING:
    import hvac

    from worklets.secretsvault import VaultStore

_PATH = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9_@.:-]*(/[A-Za-z0-9_@-][A-Za-z0-9_@.:-]*)*(/?\*)?")
_SESSION = re.compile(r"[0-9a-f-]{36}")
_MOST_PATHS = 50
OWN = "worklets"  # below the mount: each session's own secrets
_SWEEP_SECONDS = 30.0
_END_SECONDS = 2.0  # how long a session that falls asleep waits for Vault
_CLEAR_SECONDS = 60.0  # of clearing in one go: the session is kept from others meanwhile
_WIPED_AT_ONCE = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Issued:
    """`accessor`: Vault's, and after a slash the mark of the token's policy. `expires_at`: unless it is renewed."""

    accessor: str
    session_id: str
    expires_at: datetime


class Accessors(Protocol):
    """Where tokens are remembered (sessions/vaulttokens.py). All methods raise StoreUnavailable."""

    async def add(self, issued: Issued) -> None: ...

    async def renewed(self, accessor: str, expires_at: datetime) -> None: ...

    async def of(self, session_id: str) -> list[str]: ...

    async def remove(self, accessor: str) -> None: ...

    async def due(self, now: datetime, until: datetime) -> list[Issued]:
        """Those of sessions that are awake, of any process of Flow, that end between the two."""

    async def useless(self, now: datetime) -> list[Issued]:
        """Those whose session sleeps or is gone, and those that have ended."""


class SessionTokens:
    """One per program. `start` renews and sweeps in the background; `aclose` lets go, and revokes nothing."""

    def __init__(
        self,
        store: VaultStore,
        accessors: Accessors,
        clock: Callable[[], datetime],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store, self._accessors, self._clock, self._sleep = store, accessors, clock, sleep
        self._settings = store.vault.settings
        self._grants: dict[str, tuple[dict[str, Any], Issued]] = {}  # by session
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ending: dict[str, asyncio.Task[None]] = {}
        self._clearing = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep(), name="Vault tokens of sessions")

    async def aclose(self) -> None:
        tasks = [*self._ending.values(), *([self._keeping] if self._keeping is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def issue(self, session_id: str, readable: Sequence[str]) -> dict[str, Any]:
        """What the gateway is told for the session: how to reach Vault, the token, and which paths it is for.

        `readable` are paths below the mount that it may read; `team/*` are all below. The token of an earlier process
        of Flow is revoked. Raises SecretError, StoreUnavailable.
        """
        async with self._lock(session_id):
            before = await self._accessors.of(session_id)
            known = self._grants.get(session_id)
            if (
                known is not None
                and known[0]["readable"] == list(readable)
                and known[1].expires_at > self._clock()
                and known[1].accessor in before  # else another process of Flow has ended it
            ):
                return known[0]
            policy = policy_of(self._settings.mount, session_id, readable)
            token, accessor, ttl = await self._store.do(lambda client: self._create(client, session_id, policy))
            issued = Issued(accessor, session_id, self._clock() + timedelta(seconds=ttl))
            try:
                await self._accessors.add(issued)
            except BaseException:
                with suppress(FlowError):
                    await asyncio.shield(self._void(session_id, accessor))
                raise
            for old in before:
                await self._revoke(session_id, old)
            grant = self._grant(session_id, readable, token)
            self._grants[session_id] = grant, issued
            log.info("a session has a token for Vault", session=session_id, seconds=ttl)
            return grant

    async def end(self, session_id: str) -> None:
        """Its tokens are void, or soon will be: Vault is waited for a moment only. Raises nothing. Idempotent."""
        self._grants.pop(session_id, None)
        task = self._ending.get(session_id)
        if task is None:
            self._ending[session_id] = task = asyncio.create_task(self._end(session_id), name=f"end of {session_id}")
            task.add_done_callback(lambda _: self._ending.pop(session_id, None))
        await asyncio.wait([task], timeout=_END_SECONDS)

    async def _end(self, session_id: str) -> None:
        try:
            async with self._lock(session_id):
                if session_id in self._grants:  # it woke up meanwhile, and the one before is revoked already
                    return
                for accessor in await self._accessors.of(session_id):
                    await self._revoke(session_id, accessor)
        except FlowError as error:
            log.warning("a session's Vault token is revoked later", session=session_id, error=error.sentence())
        except Exception:
            log.exception("a session's Vault token is revoked later", session=session_id)

    async def remove(self, session_id: str) -> None:
        """The secrets that the session has stored go for good, where Flow's policy lets it. Raises SecretError."""
        await self.end(session_id)
        try:
            async with self._clearing:  # a session may have stored much: it must not take all that Vault gives Flow
                await self._clear(session_id)
        except SecretsNotAllowed as error:
            log.warning("what a session stored in Vault stays there", session=session_id, error=error.sentence())

    async def _clear(self, session_id: str) -> None:
        """In small steps, so that nobody waits long for a thread."""
        kv, folders = KV(self._settings.mount, OWN), [session_id]
        end = self._clock() + timedelta(seconds=_CLEAR_SECONDS)
        while folders:
            folder = folders.pop()
            found, below = await self._store.do(partial(kv.listed, folder=folder))
            folders += below
            for start in range(0, len(found), _WIPED_AT_ONCE):
                if self._clock() > end:
                    raise SecretError("A session has stored more in Vault than can be removed in one go.")
                await self._store.do(partial(kv.wipe, paths=found[start : start + _WIPED_AT_ONCE]))

    async def sweep(self) -> None:
        """Revokes what a killed Flow, or a Vault that was away, has left. Raises SecretError, StoreUnavailable."""
        await self._each(await self._accessors.useless(self._clock()), self._sweep)

    async def _sweep(self, one: Issued) -> None:
        async with self._lock(one.session_id):
            held = self._grants.get(one.session_id)
            if held is not None and held[1].accessor == one.accessor:
                if one.expires_at > self._clock():
                    return  # its session is just waking up
                del self._grants[one.session_id]
            await self._revoke(one.session_id, one.accessor)

    async def renew(self) -> None:
        """Those of awake sessions where a third of their life or less is left. Raises SecretError, StoreUnavailable."""
        now = self._clock()
        due = await self._accessors.due(now, now + timedelta(seconds=self._settings.session_ttl) / 3)
        await self._each(due, self._renew_one)

    async def _renew_one(self, one: Issued) -> None:
        accessor, session_id = one.accessor, one.session_id
        seconds = await self._store.do(partial(self._renew, accessor=_accessor_of(accessor)))
        held = self._grants.get(session_id)
        is_held = held is not None and held[1].accessor == accessor
        if seconds is None:
            log.warning("a session's Vault token was ended by somebody else", session=session_id)
            if is_held:
                del self._grants[session_id]
            await self._revoke(session_id, accessor)
            return
        expires = self._clock() + timedelta(seconds=seconds)
        if held is not None and is_held:
            self._grants[session_id] = held[0], Issued(accessor, session_id, expires)
        await self._accessors.renewed(accessor, expires)

    async def _each(self, tokens: Sequence[Issued], do: Callable[[Issued], Awaitable[None]]) -> None:
        """One that cannot be done keeps no other waiting; what concerns them all is raised at once."""
        failed: SecretError | None = None
        for one in tokens:
            try:
                await do(one)
            except (SecretsAway, SecretsSealed):
                raise
            except SecretError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _renew(self, client: hvac.Client, accessor: str) -> float | None:
        """How long it lasts now, in seconds. None: it has ended."""
        from hvac.exceptions import InvalidPath, InvalidRequest

        try:
            answer = client.auth.token.renew_accessor(accessor, increment=f"{self._settings.session_ttl:.0f}s")
        except (InvalidPath, InvalidRequest):
            return None
        return float(answered(answer)["auth"]["lease_duration"])

    def _lock(self, session_id: str) -> asyncio.Lock:
        return self._locks.setdefault(session_id, asyncio.Lock())

    def _create(self, client: hvac.Client, session_id: str, policy: str) -> tuple[str, str, float]:
        """Token, accessor as in `Issued`, seconds.

        The role makes it an orphan, which outlives Flow's own token: that is another one after a login. Its policy is
        its own: no other process of Flow that ends another token of the session takes it away.
        """
        mark = secrets.token_hex(4)
        name = policy_name(session_id, mark)
        client.sys.create_or_update_policy(name, policy)
        made = answered(
            client.auth.token.create(
                role_name=self._settings.token_role,
                policies=[name],
                no_default_policy=True,
                ttl=f"{self._settings.session_ttl:.0f}s",
                renewable=True,
                display_name="flow-worklet",
                meta={"session": session_id},
            )
        )["auth"]
        return made["client_token"], f"{made['accessor']}/{mark}", float(made["lease_duration"])

    def _grant(self, session_id: str, readable: Sequence[str], token: str) -> dict[str, Any]:
        own = self._settings
        return {
            "address": own.address,
            "namespace": own.namespace,
            "ca_cert": str(own.ca_cert) if own.ca_cert else None,
            "client_cert": str(own.client_cert) if own.client_cert else None,
            "client_key": str(own.client_key) if own.client_key else None,
            "skip_verify": own.skip_verify,
            "timeout": own.timeout,
            "mount": own.mount,
            "own": f"{OWN}/{session_id}",
            "readable": list(readable),
            "token": token,
        }

    async def _revoke(self, session_id: str, accessor: str) -> None:
        """One that is void already is forgotten. Raises SecretError, StoreUnavailable."""
        await self._void(session_id, accessor)
        await self._accessors.remove(accessor)

    async def _void(self, session_id: str, accessor: str) -> None:
        """With its policy. Raises SecretError."""
        from hvac.exceptions import InvalidPath, InvalidRequest

        def revoke(client: hvac.Client) -> None:
            try:
                client.auth.token.revoke_accessor(_accessor_of(accessor))
            except (InvalidPath, InvalidRequest) as error:
                log.debug("a token was void already", error=type(error).__name__)
            client.sys.delete_policy(policy_name(session_id, accessor.partition("/")[2]))

        await self._store.do(revoke)

    async def _keep(self) -> None:
        told: dict[str, str] = {}
        while True:
            for what, do in (("renewed", self.renew), ("revoked", self.sweep)):
                try:
                    await do()
                    told.pop(what, None)
                except FlowError as error:
                    if told.get(what) != str(error):
                        log.warning(f"Vault tokens of sessions are not {what}", error=error.sentence())
                    told[what] = str(error)
                except Exception:
                    log.exception(f"Vault tokens of sessions are not {what}")
            await self._sleep(min(_SWEEP_SECONDS, self._settings.session_ttl / 6))


def _accessor_of(accessor: str) -> str:
    """As Vault has it."""
    return accessor.partition("/")[0]


def policy_name(session_id: str, mark: str = "") -> str:
    """Without a mark: as earlier versions of Flow named it."""
    return f"flow-worklet-{session_id}-{mark}" if mark else f"flow-worklet-{session_id}"


def policy_of(mount: str, session_id: str, readable: Sequence[str]) -> str:
    """The session's policy, as JSON. Raises SecretError for a path that is none."""
    if not _SESSION.fullmatch(session_id):
        raise SecretError("A session's id is no uuid.")
    own = f"{OWN}/{session_id}"
    rules = {
        f"{mount}/data/{own}/*": ["create", "read", "update", "patch", "delete"],
        f"{mount}/metadata/{own}": ["list"],
        f"{mount}/metadata/{own}/*": ["list", "read", "delete"],
        **{f"{mount}/{verb}/{own}/*": ["update"] for verb in ("delete", "undelete", "destroy")},
        **{f"{mount}/data/{path}": ["read"] for path in readable},
        "auth/token/lookup-self": ["read"],
    }
    return json.dumps({"path": {path: {"capabilities": powers} for path, powers in rules.items()}})


def allowed_paths(asked: Sequence[str], mount: str, shared: Sequence[str]) -> tuple[list[str], list[str]]:
    """Of the paths that a template names, those that sessions may read, and those that they may not.

    A path is below the mount, or begins with it (`secret/data/team/x` is `team/x`). `shared`: what the administrator
    has opened; a name opens itself and all below.
    """
    may, may_not = list[str](), list[str]()
    for path in asked:
        clean = path.strip("/").removeprefix(f"{mount}/data/").removeprefix(f"{mount}/")
        # `team*` would reach into `team-b`: a star stands alone in its part.
        whole = clean.removesuffix("*")
        is_path = _PATH.fullmatch(clean) and ".." not in clean and (whole == clean or whole.endswith("/"))
        opened = any(whole.rstrip("/") == one or whole.startswith(f"{one}/") for one in shared)
        (may if is_path and opened and len(may) < _MOST_PATHS else may_not).append(clean if is_path else path)
    return may, may_not
