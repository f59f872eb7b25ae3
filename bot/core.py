"""The parts below the doors, wired: database, runtime, gateway, sessions. `serve` and the admin commands share it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from config.errors import FlowError
from config.logging import get_logger
from config.masking import Masker, secrets_of
from config.secretpatterns import is_secret_name
from config.settings import inherited
from sessions.bell import Bell
from sessions.db import Database, open_database
from sessions.filerules import FileRules
from sessions.manager import Sessions
from sessions.options import Options
from sessions.policy import Policy
from sessions.store import Store
from worklets.errors import RuntimeUnavailable
from worklets.gateway import Credential
from worklets.gatewayclient import GatewayClient
from worklets.host import WorkletHost
from worklets.identity import Identity

if TYPE_CHECKING:
    from pathlib import Path

    from config.settings import AskSettings, Settings, WorkletSettings
    from worklets.runtime import Runtime

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Core:
    database: Database
    store: Store
    runtime: Runtime
    gateway: GatewayClient
    host: WorkletHost
    sessions: Sessions


@asynccontextmanager
async def open_core(settings: Settings, *, serving: bool = False) -> AsyncIterator[Core]:
    """Opens the database (schema up to date) and what sessions stand on. No session runs until one is entered.

    `serving`: other replicas' bells are heard too.
    Raises FlowError: a data directory that cannot be written or is in use, a database that does not answer.
    """
    async with AsyncExitStack() as stack:
        database = await open_store(settings)
        stack.push_async_callback(database.close)
        identity = Identity.load(settings.share_dir)
        gateway = _gateway(settings, identity)
        stack.push_async_callback(gateway.aclose)
        runtime = await choose_runtime(settings.worklets, settings.share_dir, identity)
        stack.push_async_callback(runtime.close)
        host = WorkletHost(
            runtime,
            gateway,
            identity,
            settings.share_dir,
            model=settings.claude.model,
            environ=inherited(),
            local_repositories=settings.worklets.local_repositories,
            file_limit=settings.files.limit,
        )
        store = Store(database)
        bell = await stack.enter_async_context(Bell(database, identity.instance)) if serving else None
        env = {"VAULT_ADDR": settings.worklets.vault_addr} if settings.worklets.vault_addr else {}
        shown = {"level": settings.show.level, "mention": settings.show.mention_at_end}
        options = await stack.enter_async_context(Options(database, shown))
        sessions = Sessions(
            store,
            host,
            max_sessions=settings.sessions.max_sessions,
            env=env,
            lease_seconds=settings.sessions.lease,
            limits=settings.limits,
            bell=bell,
            policy=_policy(settings.asks),
            masker=Masker([*secrets_of(settings), *(value for name, value in env.items() if is_secret_name(name))]),
            secrets=lambda session: [identity.token(purpose, session.worklet) for purpose in ("relay", "gateway")],
            options=options,
            files=FileRules(settings.files.attachment_limit, settings.files.attachment_count),
        )
        yield Core(database, store, runtime, gateway, host, sessions)


def _policy(asks: AskSettings) -> Policy:
    expires = timedelta(seconds=asks.expires) if asks.expires is not None else None
    return Policy(asks.mode, asks.allow, asks.ask, asks.deny, expires)


async def open_store(settings: Settings, *, exclusive: bool = True) -> Database:
    """The database with its schema up to date. Raises StoreBusy, StoreUnavailable, FlowError."""
    from migrations import upgrade

    make_share_dir(settings.share_dir)
    database = open_database(settings.sessions.dsn, exclusive=exclusive)
    try:
        await upgrade(settings.sessions.dsn)
    except BaseException:
        await database.close()
        raise
    return database


def make_share_dir(share_dir: Path) -> None:
    """Raises FlowError when it can be neither made nor written."""
    try:
        share_dir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FlowError(
            f"The share directory {share_dir} cannot be made: {e.strerror}.",
            suggestion="Set FLOW_SHARE_DIR to a directory that Flow may write.",
        ) from e
    if not os.access(share_dir, os.W_OK | os.X_OK):
        raise FlowError(
            f"The share directory {share_dir} cannot be written.",
            suggestion="Change its rights, or set FLOW_SHARE_DIR to another one.",
        )


async def choose_runtime(settings: WorkletSettings, share_dir: Path, identity: Identity) -> Runtime:
    """The runtime that FLOW_RUNTIME names; for "auto" Docker where an engine answers, else local processes."""
    if settings.runtime != "local":
        from worklets.docker import DockerRuntime

        docker = DockerRuntime(
            share_dir=share_dir,
            identity=identity,
            image=settings.image,
            memory=settings.memory,
            cpus=settings.cpus,
            host=settings.docker_host,
        )
        if settings.runtime == "docker":
            return docker
        try:
            await docker.check()
        except RuntimeUnavailable as e:
            await docker.close()
            log.warning("no Docker engine answers, so worklets are plain processes", reason=str(e))
        except FlowError:
            return docker  # the engine is there; what else is missing is said when a worklet starts
        else:
            return docker
    from worklets.local import LocalRuntime

    return LocalRuntime(share_dir=share_dir, identity=identity)


def _gateway(settings: Settings, identity: Identity) -> GatewayClient:
    claude = settings.claude
    credential = Credential(
        api_key=claude.api_key.get_secret_value() if claude.api_key else None,
        oauth_token=claude.oauth_token.get_secret_value() if claude.oauth_token else None,
    )
    return GatewayClient(settings.share_dir, identity, claude.base_url, credential, environ=inherited())
