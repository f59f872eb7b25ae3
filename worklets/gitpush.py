"""What a push asks for, read from its first bytes, and how it is refused in words that git shows. Pure.

A request to git-receive-pack begins with its commands as pkt-lines, ends them with a flush, and only then comes the
pack (gitprotocol-pack(5), gitprotocol-common(5)). Whatever is not plainly a list of commands on branches is refused, so
that the server cannot read anything else in it than we do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worklets.git import is_branch_name

MOST_COMMANDS = 32
LONGEST = 64 << 10  # bytes of all commands
_OID = rb"(?:[0-9a-f]{40}|[0-9a-f]{64})"
_COMMAND = re.compile(rb"(%b) (%b) refs/heads/([^\x00-\x20\x7f]{1,200})" % (_OID, _OID))
_DELETES = re.compile(rb"%b 0+ " % _OID)
_MOST_SHALLOW = 256
_SHALLOW = re.compile(rb"shallow %b" % _OID)
_CAPABILITIES = re.compile(rb"[\x20-\x7e]*")
#: Push options make some servers open or merge requests; a certificate hides the commands in itself.
_REFUSED = ("push-options", "push-cert")


class NotAPush(Exception):
    """What came is no list of commands on branches; the text says why, for people."""


@dataclass(frozen=True, slots=True)
class Push:
    """`branches` without refs/heads/, in their order. `size`: bytes of the commands with the flush.

    `deleted`: those that the push takes away.
    """

    branches: tuple[str, ...]
    capabilities: frozenset[str]
    size: int
    deleted: frozenset[str] = frozenset()


def read_push(data: bytes) -> Push | None:
    """Of a request's beginning; None: more is needed. Raises NotAPush."""
    return Reading().read(data)


class Reading:
    """One push as it comes in: each line of it is looked at once, however small the pieces are.

    A flush alone is a push of nothing: git sends one to find out whether it has to log in.
    """

    def __init__(self) -> None:
        self._branches: list[str] = []
        self._deleted: set[str] = set()
        self._capabilities: frozenset[str] = frozenset()
        self._at = self._shallow = 0

    def read(self, data: bytes | bytearray) -> Push | None:
        """`data`: all that has come so far. None: more is needed. Raises NotAPush."""
        while True:
            at = self._at
            if at > LONGEST:
                raise NotAPush("the list of branches is too long")
            if len(data) < at + 4:
                return None
            if not re.fullmatch(rb"[0-9a-fA-F]{4}", data[at : at + 4]):
                raise NotAPush("that is no git push")
            size = int(data[at : at + 4], 16)
            if size == 0:
                if not self._branches and len(data) > at + 4:
                    raise NotAPush("that is no git push")
                return Push(tuple(self._branches), self._capabilities, at + 4, frozenset(self._deleted))
            if size <= 4:
                raise NotAPush("that is no git push")
            if len(data) < at + size:
                return None
            self._at = at + size
            self._line(bytes(data[at + 4 : at + size]).removesuffix(b"\n"))

    def _line(self, line: bytes) -> None:
        if not self._branches and _SHALLOW.fullmatch(line):
            self._shallow += 1
            if self._shallow > _MOST_SHALLOW:
                raise NotAPush("its clone is cut off at too many commits")
            return
        command, _, told = line.partition(b"\0")
        if told and self._branches:
            raise NotAPush("that is no git push")
        if not self._branches:
            self._capabilities = _capabilities(told)
        name = _branch(command)
        self._branches.append(name)
        if _DELETES.match(command):
            self._deleted.add(name)
        if len(self._branches) > MOST_COMMANDS:
            raise NotAPush(f"more than {MOST_COMMANDS} branches at once")


def _branch(command: bytes) -> str:
    found = _COMMAND.fullmatch(command)
    if found is None:
        raise NotAPush("only branches can be pushed from a worklet, no tags or other refs")
    try:
        name = found[3].decode()
    except UnicodeDecodeError:
        raise NotAPush("a branch's name is no text") from None
    if not is_branch_name(name) or ".." in name or "@{" in name or name.endswith(".") or name in ("@", "HEAD"):
        raise NotAPush("a branch has a name that git does not take")
    for part in name.split("/"):  # git-check-ref-format(1)
        if not part or part.startswith(".") or part.endswith(".lock"):
            raise NotAPush("a branch has a name that git does not take")
    return name


def _capabilities(told: bytes) -> frozenset[str]:
    if not _CAPABILITIES.fullmatch(told):
        raise NotAPush("that is no git push")
    words = frozenset(told.decode("ascii").split())
    if any(word.partition("=")[0] in _REFUSED for word in words):
        raise NotAPush("push options and signed pushes do not go through Flow")
    return words


def refused(push: Push, reasons: Mapping[str, str]) -> bytes:
    """git-receive-pack's report: `reasons` by branch, in a few words; the others went unpushed with them."""
    report = [_line("unpack ok\n")]
    report += [_line(f"ng refs/heads/{name} {_short(reasons.get(name, 'refused with the others'))}\n") for name in
               push.branches]  # fmt: skip
    whole = b"".join(report) + b"0000"
    if push.capabilities & {"side-band-64k", "side-band"}:
        told = [_band(2, f"Flow: {name}: {why}\n".encode()) for name, why in reasons.items()]
        return b"".join(told) + b"".join(_band(1, part) for part in _parts(whole)) + b"0000"
    return whole


def _short(reason: str) -> str:
    return " ".join(reason.split())[:300]


def _line(text: str) -> bytes:
    data = text.encode()
    return b"%04x" % (len(data) + 4) + data


def _band(number: int, data: bytes) -> bytes:
    return b"%04x" % (len(data) + 5) + bytes([number]) + data


def _parts(data: bytes, size: int = 900) -> Sequence[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]
