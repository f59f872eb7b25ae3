"""`flow kv …`: a worklet's key-value store from the command line, whether the bot runs or not; docs/kvstore.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bot import kvactions as acts
from bot.sessionarg import naming
from config.errors import FlowError
from config.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from config.settings import Settings

_WRITING, _LETTERS = ("clear", "delete", "import"), 4  # what costs data when the wrong worklet is meant


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `flow kv`, with their options; `args.act` is what runs."""
    verbs = parser.add_subparsers(required=True, metavar="ACTION")
    get = _verb(verbs, "get", acts.get, "one value, as JSON")
    get.add_argument("key", metavar="KEY")
    get.add_argument("--raw", action="store_true", help="print a text without its quotes")
    put = _verb(verbs, "set", acts.put, "store one value")
    put.add_argument("key", metavar="KEY")
    put.add_argument("value", metavar="VALUE", help="JSON, a text in double quotes: '\"hello\"'; - reads stdin")
    put.add_argument("--ttl", type=_seconds, metavar="TIME", help="forget it after so long, e.g. 30m or 7d")
    put.add_argument("--if-absent", action="store_true", help="only where the key is not there")
    _if_version(put)
    delete = _verb(verbs, "delete", acts.delete, "delete keys")
    delete.add_argument("keys", nargs="+", metavar="KEY")
    _if_version(delete)
    listing = _verb(
        verbs, "list", acts.list_keys, "the keys, in order; of all namespaces unless one is named", namespace=None
    )
    listing.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only keys that begin with it")
    listing.add_argument("--values", action="store_true", help="with their values")
    listing.add_argument(
        "--limit", type=_count, metavar="N", help=f"at most so many ({acts.TABLE_LIMIT}; with --json all, one a line)"
    )
    watch = _verb(verbs, "watch", acts.watch, "changes as they happen, until Ctrl-C", namespace=None)
    watch.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only of keys that begin with it")
    watch.add_argument("--cursor", metavar="CURSOR", help="begin there instead of now; 0 tells all that is there first")
    clear = _verb(verbs, "clear", acts.clear, "delete a whole namespace", namespace=None)
    clear.add_argument("--all", action="store_true", help="of every namespace")
    export = _verb(verbs, "export", acts.export_, "everything, or one namespace, as JSON Lines", namespace=None)
    export.add_argument("--output", type=Path, metavar="FILE", help="instead of stdout; complete once it is there")
    export.add_argument("--resume", action="store_true", help="go on where an export to the same file was broken off")
    load = _verb(verbs, "import", acts.import_, "store what an export wrote; may be repeated", namespace=None)
    load.add_argument("file", metavar="FILE", help="JSON Lines; - reads stdin")
    load.add_argument("--from-line", type=_count, default=1, metavar="N", help="leave out the lines before")
    load.add_argument("--check", action="store_true", help="look at every line and write nothing")
    _verb(verbs, "stats", acts.stats, "how much is kept, and how much may be")
    _verb(verbs, "worklets", acts.worklets, "whose stores there are", of_worklet=False)
    token = _verb(
        verbs,
        "token",
        acts.token,
        "a token for programs outside, to use at Flow's HTTP server until the session sleeps",
        namespace=None,
    )
    token.add_argument("--ttl", type=_seconds, default=3600.0, metavar="TIME", help="how long it lasts at most (1h)")
    _verb(verbs, "jwks", acts.jwks, "the public key of the worklets' tokens, for Supabase to trust", of_worklet=False)


def kv(args: argparse.Namespace, settings: Settings) -> int:
    """Runs one action. Raises FlowError; returns the exit code."""
    try:
        code: int = asyncio.run(_run(args, settings))
        sys.stdout.flush()
    except BrokenPipeError:  # `flow kv list --json | head`: whoever reads has seen enough
        drop_output()
        return 1
    except OSError as e:
        drop_output()
        raise FlowError(f"The output cannot be written: {e.strerror}.") from e
    return code


def drop_output() -> None:
    """What could not be written would fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    from bot.kvstores import told
    from kvstore.gateway.errors import Refusal

    try:
        return int(await args.act(args, settings))
    except Refusal as refusal:
        raise told(refusal, settings.kv) from refusal


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: Callable[[argparse.Namespace, Settings], Awaitable[int]],
    text: str,
    *,
    of_worklet: bool = True,
    namespace: str | None = "default",
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(act=act)
    if of_worklet:
        parser.add_argument(
            "--worklet",
            required=True,
            metavar="ID",
            type=naming(_LETTERS if name in _WRITING else 1),
            help="its session's id, the first letters of it, or the thread's link",
        )
        if name not in ("stats", "token"):
            parser.add_argument(
                "--namespace", default=namespace, metavar="NAME", help=f"default: {namespace or 'all of them'}"
            )
    if name not in ("export", "jwks"):
        parser.add_argument("--json", action="store_true", help="as JSON, for other programs")
    return parser


def _if_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--if-version", type=_count, metavar="N", help="only where the entry's version is still N")


def _seconds(value: str) -> float:
    try:
        return parse_duration(value)
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from e


def _count(value: str) -> int:
    if not (value.isascii() and value.isdecimal()) or int(value) < 1:
        raise argparse.ArgumentTypeError(f'"{value}" is no whole number above 0')
    return int(value)
