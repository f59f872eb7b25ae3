"""`flow images …`: worklet images on other base images or with a browser, and bases that Flow fetched for them.

docs/templates.md tells people of it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from config.errors import FlowError
from config.units import format_duration, format_size

if TYPE_CHECKING:
    from config.settings import Settings
    from worklets.fetchedbases import Base
    from worklets.prebuilt import Prebuilt
    from worklets.profileimages import ProfileImages


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `flow images`; `args.act` names what runs."""
    verbs = parser.add_subparsers(required=True, metavar="ACTION")
    listing = _verb(verbs, "list", "those that are there, used last first")
    listing.add_argument("--json", action="store_true", help="as JSON, for other programs")
    build = _verb(verbs, "build", "make one before somebody waits for it")
    build.add_argument("base", metavar="BASE", nargs="?", help="the base image, one of FLOW_BASE_IMAGES")
    build.add_argument("--browser", action="store_true", help="with a browser, as MCP server playwright needs it")
    build.add_argument("--pull", action="store_true", help="fetch the base image's newest version first")
    prune = _verb(verbs, "prune", "remove those that this Flow made and no worklet is made of, and bases it fetched")
    prune.add_argument("--keep", type=_count, metavar="N", help="but so many, used last (FLOW_IMAGES_KEPT)")


def images(args: argparse.Namespace, settings: Settings) -> int:
    """Runs one action. Raises FlowError; returns the exit code."""
    return asyncio.run(_run(args, settings))


def _verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(act=name)
    return parser


def _count(value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise argparse.ArgumentTypeError(f'"{value}" is no whole number')
    return int(value)


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    from bot.core import make_share_dir, profile_images
    from worklets.identity import Identity

    make_share_dir(settings.share_dir)
    made = profile_images(settings, Identity.load(settings.share_dir))
    try:
        if args.act == "build":
            return await _build(made, settings, args)
        if args.act == "prune":
            return await _prune(made.on_bases, args)
        return await _list(made.on_bases, as_json=args.json)
    finally:
        await made.aclose()


async def _list(made: Prebuilt, *, as_json: bool) -> int:
    from bot.kvtables import print_json, print_table

    found, bases = await made.list(), await made.bases()
    if as_json:
        told = [{"image": one.tag, "base": one.base, "bytes": one.size, "busy": one.busy} for one in found]
        fetched = [{"image": one.fetched.base, "base": None, "bytes": one.size, "busy": one.busy} for one in bases]
        print_json([*told, *fetched])
    elif not found and not bases:
        print("no images on other bases, and none with a browser")
    else:
        rows: list[tuple[str, ...]] = [
            (one.tag, one.base, format_size(one.size), _day(one.used), "in use" if one.busy else "") for one in found
        ]
        rows += [(one.fetched.base, "-", format_size(one.size), _day(one.fetched.at), _state(one)) for one in bases]
        print_table(("image", "base", "size", "last used (UTC)", ""), rows)
    return 0


def _state(base: Base) -> str:
    if base.shared:
        return "fetched by Flow; has other names now, so it stays"
    return "fetched by Flow, in use" if base.busy else "fetched by Flow"


def _day(used: float | None) -> str:
    return "-" if used is None else f"{datetime.fromtimestamp(used, UTC):%Y-%m-%d %H:%M}"


async def _build(made: ProfileImages, settings: Settings, args: argparse.Namespace) -> int:
    _require_base(settings, args)
    started, tag = time.monotonic(), None
    what = args.base or "the usual image"
    if args.pull:
        print(f"fetching {args.base}", flush=True)
        await made.on_bases.fetch(args.base)

    def show(step: str) -> None:
        print(
            step.replace("image ", "step ").replace("/", " of ") if " " in step else f"waiting for {what}", flush=True
        )

    if args.base is not None:
        tag = await made.on_bases.image(args.base, show)
    if args.browser:
        what = f"a browser on {what}"
        tag = await made.browser(tag, show)
    print(f"{tag} is there, after {format_duration(time.monotonic() - started)}")
    return 0


def _require_base(settings: Settings, args: argparse.Namespace) -> None:
    from worklets.baseimages import OWN_BASE, is_allowed

    if args.base is None and args.pull:
        raise FlowError("Which base image is to be fetched?", suggestion="Name it; the usual one is made here.")
    if args.base is None and not args.browser:
        raise FlowError("Which base image?", suggestion="Name one, or --browser for the usual image with a browser.")
    if args.base == OWN_BASE:
        raise FlowError(f"{OWN_BASE} is the usual image's base.", suggestion="`flow image build` makes that.")
    if args.base is not None and not is_allowed(args.base, settings.images.bases):
        raise FlowError(f"{args.base} is not among FLOW_BASE_IMAGES.", suggestion="Add it, or a pattern for it.")


async def _prune(made: Prebuilt, args: argparse.Namespace) -> int:
    gone = await made.prune(args.keep)
    for one in gone:
        print(f"removed {one.tag} ({one.base})")
    bases = await made.prune_bases()
    for base in bases:
        print(f"removed {base.fetched.base}, which Flow had fetched")
    freed = sum(one.size for one in gone) + sum(base.size for base in bases)
    print(f"{format_size(freed)} at most are free now" if gone or bases else "nothing to remove")
    return 0
