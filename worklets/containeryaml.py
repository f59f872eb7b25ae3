"""`.claude/container.yaml` of a repository as a value: read from a stranger's bytes, with a line for every fault.

Pure, and it knows nothing of what an administrator allows: see `worklets.containerprofile`. The keys stand in
`worklets.containerkeys`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from config.hosts import HostRule
from worklets.containerkeys import BY_PATH, PLACE, SERVER_KEYS, VARIABLE
from worklets.yamltree import INVALID, Faults, Node, Pairs, read, shown

T = TypeVar("T")

_SERVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_LONGEST = 4096  # characters of one text
_SERVERS = 32
_ITEMS = 200
_ARGUMENT = 32_000  # characters as JSON: Linux takes 128 KiB in one argument of a program


@dataclass(frozen=True, slots=True)
class McpServer:
    """One of `mcpServers`. Exactly one of `builtin`, `command` and `url` is set.

    Values of `args`, `env` and `headers`, and `url`, may hold `${NAME}`, which `variables` lists.
    """

    name: str
    builtin: str | None = None
    command: str | None = None
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    url: str | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def variables(self) -> tuple[str, ...]:
        """The names in `${…}`, each once."""
        texts = (
            self.command or "",
            *self.args,
            *(v for _, v in self.env),
            self.url or "",
            *(v for _, v in self.headers),
        )
        return tuple(dict.fromkeys(name for text in texts for name in _REFERENCE.findall(text)))


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """What the file says; None: nothing. `memory` in bytes, `timeout` in seconds, `cpu` in processors.

    `lines`: key → (line, column), for those who judge the values.
    """

    name: str | None = None
    base_image: str | None = None
    allowed: tuple[str, ...] | None = None
    mcp_servers: tuple[McpServer, ...] = ()
    memory: int | None = None
    timeout: float | None = None
    cpu: float | None = None
    run_as_user: int | None = None
    read_only_root: bool | None = None
    no_new_privileges: bool | None = None
    drop_capabilities: tuple[str, ...] | None = None
    network_mode: str | None = None
    allowed_domains: tuple[HostRule, ...] | None = None
    lines: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False)


def parse(data: bytes, path: str = PLACE) -> tuple[ContainerConfig, list[str]]:
    """The configuration, and a sentence for each fault, `path:line:column: …`. With faults it is not to be used."""
    faults = Faults()
    root = read(data, faults)
    found: dict[str, Any] = {"lines": {}}
    if root is not None and root.value is not None:
        Reader(faults, found).group(root, "")
    return ContainerConfig(**found), faults.sentences(path)


class Reader:
    """Takes a tree apart. Whatever is wrong is told to `faults`, and the rest is read on."""

    def __init__(self, faults: Faults, found: dict[str, Any]) -> None:
        self._faults, self._found = faults, found

    def group(self, node: Node, prefix: str) -> None:
        """The keys below `prefix` ("" or "security.")."""
        for name, key, value in self.mapping(node, prefix, _names_below(prefix)):
            path = prefix + name
            if (known := BY_PATH.get(path)) is None:
                if value.value is not None:
                    self.group(value, f"{path}.")
                continue
            self._found["lines"][path] = (value.line, value.column)
            if value.value is None or value.value is INVALID:
                self._empty(key, value, path)
                continue
            try:
                self._found[known.field] = known.read(self, value)
            except ValueError as error:
                self._faults.add(value, _ended(f"{path}: {error}"))

    def _empty(self, key: Node, value: Node, path: str) -> None:
        if value.value is None:
            self._faults.add(key, f"{path} has no value; give it one, or leave it out.")

    def mapping(self, node: Node, prefix: str, known: list[str] | None) -> Iterator[tuple[str, Node, Node]]:
        """Its pairs; `known` None: any name. Others are told."""
        where = f"{prefix.rstrip('.')} is" if prefix else "The file is"
        if not isinstance(node.value, Pairs):
            if node.value is not INVALID:
                self._faults.add(node, f"{where} {shown(node.value)}, not a mapping: lines like `key: value`.")
            return
        for key, value in node.value:
            if known is None or key.value in known:
                yield key.value, key, value
            else:
                self._faults.add(key, _unknown(key.value, prefix, known))

    def texts(self, node: Node, what: str) -> tuple[str, ...]:
        """A list of texts. Raises ValueError when it is none; items that are none are told."""
        return tuple(text for item in self.items(node, what) if (text := self.text(item)) is not None)

    def items(self, node: Node, what: str) -> list[Node]:
        """Raises ValueError when it is no list."""
        if not isinstance(node.value, list) or isinstance(node.value, Pairs):
            raise ValueError(f"{shown(node.value)} is no list; write it like [{what}]")
        if len(node.value) > _ITEMS:
            raise ValueError(f"the list has {len(node.value)} items; {_ITEMS} are read")
        return list(node.value)

    def each(self, node: Node, path: str, like: str, convert: Callable[[str], T]) -> tuple[T, ...]:
        """A list of texts, each converted, each once; what `convert` raises ValueError for is told at its line."""
        found: list[T] = []
        for item in self.items(node, like):
            if (text := self.text(item)) is not None:
                try:
                    found.append(convert(text))
                except ValueError as error:
                    self._faults.add(item, _ended(f"{path}: {error}"))
        if len(json.dumps(found, default=str)) > _ARGUMENT:
            raise ValueError(f"the list is too long; it has at most {_ARGUMENT:,} characters")
        return tuple(dict.fromkeys(found))

    def text(self, node: Node) -> str | None:
        """None: it is none, which has been told. A number stands for its own digits, as in `args: [8080]`."""
        value = node.value
        if value is INVALID:
            return None
        if isinstance(value, bool | list) or value is None:
            self._faults.add(node, f"{shown(value)} is no text; put it into quotes if it is meant as one.")
            return None
        if len(str(value)) > _LONGEST or "\0" in str(value):
            self._faults.add(node, f"This text is longer than {_LONGEST:,} characters, or holds a null byte.")
            return None
        return str(value)

    def pairs(self, node: Node, what: str, names: re.Pattern[str]) -> tuple[tuple[str, str], ...]:
        """A mapping of names to texts."""
        found = []
        for name, key, value in self.mapping(node, what, None):
            if not names.fullmatch(name):
                self._faults.add(key, f"{what}: {shown(name)} is not a name that can stand here.")
            elif (text := self.text(value)) is not None:
                found.append((name, text))
        return tuple(found)

    # -- MCP servers ---------------------------------------------------------

    def servers(self, node: Node) -> tuple[McpServer, ...]:
        """A mapping, or a list of built-in servers' names."""
        if isinstance(node.value, list) and not isinstance(node.value, Pairs):
            entries = self._listed(node.value)
        else:
            entries = [(key, value) for _, key, value in self.mapping(node, "mcpServers", None)]
        if len(entries) > _SERVERS:
            raise ValueError(f"there are {len(entries)} servers; {_SERVERS} are read")
        found = [server for key, value in entries if (server := self._named(key, value)) is not None]
        if len(json.dumps([asdict(server) for server in found])) > _ARGUMENT:
            raise ValueError(f"it is too long; all servers together have at most {_ARGUMENT:,} characters")
        return tuple(found)

    def _listed(self, items: list[Node]) -> list[tuple[Node, Node]]:
        """As a mapping has them; what is written twice is told."""
        entries, seen = [], dict[str, int]()
        for item in items:
            if isinstance(item.value, str) and item.value in seen:
                self._faults.add(item, f"{shown(item.value)} stands in line {seen[item.value]} already.")
            elif item.value is not INVALID:
                entries.append((item, Node(item.line, item.column, None)))
                seen |= {item.value: item.line} if isinstance(item.value, str) else {}
        return entries

    def _named(self, key: Node, value: Node) -> McpServer | None:
        """Rules and risks go by the names of built-in servers: nothing else has one of those."""
        from worklets.mcpservers import BUILT_IN

        server = self._server(key, value)
        if server is not None and (known := server.name.lower()) in BUILT_IN and server.builtin != known:
            self._faults.add(key, f"mcpServers: {server.name} is the name of a built-in server; use another.")
            return None
        return server

    def _server(self, key: Node, value: Node) -> McpServer | None:
        name = key.value
        if not isinstance(name, str) or not _SERVER.fullmatch(name) or "__" in name or name.endswith("_"):
            self._faults.add(key, f"mcpServers: {shown(name)} cannot name a server; use letters, digits and hyphens.")
            return None
        if name.lower() == "flow":
            self._faults.add(key, f"mcpServers: {shown(name)} is the name of Flow's own server; use another.")
            return None
        if value.value is INVALID:
            return None
        if value.value is None or isinstance(value.value, str):
            return self._builtin(name, value if value.value else key, value.value or name)
        before = len(self._faults.found)
        read: dict[str, Any] = {}
        for one, _, given in self.mapping(value, f"mcpServers.{name}.", list(SERVER_KEYS)):
            try:
                read[one] = SERVER_KEYS[one](self, given)
            except ValueError as error:
                self._faults.add(given, _ended(f"mcpServers.{name}.{one}: {error}"))
        if len(self._faults.found) > before:
            return None
        return self._whole(name, key, read)

    def _whole(self, name: str, key: Node, read: dict[str, Any]) -> McpServer | None:
        """Says what does not go together."""
        kinds = [kind for kind in ("builtin", "command", "url") if kind in read]
        wrong = {
            "command": {"url", "headers"},
            "url": {"command", "args", "env"},
            "builtin": {"args", "env", "headers"},
        }
        if not kinds and not read:
            return self._builtin(name, key, name)
        if len(kinds) != 1:
            given = " and ".join(kinds) or "none of them"
            self._faults.add(key, f"mcpServers.{name} has {given}; it needs one of command, url and builtin.")
            return None
        if extra := sorted(wrong[kinds[0]] & set(read)):
            self._faults.add(key, f"mcpServers.{name} has {kinds[0]}, with which {extra[0]} means nothing.")
            return None
        if kinds == ["builtin"]:
            return self._builtin(name, key, read["builtin"])
        server = McpServer(name, **read)
        for variable in server.variables:
            if not VARIABLE.fullmatch(variable):
                self._faults.add(key, f"mcpServers.{name}: ${{{variable}}} is no variable; write it like ${{API_KEY}}.")
        return server

    def _builtin(self, name: str, at: Node, builtin: str) -> McpServer | None:
        from worklets.mcpservers import BUILT_IN

        if builtin in BUILT_IN:
            return McpServer(name, builtin=builtin)
        near = difflib.get_close_matches(builtin.lower(), BUILT_IN, n=1)
        hint = f"did you mean {near[0]}?" if near else f"those are {', '.join(BUILT_IN)}."
        self._faults.add(at, f"mcpServers: {shown(builtin)} is no built-in server; {hint}")
        return None


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."


def _unknown(name: str, prefix: str, known: list[str]) -> str:
    elsewhere = [path for path in BY_PATH if path.rpartition(".")[2] == name]
    if elsewhere:
        return f"{shown(name)} is not known here; it belongs below {elsewhere[0].rpartition('.')[0] or 'no other key'}."
    if name.lower() in ("addcapabilities", "privileged", "devices", "volumes", "mounts"):
        return f"{shown(name)} is nothing that a repository may ask for; leave it out."
    lowered = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), lowered, n=1, cutoff=0.5)
    hint = f"did you mean {lowered[near[0]]}?" if near else f"what stands here is {', '.join(known)}."
    return f"{shown(name)} is not known{f' below {prefix[:-1]}' if prefix else ''}; {hint}"


def _names_below(prefix: str) -> list[str]:
    below = [path[len(prefix) :].partition(".")[0] for path in BY_PATH if path.startswith(prefix)]
    return list(dict.fromkeys(below))
