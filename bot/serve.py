"""`flow serve`, the composition root: wires all parts, starts them in order, stops them in the reverse one.

Stopping: the doors close, running turns get a grace period, their agents are let go of (they work on), what is
written is shown, everything closes. A second Ctrl-C skips the waiting; nothing is lost by it, only shown later.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from bot.core import Core, open_core
from bot.figures import TurnFigures, groups
from bot.previewing import preview_hosts, previews_of
from bot.setupstate import SetupState
from bot.watching import Watching, tell_silence
from bot.workletrows import rows_of
from config.logging import configure, get_logger
from config.masking import LearningMasker, Masker, secrets_of
from sessions.errors import SessionNotFound
from sessions.housekeeping import Housekeeping
from sessions.reaper import Reaper, schedule
from sessions.retention import Retention
from sessions.types import SessionId
from web.app import Server, build
from web.control import Control
from web.health import GOOD, states
from web.metrics import Metrics
from web.workletroutes import WorkletRoutes
from worklets.pool import Pool
from worklets.room import sentence

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    from bot.inbound import Identity
    from bot.slackdoor import SlackDoor
    from config.settings import Settings

SWEEP_SECONDS = 30.0
_FLUSH_SECONDS = 5.0

log = get_logger(__name__)


def _ready(url: str) -> str:
    return f"Flow is ready: {url}/health"


async def serve(settings: Settings, greeting: Callable[[str], str] = _ready) -> int:
    """Runs until SIGTERM or Ctrl-C. Raises FlowError when it cannot start.

    `greeting` makes of the HTTP server's address what is printed when all is up.
    """
    own = [*secrets_of(settings), *settings.secrets.keys]
    configure(settings.log.format, settings.log.debug, masker=Masker(own))
    stop = _signals()
    _allow_many_files()
    me = await _preflight(settings)
    try:
        async with open_core(settings, serving=True) as core, core.sessions, _doors(settings, core, me) as ready:
            masker = LearningMasker(own, core.secrets.known)
            configure(settings.log.format, settings.log.debug, masker=masker)
            # What the start has made stays for ever: looking through it held the event loop up for 0.1 s each time.
            gc.collect()
            gc.freeze()
            gc.enable()
            print(greeting(ready), flush=True)
            core.gateway.start()  # not earlier: it would take the start's processor; a worklet that needs it starts it
            await stop.wait()
            log.info("stopping; a second Ctrl-C skips the waiting")
    except asyncio.CancelledError:
        log.warning("stopped at once")
        return 130
    log.info("stopped")
    return 0


def _allow_many_files() -> None:
    """Each worklet's requests cost file descriptors here, and a shell's usual limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _signals() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; the second cancels the running task."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    main = asyncio.current_task()
    assert main is not None

    def on_signal() -> None:
        if stop.is_set():
            main.cancel()
        stop.set()

    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, on_signal)
    return stop


async def _preflight(settings: Settings) -> Identity | None:
    """Who the bot is; None where Slack is switched off. Raises SlackAuthFailed, SlackUnreachable."""
    if not settings.slack.enabled:
        return None
    from bot.socket import preflight

    return await preflight(
        app_token=settings.slack.app_token.get_secret_value(),
        bot_token=settings.slack.bot_token.get_secret_value(),
        api_url=settings.slack.api_url,
    )


@asynccontextmanager
async def _doors(settings: Settings, core: Core, me: Identity | None) -> AsyncIterator[str]:
    """Recovers what ran before, opens the doors, yields the HTTP server's address; then drains."""
    rest = settings.pool.rest_after
    interval = timedelta(seconds=min(SWEEP_SECONDS, settings.sessions.timeout / 2, rest / 2 if rest else SWEEP_SECONDS))
    retention = _retention(settings, core)
    reaper = Reaper(
        core.sessions,
        core.store,
        core.host,
        session_timeout=timedelta(seconds=settings.sessions.timeout),
        rest_after=timedelta(seconds=rest) if rest else None,
        interval=interval,
        retention=retention,
    )
    async with AsyncExitStack() as stack:
        slack, previews = None, previews_of(settings, core)
        if me is not None:
            from bot.branchsearch import BranchSearch
            from bot.repositories import Catalog
            from bot.slackdoor import open_slack_door

            opening = open_slack_door(
                settings.slack,
                me,
                core.sessions,
                core.database,
                core.runtime.kind,
                settings.asks,
                settings.access,
                files=settings.files,
                outgoing=core.host.outgoing,
                shown=settings.show,
                previews=previews,
                debug=settings.log.debug,
            )
            slack = await stack.enter_async_context(opening)
            slack.door.egress = core.egress
            reaper.tell_silence = partial(tell_silence, slack.door.client)
            search = BranchSearch(core.repositories, core.mirrors)
            stack.push_async_callback(search.close)
            slack.door.catalog = Catalog(core.repositories, core.mirrors, core.scripts, search)
            stack.push_async_callback(_flush, slack)
        turns = TurnFigures()
        core.sessions.observe(turns.observe)
        await reaper.recover()
        stack.push_async_callback(reaper.close)
        lease = None if core.database.exclusive else timedelta(seconds=settings.sessions.lease)
        scheduler = schedule(reaper, interval, lease)
        stack.callback(scheduler.shutdown, wait=False)
        stack.push_async_callback(core.sessions.drain, settings.sessions.grace)
        await stack.enter_async_context(Watching(core.runtime, core.host.monitor, core.sessions, reaper))
        warm = Pool(core.pool, core.host, settings.pool.size, alone=core.database.exclusive)
        stack.push_async_callback(warm.aclose)
        probes = {**_probes(core, reaper, scheduler, slack, warm), "disk": lambda: _disk(core)}
        hosts = preview_hosts(settings, core, previews) if previews else None
        metrics = Metrics(groups(settings, core, retention, turns, slack, warm))
        server = Server(build(probes, core.kv, hosts, metrics), settings.web.host, settings.web.port)
        await server.start()
        if previews is not None and hosts is not None:
            previews[1].url = settings.previews.at(server.url)
            stack.push_async_callback(hosts.aclose)
        stack.push_async_callback(server.stop)
        control = Control(settings.share_dir, lambda session_id: _stop(core, session_id), _told(core))
        await control.start()
        stack.push_async_callback(control.aclose)
        if slack is not None:
            slack.door.homes.setup = SetupState(settings, lambda: states(probes), GOOD)
            await stack.enter_async_context(slack.listening())
        warm.start()  # last, since nobody waits for it
        yield server.url


def _retention(settings: Settings, core: Core) -> Retention:
    kept = settings.sessions
    return Retention(
        core.store,
        core.host,
        Housekeeping(core.database, core.sessions.ring),
        data=core.sessions.data,
        workspace=timedelta(seconds=kept.workspace_retention) if kept.workspace_retention else None,
        transcript=timedelta(seconds=kept.transcript_retention) if kept.transcript_retention else None,
        archive=settings.share_dir / "archive" if kept.archive else None,
    )


async def _stop(core: Core, session_id: SessionId) -> None:
    await core.sessions.stop(session_id, by="flow sessions stop")


async def _disk(core: Core) -> Mapping[str, Any]:
    found = await core.host.room.state()
    return {**found, "error": sentence(found)} if found["state"] == "low" else found


def _told(core: Core) -> WorkletRoutes:
    """What `flow worklets` asks for."""

    async def rows(fresh: bool) -> list[dict[str, Any]]:
        return await rows_of(core.host, core.store, core.pool, fresh=fresh)

    async def stderr(session_id: str) -> str | None:
        try:
            session = await core.store.get(SessionId(session_id))
        except SessionNotFound:
            return None
        reading = (await core.host.monitor.fresh()).get(session.worklet)
        return core.sessions.masker(session).text(reading.stderr) if reading is not None else None

    return WorkletRoutes(rows, stderr)


async def _flush(slack: SlackDoor) -> None:
    if not await slack.flush(_FLUSH_SECONDS):
        log.warning("not everything could be shown in Slack before the end; the next start shows it")


def _probes(
    core: Core, reaper: Reaper, scheduler: AsyncIOScheduler, slack: SlackDoor | None, warm: Pool
) -> Mapping[str, Any]:
    async def slack_state() -> Mapping[str, Any]:
        return slack.socket.state() if slack else {"state": "disabled"}

    async def database() -> Mapping[str, Any]:
        await core.database.check()
        return {"state": "ok"}

    async def runtime() -> Mapping[str, Any]:
        await core.runtime.check()
        return {"state": "ok", "kind": core.runtime.kind}

    async def timer() -> Mapping[str, Any]:
        last = reaper.last_sweep.isoformat(timespec="seconds") if reaper.last_sweep else None
        return {"state": "running" if scheduler.running else "down", "last_sweep": last}

    async def kv() -> Mapping[str, Any]:
        state = {"state": "ok", **await core.kv.check()}
        if core.registry.trouble:
            return {**state, "state": "down", "error": core.registry.trouble, "waiting": core.registry.waiting}
        return state

    async def pool() -> Mapping[str, Any]:
        return warm.state()

    return {
        "slack": slack_state,
        "database": database,
        "runtime": runtime,
        "gateway": core.gateway.state,
        "kv": kv,
        "secrets": core.secrets.state,
        "pool": pool,
        "scheduler": timer,
    }
