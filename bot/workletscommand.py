"""`flow worklets …`: which run, what they use, what they log; beside a running Flow (docs/watching.md)."""

from __future__ import annotations

import argparse
import asyncio
import codecs
import sys
import threading
from typing import TYPE_CHECKING, Any

from bot.kvtables import one_line, print_json, print_table
from bot.sessionarg import naming
from config.errors import FlowError
from config.units import format_duration, format_size, parse_duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from config.settings import Settings
    from sessions.types import Session
    from worklets.runtime import Runtime

_LINES = 100
_NOBODY = FlowError(
    "No Flow runs on this data directory, so nobody is connected to its worklets.",
    suggestion="Start it with `flow serve`; `flow worklets list` tells without it which run.",
)


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `flow worklets`, with their options; without one it is `list`. `args.act` is what runs."""
    parser.set_defaults(act=_list, json=False)
    verbs = parser.add_subparsers(metavar="ACTION")
    _verb(verbs, "list", _list, "those that run, with what they use")
    stats = _verb(verbs, "stats", _stats, "what they use, each asked now")
    _named(stats, nargs="?", default=None)
    stats.add_argument(
        "--watch", nargs="?", type=_span, const=2.0, metavar="TIME", help="again each 2 seconds, or so often"
    )
    logs = _verb(verbs, "logs", _logs, "what the relay in one of them logged, and Claude's process said on stderr")
    _named(logs)
    logs.add_argument("-n", type=_count, default=_LINES, metavar="LINES", help=f"so many of the last ({_LINES})")
    logs.add_argument("-f", action="store_true", help="go on with what is added, until the worklet ends or Ctrl-C")


def worklets(args: argparse.Namespace, settings: Settings) -> int:
    """Runs one action. Raises FlowError; returns the exit code."""
    from config.logging import configure

    configure(settings.log.format)
    try:
        code: int = asyncio.run(args.act(args, settings))
    except BrokenPipeError:  # whoever reads has seen enough
        from bot.kvcommand import drop_output

        drop_output()
        return 1
    return code


async def _list(args: argparse.Namespace, settings: Settings) -> int:
    from web.workletroutes import ask_rows

    found = await ask_rows(_socket(settings), fresh=False)
    if found is None:
        found = await _rows_without_flow(settings)
    if args.json:
        print_json(found)
    elif not found:
        print("no worklets")
    else:
        print_table(("session", "state", "cpu", "memory", "age", "thread", "name"), [_listed(row) for row in found])
    return 0


async def _stats(args: argparse.Namespace, settings: Settings) -> int:
    from web.workletroutes import ask_rows, stream_rows

    wanted = await _session_id(settings, args.id) if args.id is not None else None
    if args.watch is None:
        found = await ask_rows(_socket(settings), fresh=True)
        if found is None:
            raise _NOBODY
        _print_stats(found, wanted, as_json=args.json)
        return 0
    began = False
    async for found in stream_rows(_socket(settings), args.watch):
        if began and not args.json:
            print()
        _print_stats(found, wanted, as_json=args.json)
        began = True
    if not began:
        raise _NOBODY
    return 0


def _print_stats(found: list[dict[str, Any]], wanted: str | None, *, as_json: bool) -> None:
    if wanted is not None:
        found = [row for row in found if row["session"] == wanted]
    if as_json:
        print_json(found)
    elif not found:
        print("no worklets" if wanted is None else "that session has no worklet now")
    else:
        columns = ("session", "cpu", "memory", "processes", "disk", "sent", "received", "out of memory", "age")
        print_table(columns, [_used(row) for row in found])
    sys.stdout.flush()


async def _logs(args: argparse.Namespace, settings: Settings) -> int:
    from bot.finding import find_session, looking

    async with looking(settings) as store:
        session = await find_session(store, args.id)
    runtime = await _runtime(settings)
    try:
        if args.f:
            await runtime.follow(session.worklet, args.n, _Printer().print)
            return 0
        said = await runtime.logs(session.worklet, args.n)
    finally:
        await runtime.close()
    print(_harmless(said), end="" if not said or said.endswith("\n") else "\n")
    stderr = await _stderr(settings, session)
    if stderr.strip():
        print(f"-- stderr of Claude's process --\n{_harmless(_last(stderr, args.n))}")
    if not said and not stderr.strip():
        print("nothing was logged" if await _stands(settings, session) else "it has no worklet now, so no log either")
    return 0


async def _stderr(settings: Settings, session: Session) -> str:
    """Of a living process through the running Flow; of one that ended, what its relay wrote down."""
    from web.workletroutes import ask_stderr
    from worklets.agent import read_tail
    from worklets.rundir import worklet_dir

    if said := await ask_stderr(_socket(settings), session.id):
        return said
    tail = await asyncio.to_thread(read_tail, worklet_dir(settings.share_dir, session.worklet) / "run", None)
    return tail.exited.stderr if tail.exited is not None else ""


async def _stands(settings: Settings, session: Session) -> bool:
    runtime = await _runtime(settings)
    try:
        return await runtime.find(session.worklet) is not None
    finally:
        await runtime.close()


async def _rows_without_flow(settings: Settings) -> list[dict[str, Any]]:
    from bot.finding import looking
    from bot.workletrows import rows
    from sessions.poolstore import PoolStore

    runtime = await _runtime(settings)
    try:
        standing = {worklet.name: worklet for worklet in await runtime.list()}
    finally:
        await runtime.close()
    async with looking(settings) as store:
        return rows(standing, await store.live(), {}, await PoolStore(store.db).states())


async def _runtime(settings: Settings) -> Runtime:
    from bot.core import choose_runtime, make_share_dir
    from worklets.identity import Identity

    make_share_dir(settings.share_dir)
    return await choose_runtime(settings, Identity.load(settings.share_dir))


async def _session_id(settings: Settings, given: str) -> str:
    from bot.finding import find_session, looking

    async with looking(settings) as store:
        return (await find_session(store, given)).id


def _socket(settings: Settings) -> Path:
    from web.control import CONTROL_SOCKET

    return settings.share_dir / CONTROL_SOCKET


# -- words ---------------------------------------------------------


def _listed(row: dict[str, Any]) -> tuple[str, ...]:
    stats = row["stats"]
    used = (_processors(stats), format_size(stats["memory"]), _age(stats)) if stats else ("-", "-", "-")
    return (_session(row), _state(row), *used, row["thread"] or "-", row["name"] or "-")


def _used(row: dict[str, Any]) -> tuple[str, ...]:
    stats = row["stats"]
    if not stats:
        return (_session(row), *["-"] * 8)
    carried = (format_size(stats["sent"]), format_size(stats["received"]))
    killed = "-" if stats["oom_kills"] is None else str(stats["oom_kills"])
    return (
        _session(row),
        _processors(stats),
        _of(stats["memory"], stats["memory_limit"], format_size),
        _of(stats["pids"], stats["pids_limit"], str),
        _of(stats["disk"], stats["disk_limit"], format_size),
        *carried,
        killed,
        _age(stats),
    )


def _session(row: dict[str, Any]) -> str:
    return str(row["session"][:8] if row["session"] else row["worklet"])


def _state(row: dict[str, Any]) -> str:
    if not row["running"]:
        return "ended"
    return str(row["state"] or "no session")


def _processors(stats: dict[str, Any]) -> str:
    return "-" if stats["cpus"] is None else f"{stats['cpus'] * 100:.0f} %"


def _age(stats: dict[str, Any]) -> str:
    return format_duration(stats["uptime"])


def _of(used: int | None, limit: int | None, shown: Callable[[int], str]) -> str:
    if used is None:
        return "-"
    return f"{shown(used)} of {shown(limit)}" if limit is not None else shown(used)


def _last(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])


def _harmless(text: str) -> str:
    """Whatever a worklet logs is anybody's: only lines and tabs move a terminal's cursor."""
    return "".join(c if c in "\n\t" else one_line(c) for c in text)


class _Printer:
    """Prints a log as it comes, piece by piece, in whatever thread."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._one = threading.Lock()

    def print(self, piece: bytes) -> None:
        with self._one:
            print(_harmless(self._decoder.decode(piece)), end="", flush=True)


# -- arguments ---------------------------------------------------------


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: Callable[[argparse.Namespace, Settings], Awaitable[int]],
    text: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(act=act)
    if name != "logs":
        parser.add_argument("--json", action="store_true", help="as JSON, for other programs")
    return parser


def _named(parser: argparse.ArgumentParser, **options: Any) -> None:
    parser.add_argument(
        "id", type=naming(), metavar="SESSION", help="session id, its first letters, or its thread's link", **options
    )


def _span(value: str) -> float:
    try:
        return max(1.0, parse_duration(value))
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _count(value: str) -> int:
    if not (value.isascii() and value.isdecimal()) or not 1 <= int(value) <= 100_000:
        raise argparse.ArgumentTypeError(f'"{value}" is no number of lines; write it like 100')
    return int(value)
