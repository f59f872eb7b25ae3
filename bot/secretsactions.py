"""What `flow secrets …` and `flow vault status` do; the commands are declared in `bot/secretscommand.py`.

A value is read from stdin, or from a prompt that does not show it; it is never an argument, which other users of the
machine could read, and nothing here prints one.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from bot.secretscommand import AWAY, FORBIDDEN, SEALED
from bot.secretstores import file_store, open_secrets
from config.errors import FlowError
from config.units import format_duration
from worklets.secrets import MOST_CHARACTERS, SecretError, SecretsForbidden, SecretsSealed, check_path
from worklets.secretskeys import Key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from config.settings import Settings
    from worklets.secrets import SecretStore
    from worklets.secretsvault import VaultStore

    Action: TypeAlias = Callable[[argparse.Namespace, Settings], Coroutine[None, None, int]]


async def _set(args: argparse.Namespace, settings: Settings) -> int:
    check_path(args.name)
    _as_owner(settings)
    value = await asyncio.to_thread(_asked, f"Value of {args.key} in {args.name}: ")
    _check(args.name, args.key, value)
    await _with(settings, lambda store: store.put(args.name, {args.key: value}, keep=True))
    print(f"stored {args.key} of {args.name}")
    if settings.secrets.kind == "file":
        where = await file_store(settings).where()
        print(f"its key is in {where}; keep a copy of that apart from backups of {settings.share_dir}")
    return 0


async def _list(_: argparse.Namespace, settings: Settings) -> int:
    names = await _with(settings, lambda store: store.list())
    for name in names:
        print(name)
    if not names:  # beside the list: a script that reads it finds no name
        print("no secrets yet; store one with `flow secrets set`", file=sys.stderr)
    return 0


async def _remove(args: argparse.Namespace, settings: Settings) -> int:
    _as_owner(settings)
    await _with(settings, lambda store: store.delete(args.name))
    print(f"removed {args.name}")
    return 0


async def _rotate(_: argparse.Namespace, settings: Settings) -> int:
    if settings.secrets.kind != "file":
        raise SecretError("Vault keeps its own keys.", suggestion="Rotate them there: `vault operator rotate`.")
    _as_owner(settings)
    count, where = await file_store(settings).rotate()
    what = "1 secret is" if count == 1 else f"{count} secrets are"
    print(f"{what} encrypted with the new key in {where}")
    print("backups of the file that are older need the key before it")
    return 0


async def _key(_: argparse.Namespace, _settings: Settings) -> int:
    print(Key.made().text)
    return 0


async def _with(settings: Settings, act: Callable[[SecretStore], Awaitable[Any]]) -> Any:
    store = open_secrets(settings)
    try:
        return await act(store)
    finally:
        await store.aclose()


def _check(name: str, key: str, value: str) -> None:
    """What else a thread would only be told when a worklet starts. Raises FlowError."""
    if name.startswith("mcp/") and key == "hosts":
        from worklets.mcpservers import hosts_of

        try:
            hosts_of({key: value})
        except ValueError:  # its words hold the value, which may be a token in the wrong place
            raise FlowError(
                "That is no list of hosts; nothing was stored.",
                suggestion="Write it like mcp.example.org, *.example.org:8443; without a port every port counts.",
            ) from None


def _as_owner(settings: Settings) -> None:
    """Root's file, and a key in root's home, would keep the bot out. Raises FlowError."""
    if settings.secrets.kind != "file" or not settings.share_dir.exists():
        return
    owner = settings.share_dir.stat().st_uid
    if owner != os.geteuid():
        raise FlowError(
            f"{settings.share_dir} belongs to another user (uid {owner}).",
            suggestion="Run this as the user that Flow runs as: `sudo -u … flow secrets …`.",
        )


def _asked(prompt: str) -> str:
    """One value. Raises FlowError when there is none, or too much."""
    try:
        if sys.stdin.isatty():
            value = getpass.getpass(prompt)
        else:
            value = sys.stdin.read(MOST_CHARACTERS + 3).removesuffix("\n").removesuffix("\r")
    except (EOFError, UnicodeDecodeError) as error:
        raise FlowError("No value was given.", suggestion="Pipe it in as UTF-8 text, or type it.") from error
    if not value:
        raise FlowError("No value was given; nothing is changed.")
    return value


async def _status(_: argparse.Namespace, settings: Settings) -> int:
    own = settings.secrets
    if own.address is None or own.login is None:
        raise FlowError("No Vault is set.", suggestion="Set VAULT_ADDR, and VAULT_TOKEN or another way to log in.")
    from worklets.secretsvault import VaultStore

    _line("address", own.address)
    _line("namespace", own.namespace or "none")
    _line("login", own.login)
    _line("secrets", f"{own.mount}/{own.prefix}" if own.kind == "vault" else "not used: FLOW_SECRETS is file")
    store = VaultStore(own)
    try:
        return await _told(store)
    finally:
        await store.aclose()


async def _told(store: VaultStore) -> int:
    try:
        server = await store.server()
        _line("server", f"version {server['version']}, {server['state']}")
        token = await store.token()
    except SecretError as error:
        _line("state", error.sentence())
        match error:
            case SecretsSealed():
                return SEALED
            case SecretsForbidden():
                return FORBIDDEN
        return AWAY
    left = f"{format_duration(token['ttl'])} left" if token["ttl"] else "does not end"
    _line("token", f"{left}, {'renewed' if token['renewable'] else 'cannot be renewed'}")
    _line("policies", ", ".join(token["policies"]))
    _line("state", "ok")
    return 0


def _line(name: str, value: str) -> None:
    print(f"{name:10} {value}")


#: By the name of the command.
ACTIONS: dict[str, Action] = {
    "set": _set,
    "list": _list,
    "rm": _remove,
    "rotate": _rotate,
    "key": _key,
    "status": _status,
}
