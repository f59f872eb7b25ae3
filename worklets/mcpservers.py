"""The MCP servers that Flow knows by name, and what a repository's `mcpServers` become. Values only.

A worklet and Claude share one user, so whoever runs in there can read what a server beside it was given. A server with
a secret therefore never runs inside: Claude reaches it at `/flow/mcp/<name>` behind the worklet's own door
(`worklets.mcpdoor`), where the secret is added; one that is a command runs in a sidecar, beside the worklet. What needs
none runs inside as a process of the CLI.

Secrets lie in the store under `mcp/<name>`: storing one there is the administrator's consent. `repositories` in it says
who may use it (patterns of addresses or names; without it: every repository). For a server of a repository's own
`hosts` says where it may be, or what it may reach from its sidecar, `command` which command may have it there, `image`
the base of that sidecar's image.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from config.errors import FlowError
from config.hosts import HostRule, host_name, parse_host
from worklets.git import without_password

if TYPE_CHECKING:
    from worklets.containeryaml import McpServer
    from worklets.repositories import Repository
    from worklets.secrets import SecretStore

#: Of an address: what ends its path, or what some read as a slash or a dot.
_ODD = re.compile(r"[?#\\\s\x00-\x1f]|%(?:2e|2f|5c|00)", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
#: The CLI puts values of its own environment there: the gateway's address inside, and the worklet's own token.
_ROUTE = "${ANTHROPIC_BASE_URL}/flow/mcp/"
_TOKEN = "Bearer ${FLOW_GATEWAY_TOKEN}"  # noqa: S105 - a reference; the CLI hides ANTHROPIC_API_KEY from it
#: HTTP's own headers and the protocol's: one of them would send a request elsewhere, or end it early.
_REFUSED_HEADERS = {
    "host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect", "keep-alive",
    "cookie", "proxy-authorization", "proxy-connection",
}  # fmt: skip
_SHOWN = 800  # characters of a command
RESERVED = {"repositories", "hosts", "url", "command", "image"}  # in a secret: not values of `${NAME}`


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """`url`: a vendor's own server, which takes `scheme` and a token. `command`: runs inside, with no secret.

    `key`: the value of the secret that is needed. With none of url and command Flow itself serves it.
    """

    about: str
    url: str | None = None
    scheme: str = "Bearer"
    key: str | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


def _inside(program: str, otherwise: str, *args: str) -> tuple[str, ...]:
    """The program of the image; where an image of somebody's own has none, what fetches it, if that is let out."""
    script = f'command -v {program} >/dev/null && exec {program} "$@"; exec {otherwise} "$@"'
    return ("sh", "-c", script, program, *args)


def _npx(package: str) -> str:
    return f"npx -y {package}"


#: Further arguments, of what the worklet has: a proxy, a browser of the image. Left alone, the browser would ask the
#: proxy for the worklet's own servers too, and its screenshots lie where commits take them along.
_FETCH = 'set -- ${HTTPS_PROXY:+--proxy-url "$HTTPS_PROXY"}; '
_BROWSE = (
    'set -- "$@" --output-dir "${TMPDIR:-/tmp}/playwright-mcp"; '
    'set -- "$@" ${HTTPS_PROXY:+--proxy-server "$HTTPS_PROXY" --proxy-bypass "localhost,127.0.0.1,[::1]"}; '
    "found=$(command -v chromium-headless-shell || command -v chromium || command -v chromium-browser"
    ' || command -v google-chrome) && set -- "$@" --executable-path "$found"; '
)
_PLAYWRIGHT = ("--headless", "--isolated", "--no-sandbox", "--file-paths", "absolute")  # the worklet is the sandbox


def _after(setting: str, command: tuple[str, ...]) -> tuple[str, ...]:
    shell, option, script, *rest = command
    return (shell, option, setting + script, *rest)


#: Looked up in November 2026: addresses from the vendors' pages, versions from npm and PyPI.
BUILT_IN: dict[str, BuiltIn] = {
    "github": BuiltIn("repositories, issues, pull requests", "https://api.githubcopilot.com/mcp/", key="token"),
    "linear": BuiltIn("issues and projects", "https://mcp.linear.app/mcp", key="token"),
    "slack": BuiltIn("search, channels, messages", "https://mcp.slack.com/mcp", key="token"),
    # Its other scheme, Bearer, is for tokens of a login in a browser only.
    "sentry": BuiltIn("errors and their traces", "https://mcp.sentry.dev/mcp", "Sentry-Bearer", key="token"),
    # The reference server is archived, and its read-only mode could be left with a semicolon.
    "postgres": BuiltIn("reading a database", key="dsn"),
    # The versions are those of worklets/image/mcp, and of worklets/image/browser.
    "filesystem": BuiltIn(
        "files of the workspace",
        command=_inside(
            "mcp-server-filesystem", _npx("@modelcontextprotocol/server-filesystem@2026.8.31"), "/work/workspace"
        ),
    ),
    "memory": BuiltIn(
        "a knowledge graph that outlives the container",
        command=_inside("mcp-server-memory", _npx("@modelcontextprotocol/server-memory@2026.8.31")),
        env={"MEMORY_FILE_PATH": "/work/home/.mcp-memory.jsonl"},
    ),
    "fetch": BuiltIn(
        "web pages as Markdown, from hosts that Flow lets out",
        command=_after(_FETCH, _inside("mcp-server-fetch", "python3 -m mcp_server_fetch")),
    ),
    "playwright": BuiltIn(
        "a browser",
        command=_after(
            _BROWSE,
            _inside("playwright-mcp", _npx("@playwright/mcp@0.0.83"), *_PLAYWRIGHT),
        ),
    ),
}


def wants_browser(servers: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether one of them, as the CLI's --mcp-config has them, is the built-in playwright."""
    _, *args = BUILT_IN["playwright"].command
    return any(one.get("args") == args for one in servers.values())


@dataclass(frozen=True, slots=True)
class Resolved:
    """`servers`: for the CLI's --mcp-config. `grant`: for the gateway, with secrets. `notes`: sentences for people.

    `aliases`: of `servers`, the built-in ones under another name, with that of the built-in one.
    """

    servers: dict[str, dict[str, Any]] = field(default_factory=dict)
    grant: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)


Find: TypeAlias = "Callable[[str], Repository | None]"


async def resolve(
    servers: Sequence[McpServer], secrets: SecretStore | None, repository: str | None, find: Find = lambda _: None
) -> Resolved:
    """What becomes of a file's servers. One that cannot be had is left out, and a note says why: the others work.

    `repository`: as somebody wrote it, a name or an address. `find`: those that the settings name.
    """
    called = names_of(repository, find)
    known: dict[str, dict[str, Any]] = {}
    grant: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for server in servers:
        try:
            target = await _target(server, secrets, called)
        except _LeftOut as error:
            notes.append(f"The MCP server {server.name} is left out: {error}")
            continue
        if target is None:
            known[server.name] = _process(server)
        else:
            grant[server.name] = target
            known[server.name] = {
                "type": "http", "url": _ROUTE + server.name, "headers": {"Authorization": _TOKEN},
            }  # fmt: skip
    other = {one.name: one.builtin for one in servers if one.name in known and one.builtin not in (None, one.name)}
    return Resolved(known, grant, tuple(notes), {name: builtin for name, builtin in other.items() if builtin})


class _LeftOut(Exception):
    """A sentence about one server."""


def _process(server: McpServer) -> dict[str, Any]:
    """One that the CLI reaches by itself: a command inside, or an address that the proxy lets it out to."""
    if server.url is not None:
        return {"type": "http", "url": server.url, "headers": dict(server.headers)}
    if server.builtin is not None:
        program, *args = BUILT_IN[server.builtin].command
        return {"command": program, "args": args, "env": dict(BUILT_IN[server.builtin].env)}
    return {"command": server.command, "args": list(server.args), "env": dict(server.env)}


async def _target(server: McpServer, secrets: SecretStore | None, called: Sequence[str]) -> dict[str, Any] | None:
    """What the gateway reaches for it; None: nothing. Raises _LeftOut."""
    if server.builtin is not None:
        built_in = BUILT_IN[server.builtin]
        if built_in.key is None:
            return None
        values = await _secret(server.builtin, built_in.key, secrets, called)
        if built_in.url is None:
            return {"dsn": values[built_in.key]}
        authorization = f"{built_in.scheme} {values[built_in.key]}"
        return {"url": values.get("url", built_in.url), "headers": {"Authorization": authorization}}
    if not server.variables:
        return None
    values = await _secret(server.name.lower(), None, secrets, called)
    missing = [name for name in server.variables if name not in values or name in RESERVED]
    if missing:
        raise _LeftOut(f"the secret mcp/{server.name.lower()} has no value {missing[0]}.")
    return _custom(server, values) if server.url is not None else _beside(server, values)


def _beside(server: McpServer, values: Mapping[str, str]) -> dict[str, Any]:
    """A command that needs a secret, for a sidecar: it gets that only where the administrator said so, word by word."""
    argv = [server.command or "", *server.args]
    if any(_REFERENCE.search(word) for word in argv):
        raise _LeftOut("its secret would stand in its command line, which others can read; put it into its env.")
    try:
        allowed = command_of(values.get("command", ""))
        hosts = hosts_of(values)
    except ValueError as error:
        raise _LeftOut(f"`command` or `hosts` of the secret mcp/{server.name.lower()}: {error}.") from None
    if allowed != (dict(server.env), argv):
        line = shlex.join([*(f"{name}={value}" for name, value in server.env), *argv])
        if len(line) > _SHOWN:
            line = "NAME=value first, then command and args as they stand in the file"
        raise _LeftOut(
            f"its secret may not be given to this command; an administrator allows that with "
            f"`flow secrets set mcp/{server.name.lower()} command`, value {line}"
        )
    env = {name: _REFERENCE.sub(lambda found: values[found[1]], value) for name, value in server.env}
    if any("\0" in value for value in env.values()):
        raise _LeftOut("its secret has a null byte, which no environment can have.")
    image = {"image": values["image"]} if values.get("image") else {}
    given = sorted({values[name] for name in server.variables})
    return {"command": argv, "env": env, "hosts": list(map(str, hosts)), "secrets": given, **image}


def command_of(line: str) -> tuple[dict[str, str], list[str]]:
    """The environment and the words of a command as a shell reads them: `A=${TOKEN} program -x`. Raises ValueError."""
    words = shlex.split(line)
    count = next((at for at, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
    env = dict(word.split("=", 1) for word in words[:count])
    return env, words[count:]


def _custom(server: McpServer, values: Mapping[str, str]) -> dict[str, Any]:
    """A repository's own server: a secret goes only where the administrator said that it may."""
    assert server.url is not None
    parts = urlsplit(server.url)
    host, port = parts.hostname or "", parts.port or 443
    try:
        allowed = hosts_of(values)
    except ValueError as error:
        raise _LeftOut(f"`hosts` of the secret mcp/{server.name.lower()}: {error}.") from None
    try:
        known = any(rule.covers(host_name(host), port) for rule in allowed)
    except ValueError:
        known = False
    if not known:
        raise _LeftOut(
            f"its secret may not be sent to {host}; an administrator allows that with "
            f"`flow secrets set mcp/{server.name.lower()} hosts`, value {host}."
        )
    if refused := [name for name, _ in server.headers if is_refused(name)]:
        raise _LeftOut(f"its header {refused[0]} is not for a file to set.")
    filled = {name: _REFERENCE.sub(lambda found: values[found[1]], value) for name, value in server.headers}
    url = _REFERENCE.sub(lambda found: values[found[1]], server.url)
    if any("\r" in value or "\n" in value for value in (url, *filled.values())):
        raise _LeftOut("its secret has several lines, which no header can have.")
    return {"url": url, "headers": filled}


def is_refused(header: str) -> bool:
    """Whether a repository may not set it."""
    return header.lower() in _REFUSED_HEADERS or header.lower().startswith(("mcp-", "sec-"))


def hosts_of(values: Mapping[str, str]) -> list[HostRule]:
    """Where a secret may be sent. Raises ValueError, with a sentence."""
    return [parse_host(one) for one in re.split(r"[,\s]+", values.get("hosts", "")) if one]


def names_of(repository: str | None, find: Find) -> tuple[str, ...]:
    """What patterns are held against: its address without a login, and its name where the settings give it one.

    None for an address that servers may read as another than it looks like.
    """
    if repository is None:
        return ()
    known = find(repository)
    address = (known.shown if known is not None else without_password(repository)).rstrip("/")
    names = () if known is None else (known.name,)
    path = address.partition("://")[2] or address
    if _ODD.search(path) or any(part in ("", ".", "..") for part in path.split("/")[1:]):
        return names
    return (*names, address, address.removesuffix(".git"))


async def _secret(name: str, key: str | None, secrets: SecretStore | None, called: Sequence[str]) -> Mapping[str, str]:
    path = f"mcp/{name}"
    ask = f"`flow secrets set {path} {key or 'NAME'}`"
    if secrets is None:
        raise _LeftOut(f"there is no store of secrets; an administrator sets one up, then {ask}.")
    from worklets.secrets import SecretMissing

    try:
        values = await secrets.get(path)
    except SecretMissing:
        raise _LeftOut(f"there is no secret {path}; an administrator stores it with {ask}.") from None
    except FlowError as error:
        raise _LeftOut(f"its secret cannot be read: {error.sentence()}") from error
    if key is not None and not values.get(key):
        raise _LeftOut(f"the secret {path} has no value {key}; an administrator stores it with {ask}.")
    patterns = [one for one in re.split(r"[,\s]+", values.get("repositories", "")) if one]
    if patterns and not any(fnmatchcase(name, pattern) for name in called for pattern in patterns):
        raise _LeftOut("its secret is not for this repository.")
    return values
