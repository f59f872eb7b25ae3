"""`flow relay --listen HOST:PORT -- COMMAND …` and `flow relay connect URL`; docs/relay.md is their manual."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from config.units import parse_duration, parse_size

if TYPE_CHECKING:
    from config.settings import RelaySettings
    from worklets.stdiorelay.client import State


def add_options(parser: argparse.ArgumentParser) -> None:
    """`relay`'s own; those of `connect` are told from a command by the lack of --listen."""
    parser.usage = "flow relay --listen HOST:PORT [OPTION …] -- COMMAND …\n       flow relay connect URL [OPTION …]"
    parser.epilog = "`flow relay connect --help` has the options of the other way."
    parser.add_argument("--listen", metavar="HOST:PORT", help="where; port 0 takes a free one and prints it")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="else FLOW_RELAY_TOKEN; else one is made and printed"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM; offers wss:// instead of ws://")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM, if the certificate's file has no key")
    parser.add_argument("--insecure", action="store_true", help="listen beyond this machine without TLS")
    parser.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="let pages of it connect")
    parser.add_argument("--single", action="store_true", help="one client at a time")
    parser.add_argument(
        "--journal", type=Path, metavar="DIR", help="where output is kept until it was read (temporary)"
    )
    parser.add_argument("--journal-limit", type=_size, default="64m", metavar="SIZE", help="default 64m")
    parser.add_argument("--drop-oldest", action="store_true", help="at the limit, instead of holding the command back")
    parser.add_argument("--restart", action="store_true", help="start the command again when it ends")
    parser.add_argument("--grace", type=_seconds, default="5s", metavar="TIME", help="from SIGTERM to SIGKILL (5s)")
    parser.add_argument(
        "--linger", type=_seconds, default="10s", metavar="TIME", help="for readers, after its end (10s)"
    )
    parser.add_argument("--forget", type=_seconds, default="10m", metavar="TIME", help="readers that stay away (10m)")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="and its arguments")


def relay(args: argparse.Namespace, settings: RelaySettings) -> int:
    """Either way. Raises RelayError; returns the command's exit code."""
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # port scanners are no news
    command: list[str] = args.command
    if args.listen is None and command[:1] == ["connect"]:
        return asyncio.run(_connect(_connect_parser().parse_args(command[1:]), settings))
    if command[:1] == ["--"]:
        del command[0]
    if args.listen is None or not command:
        say("write `flow relay --listen HOST:PORT -- COMMAND …` or `flow relay connect URL`")
        return 2
    return asyncio.run(_serve(args, command, settings))


def say(text: str) -> None:
    print(f"flow: {text}", file=sys.stderr, flush=True)


async def _serve(args: argparse.Namespace, command: Sequence[str], settings: RelaySettings) -> int:
    from config.settings import inherited
    from worklets.stdiorelay import access
    from worklets.stdiorelay.connect import shell_code
    from worklets.stdiorelay.errors import CommandFailed
    from worklets.stdiorelay.process import environment
    from worklets.stdiorelay.server import Options, StdioRelay

    host, port = access.parse_address(args.listen)
    access.check_exposure(host, tls=args.tls_cert is not None, insecure=args.insecure)
    given = _token(args.token_file, settings)
    token = given or access.new_token()
    options = Options(
        host=host,
        port=port,
        token=token,
        tls=access.server_tls(args.tls_cert, args.tls_key) if args.tls_cert else None,
        origins=args.allow_origin,
        journal=args.journal,
        journal_limit=args.journal_limit,
        drop_oldest=args.drop_oldest,
        single=args.single,
        restart=args.restart,
        grace=args.grace,
        linger=args.linger,
        forget=args.forget,
    )
    served = StdioRelay(command, environment(inherited()), options, say)
    try:
        url = await served.start()
    except CommandFailed as error:
        say(error.sentence())
        return error.exit_code
    _on_signals(served.stop)
    say(f"the relay listens on {url}")
    if given is None:
        say(f"its token, made for this run: {token}")
    return shell_code(await served.run())


def _connect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flow relay connect", description="A relay's command on this process's stdin and stdout."
    )
    parser.add_argument("url", metavar="URL", help="ws://HOST:PORT/ or wss://HOST:PORT/")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="else FLOW_RELAY_TOKEN")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="PEM; the authority to trust instead of the machine's")
    parser.add_argument("--from", dest="start", choices=("now", "start"), default="now", help="where to begin (now)")
    parser.add_argument("--fail-fast", action="store_true", help="answer JSON-RPC requests with an error while cut off")
    parser.add_argument("--patience", type=_seconds, metavar="TIME", help="give up when cut off for so long (never)")
    parser.add_argument("--linger", type=_seconds, default="0.5s", metavar="TIME", help="after the input's end (0.5s)")
    return parser


async def _connect(args: argparse.Namespace, settings: RelaySettings) -> int:
    from worklets.stdiorelay.access import client_tls
    from worklets.stdiorelay.client import RelayClient
    from worklets.stdiorelay.connect import bridge
    from worklets.stdiorelay.errors import RelayError

    token = _token(args.token_file, settings)
    if token is None:
        raise RelayError("There is no token.", suggestion="Give --token-file or set FLOW_RELAY_TOKEN.")
    tls = client_tls(args.ca) if args.url.startswith("wss:") else None
    client = RelayClient(args.url, token, start=args.start, on_state=_tell, tls=tls, patience=args.patience)
    task = asyncio.current_task()
    assert task is not None
    _on_signals(task.cancel)
    try:
        async with client:
            return await bridge(
                client, sys.stdin.fileno(), sys.stdout.fileno(), fail_fast=args.fail_fast, linger=args.linger, say=say
            )
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM  # we were told to end, and said goodbye to the relay


def _tell(state: State) -> None:
    if state.name == "degraded":
        say(f"{state.reason} Trying again.")


def _token(path: Path | None, settings: RelaySettings) -> str | None:
    from worklets.stdiorelay.access import read_token

    if path is not None:
        return read_token(path)
    return settings.token.get_secret_value() if settings.token else None


def _on_signals(stop: Callable[[], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
