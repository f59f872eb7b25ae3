"""What each action of `flow kv` does: options in, exit code out. All raise FlowError or Refusal."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bot.kvtables import counted, print_change, print_entries, print_json, print_table
from config.errors import FlowError
from config.units import format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bot.kvstores import Shelf
    from config.settings import Settings

TABLE_LIMIT = 1000  # rows
_LOOK_SECONDS = 0.25


@asynccontextmanager
async def _shelf(args: argparse.Namespace, settings: Settings, *, make: bool = False) -> AsyncIterator[Shelf]:
    from bot.kvstores import open_shelf

    async with open_shelf(settings, args.worklet, make=make) as shelf:
        yield shelf


async def get(args: argparse.Namespace, settings: Settings) -> int:
    async with _shelf(args, settings) as shelf:
        entry = await shelf.call("kv_get", p_namespace=args.namespace, p_key=args.key)
    if entry is None:
        raise FlowError(
            f"There is no such key in the namespace {args.namespace}.",
            suggestion=f"`flow kv list --worklet {args.worklet}` shows them.",
        )
    if args.json:
        print_json(entry)
    elif args.raw and isinstance(entry["value"], str):
        print(entry["value"])
    else:
        print_json(entry["value"])
    return 0


async def put(args: argparse.Namespace, settings: Settings) -> int:
    text = await asyncio.to_thread(sys.stdin.read) if args.value == "-" else args.value
    _check_json(text)
    async with _shelf(args, settings) as shelf:
        answer = await shelf.call(
            "kv_set",
            p_namespace=args.namespace,
            p_key=args.key,
            p_value=text,
            p_ttl=args.ttl,
            p_if_version=args.if_version,
            p_only_if_absent=args.if_absent,
        )
    if answer["version"] is None:
        why = "The key is there already" if args.if_absent else f"The entry's version is not {args.if_version}"
        raise FlowError(f"{why}: nothing was stored.")
    print_json(answer) if args.json else print(f"stored, version {answer['version']}")
    return 0


async def delete(args: argparse.Namespace, settings: Settings) -> int:
    deleted = 0
    async with _shelf(args, settings) as shelf:
        for start in range(0, len(args.keys), 1000):
            keys = args.keys[start : start + 1000]
            deleted += await shelf.call(
                "kv_delete", p_namespace=args.namespace, p_keys=keys, p_if_version=args.if_version
            )
    if args.if_version is not None and not deleted:
        raise FlowError(f"There is no such key with the version {args.if_version}: nothing was deleted.")
    print_json({"deleted": deleted}) if args.json else print(f"deleted {deleted} of {len(args.keys)}")
    return 0


async def list_keys(args: argparse.Namespace, settings: Settings) -> int:
    limit = args.limit or (None if args.json else TABLE_LIMIT)
    async with _shelf(args, settings) as shelf:
        rows: list[dict[str, Any]] = []
        shown, more = 0, False
        async for page in shelf.pages(args.namespace, args.prefix, values=args.values):
            taken = page if limit is None else page[: limit - shown]
            shown, more = shown + len(taken), len(taken) < len(page)
            if args.json:
                for entry in taken:
                    print_json(entry)
            else:
                rows += taken
            if more:
                break
    if not args.json:
        print_entries(rows, args.values)
    if more:
        print(f"flow: there are more than these {shown}; --limit shows more, --json all", file=sys.stderr)
    return 0


async def watch(args: argparse.Namespace, settings: Settings) -> int:
    """Returns when it is interrupted, by an exception."""
    asked = {"p_namespace": args.namespace, "p_prefix": args.prefix}
    async with _shelf(args, settings) as shelf:
        cursor = args.cursor or (await shelf.call("kv_watch", **asked))["cursor"]
        while True:
            answer = await shelf.call("kv_watch", p_cursor=cursor, **asked)
            cursor = answer["cursor"]
            for change in answer["changes"]:
                print_change({**change, "cursor": cursor, "reset": answer["reset"]}, as_json=args.json)
            if not answer["changes"]:
                await asyncio.sleep(_LOOK_SECONDS)


async def clear(args: argparse.Namespace, settings: Settings) -> int:
    if (args.namespace is None) == (not args.all):
        raise FlowError("Say what is to be deleted.", suggestion="Write --namespace NAME, or --all.")
    async with _shelf(args, settings) as shelf:
        deleted = await shelf.call("kv_clear", p_namespace=args.namespace)
    print_json({"deleted": deleted}) if args.json else print(f"deleted {counted(deleted)}")
    return 0


async def export_(args: argparse.Namespace, settings: Settings) -> int:
    from bot.kvtransfer import export

    async with _shelf(args, settings) as shelf:
        await export(shelf, args.namespace, args.output, resume=args.resume)
    return 0


async def import_(args: argparse.Namespace, settings: Settings) -> int:
    from bot.kvstores import check_takes
    from bot.kvtransfer import check, read_in

    if args.check:
        await check_takes(settings, args.worklet)
        lines = await check(args.file, args.from_line, args.namespace)
        print_json({"lines": lines}) if args.json else print(
            f"{lines:,} {'line is' if lines == 1 else 'lines are'} right; nothing was written"
        )
        return 0
    async with _shelf(args, settings, make=True) as shelf:
        done = await read_in(shelf, args.file, args.from_line, args.namespace)
    if args.json:
        print_json({"written": done.written, "expired": done.expired})
    else:
        print(f"wrote {counted(done.written)}" + (f"; {done.expired:,} had expired" if done.expired else ""))
    return 0


async def stats(args: argparse.Namespace, settings: Settings) -> int:
    async with _shelf(args, settings) as shelf:
        stats = await shelf.call("kv_stats")
    if args.json:
        print_json(stats)
        return 0
    for name, value in (
        ("worklet", shelf.worklet_id),
        ("backend", settings.kv.kind),
        ("keys", f"{stats['keys']:,} of {stats['max_keys']:,}"),
        ("bytes", f"{format_size(stats['bytes'])} of {format_size(stats['max_bytes'])}"),
        ("namespaces", stats["namespaces"]),
        ("changed", stats["changed_at"] or "never"),
    ):
        print(f"{name:12} {value}")
    return 0


async def worklets(args: argparse.Namespace, settings: Settings) -> int:
    from bot.kvstores import worklets

    found = await worklets(settings)
    if args.json:
        for one in found:
            print_json(one)
    elif not found:
        print("no worklet has a store yet")
    else:
        print_table(("id", "owner", "name"), [(one["id"], one["owner_id"], one["name"]) for one in found])
    return 0


async def token(args: argparse.Namespace, settings: Settings) -> int:
    from kvstore.gateway.opening import SIGNING_KEY
    from kvstore.gateway.tokens import SigningKey, minter

    secret = settings.kv.jwt_secret.get_secret_value() if settings.kv.jwt_secret else None
    async with _shelf(args, settings) as shelf:
        await shelf.call("kv_stats")  # of a store that is there
        mint = minter(SigningKey.load(settings.share_dir / SIGNING_KEY), secret)
        token = mint.mint_worklet(shelf.worklet_id, ttl=args.ttl)
    print_json({"token": token, "worklet_id": shelf.worklet_id}) if args.json else print(token)
    print("It ends earlier when its session goes to sleep.", file=sys.stderr)
    return 0


async def jwks(_: argparse.Namespace, settings: Settings) -> int:
    from kvstore.gateway.opening import SIGNING_KEY
    from kvstore.gateway.tokens import SigningKey

    print(json.dumps(SigningKey.load(settings.share_dir / SIGNING_KEY).jwks(), indent=2))
    return 0


def _check_json(text: str) -> None:
    """In words for somebody at a shell, where the usual slip is a text without quotes."""
    from kvstore.gateway import jsontext
    from kvstore.gateway.errors import Refusal

    try:
        jsontext.parse(text)
    except Refusal as refusal:
        advice = "Write a text in double quotes, which the shell leaves alone within single ones: '\"hello\"'."
        raise FlowError(refusal.message, suggestion=advice) from refusal
