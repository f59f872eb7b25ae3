"""`flow serve`, the composition root: wires all parts, starts them in order, stops them in the reverse one.

Stopping: the doors close, running turns get a grace period, their agents are let go of (they work on), what is
written is shown, everything closes. A second Ctrl-C skips the waiting; nothing is lost by it, only shown later.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bot.core import Core, open_core
from bot.setupstate import SetupState
from config.logging import configure, get_logger
from config.masking import Masker, secrets_of
from sessions.housekeeping import Housekeeping
from sessions.reaper import Reaper, schedule
from sessions.retention import Retention
from web.app import Server, build
from web.control import Control
from web.health import GOOD, states

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    from bot.inbound import Identity
    from bot.slackdoor import SlackDoor
    from config.settings import Settings
    from sessions.types import SessionId

SWEEP_SECONDS = 30.0
_FLUSH_SECONDS = 5.0

log = get_logger(__name__)


async def serve(settings: Settings, greeting: str = "") -> int:
    """Runs until SIGTERM or Ctrl-C. `greeting` is printed when all is up. Raises FlowError when it cannot start."""
    configure(settings.log.format, settings.log.debug, masker=Masker(secrets_of(settings)))
    stop = _signals()
    _allow_many_files()
    me = await _preflight(settings)
    try:
        async with open_core(settings, serving=True) as core, core.sessions, _doors(settings, core, me) as ready:
            # What the start has made stays for ever: looking through it held the event loop up for 0.1 s each time.
            gc.collect()
            gc.freeze()
            print(greeting or f"Flow is ready: {ready}/health", flush=True)
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
    interval = timedelta(seconds=min(SWEEP_SECONDS, settings.sessions.timeout / 2))
    reaper = Reaper(
        core.sessions,
        core.store,
        core.host,
        session_timeout=timedelta(seconds=settings.sessions.timeout),
        interval=interval,
        retention=_retention(settings, core),
    )
    async with AsyncExitStack() as stack:
        slack = None
        if me is not None:
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
            )
            slack = await stack.enter_async_context(opening)
            stack.push_async_callback(_flush, slack)
        await reaper.recover()
        stack.push_async_callback(reaper.close)
        lease = None if core.database.exclusive else timedelta(seconds=settings.sessions.lease)
        scheduler = schedule(reaper, interval, lease)
        stack.callback(scheduler.shutdown, wait=False)
        stack.push_async_callback(core.sessions.drain, settings.sessions.grace)
        probes = _probes(core, reaper, scheduler, slack)
        server = Server(build(probes), settings.web.host, settings.web.port)
        await server.start()
        stack.push_async_callback(server.stop)
        control = Control(settings.share_dir, lambda session_id: _stop(core, session_id))
        await control.start()
        stack.push_async_callback(control.aclose)
        if slack is not None:
            slack.door.homes.setup = SetupState(settings, lambda: states(probes), GOOD)
            await stack.enter_async_context(slack.listening())
        yield server.url


def _retention(settings: Settings, core: Core) -> Retention:
    kept = settings.sessions
    return Retention(
        core.store,
        core.host,
        Housekeeping(core.database, core.sessions.ring),
        workspace=timedelta(seconds=kept.workspace_retention) if kept.workspace_retention else None,
        transcript=timedelta(seconds=kept.transcript_retention) if kept.transcript_retention else None,
        archive=settings.share_dir / "archive" if kept.archive else None,
    )


async def _stop(core: Core, session_id: SessionId) -> None:
    await core.sessions.stop(session_id, by="flow sessions stop")


async def _flush(slack: SlackDoor) -> None:
    if not await slack.flush(_FLUSH_SECONDS):
        log.warning("not everything could be shown in Slack before the end; the next start shows it")


def _probes(core: Core, reaper: Reaper, scheduler: AsyncIOScheduler, slack: SlackDoor | None) -> Mapping[str, Any]:
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

    return {
        "slack": slack_state,
        "database": database,
        "runtime": runtime,
        "gateway": core.gateway.state,
        "scheduler": timer,
    }
