"""The keys of container.yaml: how each value is read, and what editors are told of it (docs/container.schema.json).

Each reader raises ValueError with the end of a sentence that begins with the key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from config.hosts import HostRule, parse_host
from config.rules import parse_rules
from config.units import parse_duration, parse_size
from worklets.toolrisk import TOOLS, is_tool
from worklets.yamltree import Node, shown

if TYPE_CHECKING:
    from worklets.containeryaml import Reader

#: Where the file stands in a repository.
PLACE = ".claude/container.yaml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
#: distribution/reference: host and port, path in lower case, tag, digest.
_IMAGE = re.compile(
    r"([a-zA-Z0-9][a-zA-Z0-9.-]*(:\d{1,5})?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_CAPABILITY = re.compile(r"(CAP_)?[A-Z][A-Z_]{2,30}|ALL")
_MILLICPUS = re.compile(r"(\d{1,6})m")


class Key(NamedTuple):
    """`path`: as people write it, "security.runAsUser". `field`: of ContainerConfig. `read`: raises ValueError."""

    path: str
    field: str
    read: Callable[[Reader, Node], Any]
    about: str
    schema: dict[str, Any]


def _matching(pattern: re.Pattern[str], wrong: str) -> Callable[[Reader, Node], str]:
    def read(_: Reader, node: Node) -> str:
        if not isinstance(node.value, str) or len(node.value) > 255 or not pattern.fullmatch(node.value):
            raise ValueError(f"{shown(node.value)} {wrong}")
        return node.value

    return read


def _flag(_: Reader, node: Node) -> bool:
    if not isinstance(node.value, bool):
        raise ValueError(f"{shown(node.value)} is neither true nor false")
    return node.value


def _only_true(reader: Reader, node: Node) -> bool:
    if not _flag(reader, node):
        raise ValueError("programs in a worklet never gain rights; write true, or leave it out")
    return True


def _user(_: Reader, node: Node) -> int:
    if type(node.value) is not int or not 0 <= node.value < 1 << 31:
        raise ValueError(f"{shown(node.value)} is no user id; write it like 1000")
    if node.value == 0:
        raise ValueError("nothing in a worklet runs as root; write 1000, or leave it out")
    return int(node.value)


def _memory(_: Reader, node: Node) -> int:
    """Kubernetes' spelling too: 512Mi, 2Gi."""
    text = node.value[:-1] if isinstance(node.value, str) and node.value.endswith("i") else node.value
    if isinstance(text, bool | float | list) or (size := _size(text)) is None or not 0 < size < 1 << 50:
        raise ValueError(f'{shown(node.value)} is not a size; write it like "512m" or "2g"')
    return size


def _size(text: object) -> int | None:
    try:
        return parse_size(str(text))
    except ValueError:
        return None


def _timeout(_: Reader, node: Node) -> float:
    if isinstance(node.value, bool | list):
        raise ValueError(f'{shown(node.value)} is not a duration; write it like "45s" or "30m"')
    return parse_duration(node.value)


def _cpu(_: Reader, node: Node) -> float:
    value = node.value
    if isinstance(value, str):
        millis = _MILLICPUS.fullmatch(value)
        value = int(millis[1]) / 1000 if millis else float(value) if re.fullmatch(r"\d{1,6}(\.\d+)?", value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 10_000:
        raise ValueError(f'{shown(node.value)} is no number of processors; write it like 2, 0.5 or "500m"')
    return float(value)


def _network(_: Reader, node: Node) -> str:
    if not isinstance(node.value, str):
        raise ValueError(f"{shown(node.value)} is no network mode; it is none or bridge")
    if node.value == "host" or node.value.startswith(("container:", "ns:")):
        raise ValueError(f"{shown(node.value)} would leave the sandbox, which no repository may; use none or bridge")
    if node.value not in ("none", "bridge"):
        raise ValueError(f"{shown(node.value)} is not known; it is none (nothing) or bridge (what Flow lets out)")
    return node.value


def _domains(reader: Reader, node: Node) -> tuple[HostRule, ...]:
    return reader.each(node, "security.allowedDomains", "example.org", parse_host)


def _capabilities(reader: Reader, node: Node) -> tuple[str, ...]:
    def one(name: str) -> str:
        if not _CAPABILITY.fullmatch(name):
            raise ValueError(f"{shown(name)} is no capability; write them like [ALL] or [NET_RAW, SYS_CHROOT]")
        return name

    return reader.each(node, "security.dropCapabilities", "ALL", one)


def _tools(reader: Reader, node: Node) -> tuple[str, ...]:
    """Rules in the CLI's syntax, `Bash(git *)`. A tool that does not exist would quietly allow nothing."""

    def one(text: str) -> str:
        (rule,) = parse_rules([text])
        tool = rule.partition("(")[0]
        if not is_tool(tool):
            near = difflib.get_close_matches(tool.lower(), [name.lower() for name in TOOLS], n=1)
            hint = f"; did you mean {next(name for name in TOOLS if name.lower() == near[0])}?" if near else ""
            raise ValueError(f"{shown(tool)} is no tool of Claude Code{hint}")
        return rule

    return reader.each(node, "tools.allowed", "Read, Edit, Bash(git *)", one)


def _one_text(reader: Reader, node: Node) -> str:
    if (text := reader.text(node)) is not None and not text.strip():
        raise ValueError("it is empty")
    return text or ""


def _url(reader: Reader, node: Node) -> str:
    from urllib.parse import urlsplit

    if not (text := _one_text(reader, node)):
        return text
    try:
        parts = urlsplit(text)
        host = parts.hostname
        parts.port  # noqa: B018 - raises ValueError
    except ValueError:
        host = None
    if host is None or parts.scheme != "https" or "@" in parts.netloc or "${" in parts.netloc:
        raise ValueError(f"{shown(text)} is no address of a server; write it like https://mcp.example.org/mcp")
    return text


def _headers(reader: Reader, node: Node) -> tuple[tuple[str, str], ...]:
    from worklets.mcpservers import is_refused

    found = reader.pairs(node, "headers", _HEADER)
    if refused := [name for name, _ in found if is_refused(name)]:
        raise ValueError(f"{refused[0]} is not for a file to set; leave it out")
    return found


SERVER_KEYS: dict[str, Callable[[Reader, Node], Any]] = {
    "builtin": _one_text,
    "command": _one_text,
    "args": lambda reader, node: reader.texts(node, '"--verbose"'),
    "env": lambda reader, node: reader.pairs(node, "env", VARIABLE),
    "url": _url,
    "headers": _headers,
}

_STRINGS = {"type": "array", "items": {"type": "string"}}
_ARGUMENTS = {"type": "array", "items": {"type": ["string", "number"]}}
_NAMED_STRINGS = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
_SERVER_SCHEMA = {
    "type": ["object", "string", "null"],
    "additionalProperties": False,
    "properties": {
        "builtin": {"type": "string"},
        "command": {"type": "string"},
        "args": _ARGUMENTS,
        "env": _NAMED_STRINGS,
        "url": {"type": "string", "pattern": "^https://"},
        "headers": _NAMED_STRINGS,
    },
}

KEYS = (
    Key("name", "name", _matching(_NAME, "cannot be a name; use up to 64 letters, digits, dots, hyphens and spaces"),
        "What the environment is called.", {"type": "string"}),
    Key("baseImage", "base_image", _matching(_IMAGE, "is no image; write it like node:22 or python:3.12-slim"),
        "The image that the worklet's is built from.", {"type": "string"}),
    Key("tools.allowed", "allowed", _tools, "The tools that Claude may use; leave it out for all of them.", _STRINGS),
    Key("mcpServers", "mcp_servers", lambda reader, node: reader.servers(node),
        "MCP servers by name: built-in ones, commands, addresses.",
        {"type": ["object", "array"], "items": {"type": "string"}, "additionalProperties": _SERVER_SCHEMA}),
    Key("resources.memory", "memory", _memory, "Memory, such as 2g.", {"type": ["string", "integer"]}),
    Key("resources.timeout", "timeout", _timeout, "How long one turn may work: 30m, or seconds.",
        {"type": ["string", "number"]}),
    Key("resources.cpu", "cpu", _cpu, "Processors, such as 2 or 0.5.", {"type": ["string", "number"]}),
    Key("security.runAsUser", "run_as_user", _user, "The user id that Claude runs as; never 0.",
        {"type": "integer", "minimum": 1}),
    Key("security.readOnlyRoot", "read_only_root", _flag, "The root file system cannot be written.",
        {"type": "boolean"}),
    Key("security.noNewPrivileges", "no_new_privileges", _only_true, "No program gains rights.", {"const": True}),
    Key("security.dropCapabilities", "drop_capabilities", _capabilities, "Capabilities to drop; all are.", _STRINGS),
    Key("security.networkMode", "network_mode", _network, "none: nothing outside; bridge: what Flow lets out.",
        {"enum": ["none", "bridge"]}),
    Key("security.allowedDomains", "allowed_domains", _domains, "Of what Flow lets out, only these hosts.", _STRINGS),
)  # fmt: skip
BY_PATH = {key.path: key for key in KEYS}


def json_schema() -> dict[str, Any]:
    """For editors: a JSON Schema of the file, draft 2020-12."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Flow: {PLACE}",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }
    for key in KEYS:
        group, _, name = key.path.rpartition(".")
        properties = root["properties"]
        if group:
            new = {"type": "object", "additionalProperties": False, "properties": {}}
            properties = properties.setdefault(group, new)["properties"]
        properties[name] = {"description": key.about, **key.schema}
    return root
