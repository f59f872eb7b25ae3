"""The parts below the doors, wired: database, runtime, gateway, sessions. `serve` and the admin commands share it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from bot.bookkeeping import bookkeeping
from bot.engines import engine_at, gate_reach
from bot.gitwork import GitWork
from bot.profiles import Composed, Part
from bot.secretstores import open_secrets, tokens_of
from bot.sidecars import attend, sidecars_of
from bot.templateprofile import template_part
from bot.vaultdata import DataAndVault
from bot.vaultprofile import VaultProfiles
from config.errors import FlowError
from config.logging import get_logger
from config.masking import Masker, secrets_of
from config.settings import inherited
from sessions.bell import Bell
from sessions.db import Database, open_database
from sessions.egress import Egress, Grants
from sessions.filerules import FileRules
from sessions.manager import Sessions
from sessions.modelusage import ModelUsage
from sessions.options import Options
from sessions.policy import Policy
from sessions.poolstore import PoolStore
from sessions.store import Store
from sessions.templatestore import TemplateStore
from sessions.vaulttokens import VaultTokens
from worklets import gateaddress
from worklets.baseimages import base_part
from worklets.containerprofile import Allowed, ContainerProfiles
from worklets.egress import EgressPolicy
from worklets.egress import told as told_egress
from worklets.egressasking import BLOCKED, WANTED
from worklets.errors import RuntimeUnavailable
from worklets.gatewayclient import GatewayClient
from worklets.gatewaymodel import Credential
from worklets.git import Git
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.kvdoor import StoreDoor, told
from worklets.kvregistry import Registry
from worklets.mirrors import Mirrors
from worklets.repositories import Repositories
from worklets.room import Room
from worklets.startup import Scripts

if TYPE_CHECKING:
    from pathlib import Path

    from config.settings import AskSettings, Settings
    from kvstore.gateway.backend import Admin
    from worklets.docker import DockerRuntime
    from worklets.profileimages import ProfileImages
    from worklets.runtime import Runtime
    from worklets.secrets import SecretStore

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Core:
    database: Database
    store: Store
    runtime: Runtime
    gateway: GatewayClient
    host: WorkletHost
    sessions: Sessions
    registry: Registry
    kv: StoreDoor
    secrets: SecretStore
    repositories: Repositories
    mirrors: Mirrors
    scripts: Scripts
    pool: PoolStore
    egress: Egress


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
        runtime = await choose_runtime(settings, identity)
        stack.push_async_callback(runtime.close)
        secrets = open_secrets(settings)
        stack.push_async_callback(secrets.aclose)
        tokens = await stack.enter_async_context(tokens_of(secrets, VaultTokens(database), serving=serving))
        repositories = Repositories(settings.repositories, secrets)
        mirrors = mirrors_of(settings, identity, repositories)
        vault = VaultProfiles(TemplateStore(database), tokens, settings.secrets, identity, gateway.granted)
        git = GitWork(repositories, mirrors, identity)
        kept = settings.repositories
        scripts = Scripts(kept.scripts, kept.script_timeout, repositories, mirrors)
        reach = EgressPolicy.of(told_egress(settings.egress))
        people = Grants(database, asked=reach.asks)
        room = Room(settings.share_dir, settings.isolation.disk_reserve, runtime.places)
        images = profile_images(settings, identity, room) if runtime.kind == "docker" else None
        if images is not None:
            stack.push_async_callback(images.aclose)
        sidecars = sidecars_of(settings, identity, runtime, images.on_bases if images is not None else None)
        if sidecars is not None:
            stack.push_async_callback(sidecars.aclose)
        host = WorkletHost(
            runtime,
            gateway,
            identity,
            settings.share_dir,
            model=settings.claude.model,
            mirrors=mirrors,
            file_limit=settings.files.limit,
            egress=reach,
            profiles=_profiles(settings, database, lambda: secrets, vault, [git.part, scripts.part], people),
            previews=bool(settings.previews.url),
            images=images,
            room=room,
            sidecars=sidecars,
        )
        store = Store(database)
        pool = PoolStore(database, store.clock)
        if serving:
            await stack.enter_async_context(bookkeeping(gateway, ModelUsage(database, store.clock)))
        registry = _registry(settings)
        stack.push_async_callback(registry.aclose)
        kv = StoreDoor(settings.share_dir)
        kv.configure(told(settings.kv))
        stack.push_async_callback(kv.aclose)
        bell = await stack.enter_async_context(Bell(database, identity.instance)) if serving else None
        shown = {"level": settings.show.level, "mention": settings.show.mention_at_end}
        options = await stack.enter_async_context(Options(database, shown))
        sessions = Sessions(
            store,
            host,
            max_sessions=settings.sessions.max_sessions,
            lease_seconds=settings.sessions.lease,
            limits=settings.limits,
            bell=bell,
            policy=_policy(settings.asks),
            masker=Masker([*secrets_of(settings), *settings.secrets.keys]),
            secrets=lambda session: [
                *(identity.token(purpose, session.worklet) for purpose in ("relay", "gateway")),
                *secrets.known(),
            ],
            options=options,
            files=FileRules(settings.files.attachment_limit, settings.files.attachment_count),
            data=registry if tokens is None else DataAndVault(registry, tokens, TemplateStore(database)),
            pool=pool,
            turn_timeout=_span(settings.sessions.turn_timeout),
            session_work=_span(settings.isolation.session_work),
        )
        await stack.enter_async_context(git.attending(sessions, host, gateway))
        egress = Egress(sessions, people, host.grant, gateway)
        stack.push_async_callback(egress.close)
        gateway.runs = egress.runs
        if serving:
            gateway.on("connected", egress.connected)
            egress.connected({})  # it may be so already
            egress.watch()
        gateway.on(WANTED, egress.wanted)
        gateway.on(BLOCKED, egress.blocked)
        if sidecars is not None:
            attend(sidecars, sessions, gateway, people.sessions)
        yield Core(
            database,
            store,
            runtime,
            gateway,
            host,
            sessions,
            registry,
            kv,
            secrets,
            repositories,
            mirrors,
            scripts,
            pool,
            egress,
        )


def mirrors_of(settings: Settings, identity: Identity, repositories: Repositories) -> Mirrors:
    """The mirrors in the share directory; nothing is fetched yet."""
    kept, git = settings.repositories, Git(inherited(), local=settings.worklets.local_repositories)
    return Mirrors(
        settings.share_dir,
        identity,
        git,
        resolve=repositories.source,
        fresh=kept.fresh,
        timeout=kept.timeout,
        limit=kept.limit,
        keep=kept.keep,
        disk=settings.isolation.disk,
    )


def allowed_by(settings: Settings) -> Allowed:
    """The most that a repository's container.yaml can have."""
    worklets, turn = settings.worklets, settings.sessions.turn_timeout
    return Allowed(worklets.memory, worklets.cpus, turn, EgressPolicy.of(told_egress(settings.egress)))


def _profiles(
    settings: Settings,
    database: Database,
    secrets: Callable[[], SecretStore],
    vault: VaultProfiles,
    git: Sequence[Part],
    people: Grants,
) -> Composed:
    find = Repositories(settings.repositories).find
    container = ContainerProfiles(settings.share_dir, allowed_by(settings), secrets, find)
    bases = settings.images.bases
    template = base_part(bases, template_part(TemplateStore(database), secrets, find))
    # People's part goes last: it has to know what tightens.
    parts = [template, base_part(bases, container.part), vault.part, *git, people.part]
    return Composed(parts, [container.learn], [people.ended], [container.forked])


def profile_images(settings: Settings, identity: Identity, room: Room | None = None) -> ProfileImages:
    """The images on other bases and with a browser; nothing is asked of the engine yet.

    `room`: None for that of the share directory.
    """
    from worklets.imagebuild import browser_recipe
    from worklets.prebuilt import Prebuilt
    from worklets.profileimages import ProfileImages

    made = partial(
        Prebuilt, settings.share_dir, identity.instance, engine_at(settings), keep=settings.images.keep,
        room=room or Room(settings.share_dir, settings.isolation.disk_reserve),
    )  # fmt: skip
    return ProfileImages(settings.worklets.image, made(), made(made_of=browser_recipe, fetches=False))


def _span(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _registry(settings: Settings) -> Registry:
    def open_admin() -> Admin:
        from kvstore.gateway.opening import open_admin

        return open_admin(settings.kv, settings.share_dir)

    return Registry(open_admin, max_keys=settings.kv.max_keys, max_bytes=settings.kv.max_bytes)


def _policy(asks: AskSettings) -> Policy:
    expires = timedelta(seconds=asks.expires) if asks.expires is not None else None
    risk = None if asks.risk == "never" else asks.risk
    return Policy(asks.mode, asks.allow, asks.ask, asks.deny, expires, risk)


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
        share_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # what people wrote lies in it
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


def docker_runtime(settings: Settings, identity: Identity) -> DockerRuntime:
    """The engine that the settings name, with their limits; nothing is asked of it yet. Raises FlowError."""
    from worklets.docker import DockerRuntime

    worklets, isolation, reach = settings.worklets, settings.isolation, gate_reach(settings)
    options: dict[str, Any] = {
        "share_dir": settings.share_dir,
        "identity": identity,
        "image": worklets.image,
        "memory": worklets.memory,
        "cpus": worklets.cpus,
        "pids": isolation.pids,
        "disk": isolation.disk,
        "disk_image": isolation.disk_image,
        "disk_reserve": isolation.disk_reserve,
        "open_files": isolation.open_files,
        "log_size": isolation.log_size,
        "oci_runtime": isolation.runtime,
        "host": engine_at(settings),
    }
    if reach is None:
        return DockerRuntime(**options)
    from worklets.remote import RemoteRuntime

    listen = settings.remote.gate_listen, settings.remote.gate_port
    return RemoteRuntime(gate_host=reach.host, gate_port=reach.port, listen=listen, **options)


async def choose_runtime(settings: Settings, identity: Identity) -> Runtime:
    """The runtime that FLOW_RUNTIME names; for "auto" Docker where an engine answers, else local processes."""
    wanted = settings.worklets.runtime
    if wanted == "local" or gate_reach(settings) is None:
        gateaddress.forget(settings.share_dir)
    if wanted != "local":
        docker = docker_runtime(settings, identity)
        if wanted == "docker" or gate_reach(settings) is not None:  # who names an engine elsewhere wants that one
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

    return LocalRuntime(share_dir=settings.share_dir, identity=identity)


def _gateway(settings: Settings, identity: Identity) -> GatewayClient:
    claude = settings.claude
    credential = Credential(
        api_key=claude.api_key.get_secret_value() if claude.api_key else None,
        oauth_token=claude.oauth_token.get_secret_value() if claude.oauth_token else None,
    )
    return GatewayClient(
        settings.share_dir,
        identity,
        claude.base_url,
        credential,
        store=settings.kv,
        egress=settings.egress,
        environ=inherited(),
    )
