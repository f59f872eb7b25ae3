"""`flow templates …`: templates from the command line, bot or no bot; as files, for keeping them in Git."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.errors import FlowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from config.settings import Settings
    from sessions.templates import Draft, Template
    from sessions.templatestore import TemplateStore

ADMINS = "admins"  # on the command line: the owner of templates that no person has
_FILE_MOST = 4 << 20  # bytes


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `flow templates`; `args.act` names what runs."""
    verbs = parser.add_subparsers(required=True, metavar="ACTION")
    listing = _verb(verbs, "list", "all templates, private ones too")
    listing.add_argument("words", nargs="*", metavar="WORD", help="only those with all these words")
    listing.add_argument("--json", action="store_true", help="as JSON, for other programs")
    _named(_verb(verbs, "show", "one template, as import takes it"))
    load = _verb(verbs, "import", "make or change templates by files; none where one of them is wrong")
    load.add_argument("files", nargs="+", metavar="FILE", help="JSON: one template, or a list; - reads stdin")
    load.add_argument("--owner", metavar="USER", help=f"whose they are where a file does not say; default: {ADMINS}")
    load.add_argument("--check", action="store_true", help="look at them and store nothing")
    export = _verb(verbs, "export", "templates as JSON, as import takes it")
    export.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    export.add_argument("--directory", type=Path, metavar="DIR", help="a file for each there, instead of stdout")
    _named(_verb(verbs, "rm", "delete one; sessions that were started from it go on as they are"))


def templates(args: argparse.Namespace, settings: Settings) -> int:
    """Runs one action. Raises FlowError; returns the exit code."""
    return asyncio.run(_run(args, settings))


def _verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(act=name)
    return parser


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--owner", metavar="USER", help=f"whose it is, where several are called so; {ADMINS} for nobody's"
    )


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    from bot.core import open_store
    from sessions.templatestore import TemplateStore

    actions = {"list": _list, "show": _show, "import": _import, "export": _export, "rm": _rm}
    drafts = await asyncio.to_thread(_drafts, args) if args.act == "import" else []
    for draft, _ in drafts:
        _tell_of_servers(draft)
    if args.act == "import" and args.check:
        print("1 template is right" if len(drafts) == 1 else f"{len(drafts)} templates are right")
        return 0
    database = await open_store(settings, exclusive=False)
    try:
        return await actions[args.act](TemplateStore(database), args, drafts)
    finally:
        await database.close()


async def _list(store: TemplateStore, args: argparse.Namespace, _: Any) -> int:
    from bot.kvtables import print_json, print_table
    from sessions.templates import as_file

    found = await store.list(words=" ".join(args.words), most=None)
    if args.json:
        print_json([as_file(one, one.user_id) for one in found])
    elif not found:
        print("no templates")
    else:
        rows: list[tuple[str, ...]] = [
            (one.name, one.user_id or ADMINS, "everybody" if one.is_public else "the owner", one.description)
            for one in found
        ]
        print_table(("name", "owner", "for", "description"), rows)
    return 0


async def _show(store: TemplateStore, args: argparse.Namespace, _: Any) -> int:
    from sessions.templates import as_file

    template = await _one(store, args)
    print(json.dumps(as_file(template, template.user_id), indent=2))  # in ASCII: a terminal obeys nothing in it
    return 0


async def _import(store: TemplateStore, _args: argparse.Namespace, drafts: Sequence[tuple[Draft, str]]) -> int:
    for (draft, owner), became in zip(drafts, await store.put(drafts), strict=True):
        print(f"{became} {draft.name} ({owner or ADMINS})")
    return 0


async def _export(store: TemplateStore, args: argparse.Namespace, _: Any) -> int:
    known = await store.list(most=None)
    if missing := sorted(set(args.names) - {one.name for one in known}):
        raise FlowError(
            f"There is no template called {missing[0]}.", suggestion="List them with `flow templates list`."
        )
    wanted = [one for one in known if not args.names or one.name in args.names]
    if args.directory is None:
        from sessions.templates import as_file

        print(json.dumps([as_file(one, one.user_id) for one in wanted], indent=2))
        return 0
    try:
        await asyncio.to_thread(_write, args.directory, wanted)
    except OSError as error:
        raise FlowError(f"The files cannot be written: {args.directory}: {error.strerror or error}.") from error
    print(f"wrote {len(wanted)} {'template' if len(wanted) == 1 else 'templates'} to {args.directory}")
    return 0


async def _rm(store: TemplateStore, args: argparse.Namespace, _: Any) -> int:
    template = await _one(store, args)
    await store.remove(template.id)
    print(f"deleted {template.name} ({template.user_id or ADMINS})")
    return 0


async def _one(store: TemplateStore, args: argparse.Namespace) -> Template:
    """Raises FlowError where none is meant, or several are."""
    name = args.name.lower()
    found = [one for one in await store.list(words=name, most=None) if one.name == name]
    if args.owner is not None:
        found = [one for one in found if one.user_id == _owner(args.owner)]
    if not found:
        raise FlowError(f"There is no template called {args.name}.", suggestion="List them with `flow templates list`.")
    if len(found) > 1:
        owners = ", ".join(one.user_id or ADMINS for one in found)
        raise FlowError(f"Several are called {args.name}.", suggestion=f"Say whose it is with --owner: {owners}.")
    return found[0]


def _owner(word: str) -> str:
    """Raises FlowError."""
    if word != ADMINS and not re.fullmatch(r"[UW][A-Z0-9]+", word):
        raise FlowError(f"{word} is nobody's id in Slack.", suggestion=f"Write it like U012AB3CD, or {ADMINS}.")
    return "" if word == ADMINS else word


def _drafts(args: argparse.Namespace) -> list[tuple[Draft, str]]:
    """What is in the files, with the owner of each. Raises FlowError, which names the file."""
    from sessions.templates import TemplateInvalid, from_file

    otherwise, found = _owner(args.owner or ADMINS), []
    for name in args.files:
        data = _read(name)
        for number, one in enumerate(data if isinstance(data, list) else [data], 1):
            try:
                draft, owner = from_file(one)
            except TemplateInvalid as error:
                raise FlowError(f"{name}, template {number}: {error}", suggestion="Nothing was stored.") from error
            found.append((draft, owner if owner is not None else otherwise))
    if twice := [one[0].name for index, one in enumerate(found) if _key(one) in map(_key, found[:index])]:
        raise FlowError(f"{twice[0]} is in the files twice.", suggestion="Nothing was stored.")
    return found


def _tell_of_servers(draft: Draft) -> None:
    """Another Flow may have a server that this one has not, so that is no fault: sessions start without it."""
    from worklets.mcpservers import BUILT_IN

    for name in draft.config.mcp_servers:
        if name not in BUILT_IN:
            there = ", ".join(BUILT_IN)
            sys.stderr.write(f"flow: {draft.name}: there is no MCP server {name}; there are {there}.\n")


def _key(one: tuple[Draft, str]) -> tuple[str, str]:
    return one[0].name, one[1]


def _read(name: str) -> object:
    try:
        if name == "-":
            text = sys.stdin.read(_FILE_MOST)
        else:
            with Path(name).open(encoding="utf-8") as file:
                text = file.read(_FILE_MOST)
        return json.loads(text)
    except OSError as error:
        raise FlowError(f"{name} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise FlowError(f"{name} is no JSON: {error}.", suggestion="Nothing was stored.") from error


def _write(directory: Path, wanted: Sequence[Template]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for one in wanted:
        owner = f"@{one.user_id}" if one.user_id else ""
        (directory / f"{one.name}{owner}.json").write_text(_text(one) + "\n", encoding="utf-8")


def _text(template: Template) -> str:
    from sessions.templates import as_file

    return json.dumps(as_file(template, template.user_id), indent=2, ensure_ascii=False)
