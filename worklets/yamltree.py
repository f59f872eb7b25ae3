"""YAML that people wrote, as a tree that knows its lines; for files of strangers.

Read from the parser's events rather than by a loader: nothing is constructed, so no tag can make an object and no
alias can grow. Plain words are read as YAML 1.2's core schema has them (`no` is a text, not false).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

LONGEST = 1 << 16  # bytes
DEEPEST = 8
MOST = 2000  # values
_FAULTS = 50

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?([0-9]{1,18}\.[0-9]{0,18}|\.[0-9]{1,18})([eE][-+]?[0-9]{1,3})?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


class _Invalid:
    """Stands where a value was refused already: nobody complains of it again."""


INVALID = _Invalid()


@dataclass(slots=True)
class Node:
    """`value`: None, bool, int, float, str, a list of nodes, a list of (key, value) pairs as `Pairs`, or INVALID."""

    line: int  # from 1
    column: int  # from 1
    value: Any


class Pairs(list[tuple[Node, Node]]):
    """A mapping, in its order."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong at a place; `text` is a sentence without its place."""

    line: int
    column: int
    text: str

    def at(self, path: str) -> str:
        return f"{path}:{self.line}:{self.column}: {self.text}"


@dataclass(slots=True)
class Faults:
    """All that was found wrong."""

    found: list[Fault] = field(default_factory=list)

    def add(self, node: Node, text: str) -> None:
        self.found.append(Fault(node.line, node.column, text))

    def sentences(self, path: str) -> list[str]:
        """In the order of the file; of very many only the first."""
        ordered = sorted(set(self.found))
        said = [fault.at(path) for fault in ordered[:_FAULTS]]
        return [*said, f"{path}: {len(ordered) - _FAULTS} more."] if len(ordered) > _FAULTS else said


class _TooMuch(Exception):
    """It is not read any further."""


_Event: TypeAlias = Any


def read(data: bytes, faults: Faults) -> Node | None:
    """The file's one document; None: it is empty, or no YAML (which `faults` tells)."""
    import yaml

    start = Node(1, 1, None)
    if len(data) > LONGEST:
        faults.add(start, f"The file has {len(data):,} bytes; {LONGEST:,} are read.")
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.add(Node(line, error.start - data.rfind(b"\n", 0, error.start), None), "This is not UTF-8.")
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _document(yaml.parse(text, Loader=loader), faults)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = Node(mark.line + 1, mark.column + 1, None) if mark else start
        faults.add(at, _not_yaml(error.problem or error.context or "it cannot be read", text, at))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        at = Node(before.count("\n") + 1, len(before) - before.rfind("\n"), None)
        faults.add(at, "This character does not belong into YAML.")
    except _TooMuch:
        pass
    return None


def _not_yaml(problem: str, text: str, at: Node) -> str:
    """The library's words, but for the two slips that people make most."""
    lines = text.removeprefix("\ufeff").splitlines()
    found = lines[at.line - 1][at.column - 1 : at.column] if at.line <= len(lines) else ""
    if found == "\t":
        return "YAML is indented with spaces, and this is a tab."
    if found in ("@", "%", "`"):
        return f"A value that begins with {found} has to stand in quotes."
    return f"This is not YAML: {problem}."


def _document(events: Iterator[_Event], faults: Faults) -> Node | None:
    """Raises yaml.YAMLError, _TooMuch."""
    import yaml

    root: Node | None = None
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if root is not None:
                faults.add(_at(event, None), "A second document begins here; there is one in the file.")
                raise _TooMuch
            root = _Tree(events, faults).build()
    return root


class _Tree:
    def __init__(self, events: Iterator[_Event], faults: Faults) -> None:
        self._events, self._faults, self._count = events, faults, 0

    def build(self, depth: int = 0) -> Node:
        return self._node(next(self._events), depth)

    def _node(self, event: _Event, depth: int) -> Node:
        import yaml

        node = _at(event, INVALID)
        self._count += 1
        if depth > DEEPEST or self._count > MOST:
            many = f"more than {MOST:,} values" if self._count > MOST else f"more than {DEEPEST} levels"
            self._faults.add(node, f"There are {many} here; the file is not read any further.")
            raise _TooMuch
        if isinstance(event, yaml.AliasEvent):
            self._faults.add(node, f"{shown(f'*{event.anchor}')} is an alias; write the value out, Flow follows none.")
            return node
        if event.anchor is not None:
            self._faults.add(node, f"{shown(f'&{event.anchor}')} is an anchor; leave it out, Flow follows no aliases.")
        if (tag := event.tag) not in (None, "!"):
            self._faults.add(node, f"{shown(tag)} is a tag; leave it out, Flow knows none.")
        if isinstance(event, yaml.ScalarEvent):
            node.value = event.value if event.style or tag else _plain(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            node.value = list(self._until(yaml.SequenceEndEvent, depth))
        else:
            node.value = self._pairs(list(self._until(yaml.MappingEndEvent, depth)))
        return node

    def _until(self, end: type, depth: int) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield self._node(event, depth + 1)

    def _pairs(self, nodes: list[Node]) -> Pairs:
        """What is written twice, or under no name, is left out and told."""
        pairs, seen = Pairs(), dict[str, int]()
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            if isinstance(key.value, str) and key.value in seen:
                self._faults.add(key, f"{shown(key.value)} stands in line {seen[key.value]} already.")
            elif isinstance(key.value, str):
                seen[key.value] = key.line
                pairs.append((key, value))
            elif key.value is not INVALID:
                self._faults.add(key, f"{shown(key.value)} is no name; put it into quotes if it is meant as one.")
        return pairs


def _at(event: _Event, value: Any) -> Node:
    mark = event.start_mark
    return Node(mark.line + 1, mark.column + 1, value)


def _plain(text: str) -> Any:
    if text.lower() in _WORDS and text in (text.lower(), text.upper(), text.capitalize()):
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def shown(value: Any) -> str:
    """A value as an error sentence quotes it: short, on one line."""
    if isinstance(value, Pairs):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = "".join(c if c.isprintable() else "·" for c in text)
    return f'"{text[:60]}…"' if len(text) > 60 else f'"{text}"'
