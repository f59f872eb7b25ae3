"""`flow demo`: a Slack workspace on this machine, the bot in it, and a page to type into.

The scripted model answers unless a Claude credential is set. Everything stays on loopback, and each demo starts
with an empty workspace (its data lies in `demo` below the share directory). What the settings say of a real Flow's
database, key-value store and people is not for the demo.
"""

from __future__ import annotations

import contextlib
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from bot.core import choose_runtime, make_share_dir
from bot.engines import engine_at
from bot.progress import build_image
from bot.serve import serve
from config.errors import FlowError
from config.settings import AccessSettings, KVSettings
from sessions.db import open_database
from worklets.gatewaycontrol import dismiss
from worklets.identity import Identity

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.runtime import Runtime

PORT = 8801
MANIFEST = Path(__file__).parents[1] / "manifest.yml"


async def demo(settings: Settings) -> int:
    """Runs until Ctrl-C."""
    from simulator.slack import SlackSimulator

    settings = _apart(settings)
    make_share_dir(settings.share_dir)
    async with AsyncExitStack() as stack:
        slack = SlackSimulator(port=PORT, manifest=MANIFEST if MANIFEST.exists() else None)
        try:
            await slack.start()
        except OSError:
            slack = SlackSimulator(manifest=MANIFEST if MANIFEST.exists() else None)
            await slack.start()
        stack.push_async_callback(slack.stop)
        settings = await _with_model(_with_slack(settings, slack.api_url, slack.app_token, slack.bot_token), stack)
        settings = await _with_runtime(settings)
        try:
            return await serve(settings, greeting=lambda http: _greeting(settings, slack.url, http))
        finally:
            await _clear(settings)


def _apart(settings: Settings) -> Settings:
    """Nothing of a real Flow's: its stores are not written to, and its people's ids mean nobody in this workspace."""
    share_dir = settings.share_dir / "demo"
    kv = settings.kv
    own = {
        "share_dir": share_dir,
        "sessions": settings.sessions.model_copy(update={"dsn": f"sqlite://{share_dir / 'db.sqlite'}"}),
        "kv": KVSettings(backend="sqlite", max_bytes=kv.max_bytes, max_keys=kv.max_keys, rate=kv.rate),
        "access": AccessSettings(),
        "asks": settings.asks.model_copy(update={"answerers": "participants", "approvers": ()}),
        "previews": settings.previews.model_copy(update={"url": "http://*.localhost:0"}),
        "web": settings.web.model_copy(update={"host": "127.0.0.1", "port": 0}),
    }
    return settings.model_copy(update=own)


def _with_slack(settings: Settings, api_url: str, app_token: str, bot_token: str) -> Settings:
    slack = settings.slack.model_copy(
        update={
            "enabled": True,
            "api_url": api_url,
            "app_token": SecretStr(app_token),
            "bot_token": SecretStr(bot_token),
        }
    )
    return settings.model_copy(update={"slack": slack})


async def _with_model(settings: Settings, stack: AsyncExitStack) -> Settings:
    """The scripted model unless there is a credential for a real one."""
    if settings.claude.api_key or settings.claude.oauth_token:
        return settings
    from simulator.model import ScriptedModel

    model = await stack.enter_async_context(ScriptedModel())
    claude = settings.claude.model_copy(
        update={"api_key": SecretStr("no-key-the-model-is-scripted"), "base_url": model.url}
    )
    return settings.model_copy(update={"claude": claude})


async def _with_runtime(settings: Settings) -> Settings:
    """Settles "auto", clears what an earlier demo left, and builds the image when it is missing or stale."""
    await open_database(settings.sessions.dsn).close()  # StoreBusy while another demo runs here
    identity = Identity.load(settings.share_dir)
    runtime = await choose_runtime(settings, identity)
    try:
        kind = runtime.kind
        if kind == "docker" and not await _image_ready(settings) and settings.worklets.runtime == "auto":
            kind = "local"
        await _remove_all(runtime)
    finally:
        await runtime.close()
    await dismiss(settings.share_dir)  # it outlives a demo that was killed, and would open doors of what is gone
    for leftover in ("db.sqlite", "db.sqlite-wal", "db.sqlite-shm"):
        (settings.share_dir / leftover).unlink(missing_ok=True)
    return settings.model_copy(update={"worklets": settings.worklets.model_copy(update={"runtime": kind})})


async def _image_ready(settings: Settings) -> bool:
    """Builds the image where it must be; False (and a sentence) when it cannot and a local runtime may stand in."""
    from worklets.imagebuild import needs_build

    try:
        if await needs_build(settings.worklets.image, docker_host=engine_at(settings)):
            print("The worklet image is built once; this takes a minute or two.", flush=True)
            await build_image(settings)
    except FlowError as e:
        if settings.worklets.runtime != "auto":
            raise
        print(f"No worklet image: {e.sentence()} Worklets are plain processes for now.", flush=True)
        return False
    return True


async def _remove_all(runtime: Runtime) -> None:
    for worklet in await runtime.list():
        await runtime.remove(worklet.name, grace=1)
    for name in await runtime.volumes():
        await runtime.remove_volume(name)


async def _clear(settings: Settings) -> None:
    """The workspace is gone with the process, so are its worklets. What cannot go now goes at the next demo."""
    identity = Identity.load(settings.share_dir)
    with contextlib.suppress(FlowError):
        runtime = await choose_runtime(settings, identity)
        try:
            await _remove_all(runtime)
        finally:
            await runtime.close()
    shutil.rmtree(settings.share_dir / "worklets", ignore_errors=True)


def _greeting(settings: Settings, url: str, http: str) -> str:
    where = "Docker containers" if settings.worklets.runtime == "docker" else "plain processes (nothing is isolated)"
    real = settings.claude.base_url.startswith("https://")
    who = "Claude" if real else "the scripted model, for made-up dollars (set ANTHROPIC_API_KEY for the real one)"
    return (
        f"\n  Open  {url}\n\n"
        f"  and write   /flow SAY hello      or   /flow help me refactor this\n\n"
        f"  Answers come from {who}; worklets are {where}.\n"
        f"  Key-value store: SQLite in {settings.share_dir}.\n"
        f"  HTTP, health, key-value store: {http}/\n"
        f"  Ctrl-C ends the demo.\n"
    )
