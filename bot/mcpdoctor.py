"""What `flow doctor` says of the secrets of MCP servers: those that lack what their server needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bot.doctorfinding import Finding
from bot.secretstores import open_secrets
from worklets.mcpservers import BUILT_IN, RESERVED, command_of, hosts_of

if TYPE_CHECKING:
    from config.settings import Settings

_BELOW = "mcp/"


async def servers(settings: Settings) -> Finding:
    """Raises FlowError."""
    store = open_secrets(settings)
    try:
        names = [path.removeprefix(_BELOW) for path in await store.list() if path.startswith(_BELOW)]
        values = {name: await store.get(_BELOW + name) for name in names}
    finally:
        await store.aclose()
    if not names:
        return Finding("skip", "no secret for one; those that need none work (docs/container-yaml.md)")
    for name in names:
        if wrong := wrong_value(name, values[name]):
            key, why = wrong
            return Finding("warn", f"{key} of the secret mcp/{name}: {why}", f"flow secrets set mcp/{name} {key}")
        if missing := lacking(name, values[name]):
            return Finding(
                "warn", f"the secret mcp/{name} has no value {missing}", f"flow secrets set mcp/{name} {missing}"
            )
    return Finding("ok", f"secrets for {', '.join(names)}")


def wrong_value(name: str, values: Mapping[str, str]) -> tuple[str, str] | None:
    """Which value no thread can use of a secret for a repository's own server, and why."""
    if name in BUILT_IN:
        return None
    try:
        hosts_of(values)
    except ValueError as error:
        return "hosts", str(error)
    try:
        command_of(values.get("command", ""))
    except ValueError as error:
        return "command", str(error)
    return None


def lacking(name: str, values: Mapping[str, str]) -> str | None:
    """The value without which the server is left out; None: it has all.

    A repository's own needs `hosts`, or a `command`.
    """
    if name in BUILT_IN:
        key = BUILT_IN[name].key
        return key if key is not None and key not in values else None
    if "hosts" not in values and "command" not in values:
        return "hosts"
    return None if set(values) - RESERVED else "NAME"
