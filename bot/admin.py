"""`flow db upgrade` and `flow sessions …`: what an administrator does beside or without a running Flow."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bot.core import make_share_dir, open_core
from bot.finding import find_session, looking
from config.errors import FlowError
from config.units import format_duration
from sessions.controls import Controls
from sessions.errors import StoreBusy
from sessions.transcript import Transcript
from web.control import CONTROL_SOCKET, ask_to_stop
from worklets.git import without_password

if TYPE_CHECKING:
    from config.settings import Settings
    from sessions.types import Session


async def upgrade(settings: Settings) -> int:
    """Brings the schema up to date."""
    from migrations import HEAD, upgrade

    make_share_dir(settings.share_dir)
    changed = await upgrade(settings.sessions.dsn)
    print(f"the schema is {'now' if changed else 'already'} at revision {HEAD}")
    return 0


async def upgrade_kv(settings: Settings) -> int:
    """Brings the key-value store's schema in PostgreSQL up to date. SQLite's does so by itself."""
    from migrations.kvupgrade import KVUpgradeFailed, upgrade_kv

    dsn = settings.kv.admin_dsn or settings.kv.dsn
    if not dsn:
        raise KVUpgradeFailed(
            "No PostgreSQL is set for the key-value store.",
            suggestion="Set FLOW_KV_ADMIN_DSN to the tables' owner's postgresql://…; SQLite needs no upgrade.",
        )
    applied = await upgrade_kv(dsn)
    print(f"applied {', '.join(applied)}" if applied else "the key-value store's schema is up to date")
    return 0


async def list_sessions(settings: Settings, *, live: bool) -> int:
    """A table of sessions, the newest first."""
    from rich.console import Console
    from rich.table import Table

    async with looking(settings) as store:
        found = await (store.live() if live else store.list())
    if not found:
        print("no live sessions" if live else "no sessions yet")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "status", "idle", "user", "thread"):
        table.add_column(name, no_wrap=True)
    table.add_column("name", overflow="ellipsis", no_wrap=True)
    now = datetime.now(UTC)
    for session in found:
        idle = format_duration(max(0.0, (now - session.last_activity_at).total_seconds()))
        table.add_row(session.id[:8], session.state, idle, session.user_id, _thread(session), session.name)
    # Piped to a file or another program, lines are not cut to a terminal's width.
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160).print(table)
    return 0


async def show_session(settings: Settings, given: str) -> int:
    """One session with its turns."""
    async with looking(settings) as store:
        session = await find_session(store, given)
        turns = await store.turns(session.id)
        controls = Controls(store.db, store, Transcript(store.db, store.clock), store.clock)
        opinions = await controls.opinions(session.id)
    for name, value in (
        ("id", session.id),
        ("name", session.name),
        ("status", session.state.value),
        ("user", session.user_id),
        ("thread", _thread(session)),
        ("container", session.container_id or "none"),
        ("repository", without_password(session.repository or "none")),
        ("branch", session.branch or "none"),
        ("model", session.model or "as configured"),
        ("mode", session.mode or "as configured"),
        ("forked from", session.fork_of or "none"),
        ("created", f"{session.created_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("last active", f"{session.last_activity_at:%Y-%m-%d %H:%M:%S} UTC"),
    ):
        print(f"{name:12} {value}")
    for turn in turns:
        said = _opinion(*opinions.get(turn.id, (0, 0)))
        print(f"\n{turn.created_at:%Y-%m-%d %H:%M:%S} {turn.user_id} ({turn.state.value}){said}\n  {turn.text}")
        if turn.error:
            print(f"  {turn.error}")
    return 0


def _opinion(liked: int, disliked: int) -> str:
    told = [f"{sign} {count}" for sign, count in (("👍", liked), ("👎", disliked)) if count]
    return f" {' '.join(told)}" if told else ""


async def stop_session(settings: Settings, given: str) -> int:
    """Stops the session in the running Flow; where none runs, ends its worklet and its waiting turns here."""
    async with looking(settings) as store:
        session = await find_session(store, given)
    if not await ask_to_stop(settings.share_dir / CONTROL_SOCKET, session.id):
        try:
            async with open_core(settings) as core, core.sessions:
                await core.sessions.stop(session.id, by="flow sessions stop")
        except StoreBusy as e:
            raise FlowError(
                "A running Flow uses this data directory but does not answer.", suggestion="Restart it, then try again."
            ) from e
    print(f"stopped {session.id[:8]} ({session.name})")
    return 0


def _thread(session: Session) -> str:
    return f"{session.thread.channel}:{session.thread.thread_ts or 'not opened yet'}"
