"""`flow doctor`: every prerequisite, its state, and what to do about it. Exit code 1 when one is not met."""

from __future__ import annotations

import asyncio
import platform
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from bot.core import make_share_dir
from config.errors import FlowError

if TYPE_CHECKING:
    from config.settings import Settings

GIB = 1024**3
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do; empty when there is nothing to do."""

    state: Literal["ok", "warn", "fail", "skip"]
    text: str
    advice: str = ""


Check: TypeAlias = "Callable[[Settings], Awaitable[Finding]]"


async def doctor(settings: Settings) -> int:
    """Runs all checks and prints them as a table."""
    from rich.console import Console
    from rich.table import Table

    findings = await asyncio.gather(*(_run(check, settings) for check in CHECKS.values()))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    marks = {"ok": "[green]✓[/green]", "warn": "[yellow]![/yellow]", "fail": "[red]✗[/red]", "skip": "[dim]-[/dim]"}
    from rich.markup import escape

    for name, finding in zip(CHECKS, findings, strict=True):
        table.add_row(marks[finding.state], name, escape(finding.text), escape(finding.advice))
    # Piped to a file or another program, lines are not cut to a terminal's width.
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    return 1 if any(f.state == "fail" for f in findings) else 0


async def find(name: str, settings: Settings) -> Finding:
    """One of CHECKS."""
    return await _run(CHECKS[name], settings)


async def _run(check: Check, settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(30):
            return await check(settings)
    except FlowError as e:
        return Finding("fail", str(e), e.suggestion)
    except TimeoutError:
        return Finding("fail", "no answer within 30 seconds", "Check the network between Flow and it.")


async def _access(settings: Settings) -> Finding:
    """Who may use Flow, and whether Slack tells who is in the groups."""
    own = settings.access
    if own.groups and settings.slack.enabled:
        from slack_sdk.errors import SlackApiError

        from bot.socket import web_client

        client = web_client(settings.slack.bot_token.get_secret_value(), settings.slack.api_url)
        for group in own.groups:
            try:
                await client.usergroups_users_list(usergroup=group)
            except SlackApiError as error:
                why = str(error.response.get("error"))
                advice = "Give the app the scope usergroups:read and install it again, or correct FLOW_GROUPS."
                return Finding("fail", f"the members of {group} cannot be read ({why})", advice)
            except OSError as error:
                return Finding("fail", f"Slack does not answer ({type(error).__name__})", "Check the network.")
    who = [f"{what} ({len(names)})" for what, names in (("named people", own.users), ("groups", own.groups)) if names]
    where = f"named channels ({len(own.channels)})" if own.channels else "all channels"
    told = f"{' and '.join(who) or 'everybody'}, in {where}"
    others = [what for what, may in (("guests", own.guests), ("other workspaces", own.external)) if may]
    told += f", {' and '.join(others)} too" if others else ", no guests or other workspaces"
    if not own.admins:
        return Finding(
            "warn", f"{told}; no admin", "Set FLOW_ADMINS: a refusal names them, and they can stop anything."
        )
    return Finding("ok", f"{told}; admins: {len(own.admins)}")


async def _limits(settings: Settings) -> Finding:
    own = settings.limits
    amounts = (own.turn, own.session, own.person_day, own.channel_day, own.day, own.month)
    count = sum(amount is not None for amount in amounts)
    if not count:
        return Finding("skip", "none: it may cost what it costs (FLOW_LIMIT_…)")
    if not settings.asks.approvers:
        advice = "Set FLOW_APPROVERS; without it everybody who asks in a thread may allow more."
        return Finding("warn", f"{count} set, nobody in particular may allow more", advice)
    return Finding("ok", f"{count} set; who may allow more: {len(settings.asks.approvers)}")


async def _system(_: Settings) -> Finding:
    text = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    if platform.system() != "Linux":
        return Finding("fail", text, "Run Flow on Linux: worklets are reached over Unix sockets in shared directories.")
    return Finding("ok", text)


async def _slack(settings: Settings) -> Finding:
    if not settings.slack.enabled:
        return Finding("skip", "switched off (SLACK_BOT_ENABLED)")
    from bot.socket import preflight

    found = await preflight(
        app_token=settings.slack.app_token.get_secret_value(),
        bot_token=settings.slack.bot_token.get_secret_value(),
        api_url=settings.slack.api_url,
    )
    return Finding("ok", f"{found.team}, as {found.bot_name}; tokens and scopes are good")


async def _credential(settings: Settings) -> Finding:
    """Asks the API for one model: costs nothing, and tells whether the credential counts."""
    import aiohttp

    claude = settings.claude
    if not (claude.api_key or claude.oauth_token):
        return Finding("fail", "none", "Set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN.")
    headers = {"anthropic-version": "2023-06-01"}
    if claude.api_key:
        headers["x-api-key"] = claude.api_key.get_secret_value()
    elif claude.oauth_token:
        headers |= {
            "authorization": f"Bearer {claude.oauth_token.get_secret_value()}",
            "anthropic-beta": "oauth-2025-04-20",
        }
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15), trust_env=True) as http,
            http.get(f"{claude.base_url}/v1/models", params={"limit": "1"}, headers=headers) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as e:
        reason = str(e) or type(e).__name__
        return Finding(
            "fail", f"{claude.base_url} does not answer: {reason}", "Check ANTHROPIC_BASE_URL and the network."
        )
    if status in (401, 403):
        return Finding("fail", f"refused (HTTP {status})", "Make a new key, and set ANTHROPIC_API_KEY to it.")
    if status >= 400:
        return Finding("warn", f"set, but could not be checked (HTTP {status})")
    return Finding("ok", f"accepted by {claude.base_url}")


async def _runtime(settings: Settings) -> Finding:
    from worklets.errors import ImageMissing, RuntimeUnavailable

    wanted = settings.worklets.runtime
    if wanted == "local":
        return Finding("warn", "local: worklets are plain processes", "Isolates nothing; use Docker for real work.")
    try:
        await _check_docker(settings)
    except ImageMissing:
        return Finding("ok", "the Docker engine answers")
    except RuntimeUnavailable as e:
        if wanted == "auto":
            return Finding("warn", f"{e} Worklets would be plain processes.", "Start Docker for real work.")
        raise
    return Finding("ok", "the Docker engine answers")


async def _check_docker(settings: Settings) -> None:
    from worklets.docker import DockerRuntime
    from worklets.identity import Identity

    worklets = settings.worklets
    make_share_dir(settings.share_dir)
    docker = DockerRuntime(
        share_dir=settings.share_dir,
        identity=Identity.load(settings.share_dir),
        image=worklets.image,
        memory=worklets.memory,
        cpus=worklets.cpus,
        host=worklets.docker_host,
    )
    try:
        await docker.check()
    finally:
        await docker.close()


async def _image(settings: Settings) -> Finding:
    from worklets.errors import RuntimeUnavailable
    from worklets.imagebuild import needs_build

    image = settings.worklets.image
    if settings.worklets.runtime == "local":
        return Finding("skip", "not needed by the local runtime")
    try:
        await _check_docker(settings)
        stale = await needs_build(image, docker_host=settings.worklets.docker_host)
    except RuntimeUnavailable:
        return Finding("skip", "cannot be looked for without an engine")
    if stale:
        return Finding("warn", f"{image} was built by an older Flow", "Build it anew with `flow image build`.")
    return Finding("ok", image)


async def _local_cli(settings: Settings) -> Finding:
    from worklets.local import bundled_claude

    if settings.worklets.runtime == "docker":
        return Finding("skip", "inside the image")
    path = bundled_claude()
    return Finding("ok", f"bundled, {path.stat().st_size // 2**20} MiB")


async def _gateway(settings: Settings) -> Finding:
    from worklets.gatewaycontrol import holder

    pid = holder(settings.share_dir)
    return Finding("ok", f"runs as process {pid}") if pid else Finding("skip", "starts with `flow serve`")


async def _database(settings: Settings) -> Finding:
    from migrations import HEAD, revision
    from sessions.db import open_database
    from sessions.dsn import parse_dsn

    dsn = parse_dsn(settings.sessions.dsn)
    if dsn.path is not None and not dsn.path.exists():
        make_share_dir(settings.share_dir)
        return Finding("ok", f"SQLite {sqlite3.sqlite_version}, made at the first start")
    database = open_database(settings.sessions.dsn, exclusive=False)
    try:
        now = await revision(settings.sessions.dsn)
        if now is not None:
            await database.check()
    finally:
        await database.close()
    kind = "SQLite" if dsn.path is not None else "PostgreSQL"
    if now != HEAD:
        return Finding(
            "warn", f"{kind}, schema at {now or 'nothing'}, {HEAD} is the newest", "`flow db upgrade`, or just start."
        )
    return Finding("ok", f"{kind}, schema at {HEAD}")


async def _disk(settings: Settings) -> Finding:
    make_share_dir(settings.share_dir)
    free = shutil.disk_usage(settings.share_dir).free
    text = f"{free / GIB:.1f} GiB free for {settings.share_dir}"
    if free < GIB / 4:
        return Finding("fail", text, "Make room: a full disk stops Flow from storing what people write.")
    if free < 5 * GIB:
        return Finding("warn", text, "Make room soon; repositories and images are large.")
    return Finding("ok", text)


async def _git(_: Settings) -> Finding:
    if shutil.which("git") is None:
        return Finding("warn", "not found", "Install git if people are to write repo=….")
    return Finding("ok", "found")


async def _watchers(_: Settings) -> Finding:
    """Each Claude CLI takes an inotify instance, counted per user over all containers."""
    try:
        limit = int(_INOTIFY.read_text())  # noqa: ASYNC240 - procfs answers from memory
    except (OSError, ValueError):
        return Finding("skip", "not known here")
    if limit < 1024:
        return Finding(
            "warn",
            f"at most {limit} file watchers a user",
            "sysctl fs.inotify.max_user_instances=8192 for many sessions.",
        )
    return Finding("ok", f"{limit} file watchers a user")


CHECKS: dict[str, Check] = {
    "system": _system,
    "Slack": _slack,
    "access": _access,
    "limits": _limits,
    "Claude credential": _credential,
    "engine": _runtime,
    "worklet image": _image,
    "Claude CLI": _local_cli,
    "model gateway": _gateway,
    "database": _database,
    "disk": _disk,
    "git": _git,
    "inotify": _watchers,
}
