"""`flow secrets …` and `flow vault status`: secrets from the command line, bot or no bot; docs/secrets.md.

What the actions do is in `bot/secretsactions.py`, which is loaded only when one runs: `flow --help` stays quick.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import Settings

#: Exit codes of `flow vault status`; 2 is wrong usage everywhere.
AWAY, SEALED, FORBIDDEN = 1, 3, 4


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `flow secrets`; `args.act` names what runs."""
    verbs = parser.add_subparsers(required=True, metavar="ACTION")
    put = _verb(verbs, "set", "store one value, read from stdin or a hidden prompt")
    put.add_argument("name", metavar="NAME", help="the secret, like github or team/linear")
    put.add_argument("key", metavar="KEY", nargs="?", default="token", help="which of its values; default: token")
    _verb(verbs, "list", "the names of all secrets")
    _verb(verbs, "rm", "remove a secret for good").add_argument("name", metavar="NAME")
    _verb(verbs, "rotate", "encrypt the file with a new key; the old one is worth nothing then")
    _verb(verbs, "key", "print a new key for FLOW_SECRETS_KEY; nothing is stored")


def add_vault_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `flow vault`."""
    verbs = parser.add_subparsers(required=True, metavar="ACTION")
    codes = f"exit code 0 when Flow may use it, {AWAY} away, {SEALED} sealed, {FORBIDDEN} refused"
    _verb(verbs, "status", f"its address, the login and the token; {codes}")


def _verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(act=name)
    return parser


def secrets(args: argparse.Namespace, settings: Settings) -> int:
    """Runs one action. Raises FlowError; returns the exit code."""
    from bot.secretsactions import ACTIONS

    return asyncio.run(ACTIONS[args.act](args, settings))
