"""`flow repos …`: the repositories that have names, and their branches, from the command line."""

from __future__ import annotations

import argparse
import asyncio
import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from config.errors import FlowError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from config.settings import Settings
    from worklets.mirrors import Mirrors
    from worklets.repositories import Repositories


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `flow repos`, with their options; `args.act` is what runs."""
    verbs = parser.add_subparsers(required=True, metavar="ACTION")
    _verb(verbs, "list", list_repositories, "those in FLOW_REPOSITORIES, and what their mirrors take")
    branches = _verb(verbs, "branches", list_branches, "a repository's branches now, with its own login")
    branches.add_argument("name", metavar="NAME", help="a name of FLOW_REPOSITORIES, or an address")
    branches.add_argument("pattern", metavar="PATTERN", nargs="?", help="only those, such as 'feature/*'")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: Callable[[argparse.Namespace, Repositories, Mirrors], Awaitable[None]],
    text: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--json", action="store_true", help="as JSON, for other programs")
    parser.set_defaults(act=act)
    return parser


def repos(args: argparse.Namespace, settings: Settings) -> int:
    """Runs one action. Raises FlowError; returns the exit code."""
    asyncio.run(_run(args, settings))
    return 0


async def _run(args: argparse.Namespace, settings: Settings) -> None:
    from bot.core import make_share_dir, mirrors_of
    from bot.secretstores import open_secrets
    from worklets.identity import Identity
    from worklets.repositories import Repositories

    make_share_dir(settings.share_dir)
    secrets = open_secrets(settings)
    try:
        repositories = Repositories(settings.repositories, secrets)
        await args.act(args, repositories, mirrors_of(settings, Identity.load(settings.share_dir), repositories))
    finally:
        await secrets.aclose()


async def list_repositories(args: argparse.Namespace, repositories: Repositories, mirrors: Mirrors) -> None:
    from config.units import format_size

    known, state = repositories.all(), await asyncio.to_thread(mirrors.state)
    if args.json:
        rows = [{"name": one.name, "address": one.shown, "branch": one.branch} for one in known]
        print(json.dumps({"repositories": rows, **state}))
        return
    if not known:
        print("No repository has a name; set FLOW_REPOSITORIES=name=https://host/owner/name.git.")
    width = max((len(one.name) for one in known), default=0)
    for one in known:
        print(f"{one.name:<{width}}  {one.shown}" + (f"  at {one.branch}" if one.branch else ""))
    taken, limit = format_size(int(state["bytes"])), format_size(int(state["limit"]))
    print(f"Mirrors: {state['mirrors']}, {taken} of {limit}.")


async def list_branches(args: argparse.Namespace, repositories: Repositories, mirrors: Mirrors) -> None:
    found = await mirrors.branches(args.name)
    names = [one for one in found.names if args.pattern is None or fnmatchcase(one, args.pattern)]
    if args.json:
        print(json.dumps({"default": found.default, "branches": names}))
        return
    if not found.names:
        raise FlowError(f"{args.name} has no branch yet.")
    if not names:
        raise FlowError(
            f"{args.name} has no branch like {args.pattern}.",
            suggestion="`*` stands for anything; `flow repos branches` without a pattern lists all.",
        )
    begins = repositories.branch_of(args.name, None) or found.default
    for name in names:
        print(f"{name}  (sessions begin here)" if name == begins else name)
