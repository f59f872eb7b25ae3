"""The frames between relay and client. Binary frames carry lines as they are; text frames are JSON objects.

    client → relay   hello {client, epoch, seq, ack} · ack {seq} · bye {} · (binary) `<id>\\n<line>`
    relay → client   welcome {epoch, first, last, seq, applied, process} · inack {id} ·
                     gap {first, last} · long {seq, bytes} · started {seq} · exit {seq, code, stderr, again} ·
                     (binary) `<number of the first>\\n<line>\\n<line>…`, numbers being consecutive

`hello` comes first. Its `seq` is the last number that the client has, with the `epoch` (one relay process) in
which it counts; or "start": all that is held; or "now": what comes from now on. `ack`, here and later, is the
last number that the client has dealt with: the relay need not keep it for this one. Inputs are numbered 1, 2, 3 …
by the client; the relay writes each once, in order, and `inack` means all up to that one.
`long`, `started` and `exit` have numbers of their own among the lines.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple

SUBPROTOCOL = "flow-relay"  # a page in a browser offers it together with "bearer.<token>"
# Close codes: another relay process than the one asked for; not understood; `--single`, and somebody is there.
OTHER_EPOCH, NOT_UNDERSTOOD, OCCUPIED = 4002, 4004, 4006

MAX_LINE = 60 << 20  # bytes
MAX_FRAME = 64 << 20
WINDOW = 4 << 20  # bytes of lines under way to a client that has not acknowledged them
INPUT_WINDOW = 1 << 20  # bytes of input under way to the relay; one longer line goes alone
PING_SECONDS = 15.0


class Line(NamedTuple):
    seq: int
    data: bytes  # without its newline


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines `first` to `last` were dropped before this client read them."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class TooLong:
    """A line of `bytes` bytes, more than MAX_LINE: it was not kept."""

    seq: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Started:
    """The process was started again."""

    seq: int


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended. `code` is negative for a signal; `again`: seconds until the next start, None for never."""

    seq: int
    code: int
    stderr: str  # its last 4,000 bytes
    again: float | None


Event = Line | Gap | TooLong | Started | Exited


def pack_lines(first: int, lines: list[bytes]) -> bytes:
    return b"%d\n%s" % (first, b"\n".join(lines))


def unpack_lines(frame: bytes) -> list[Line]:
    """Raises ValueError."""
    head, _, rest = frame.partition(b"\n")
    return [Line(number, data) for number, data in enumerate(rest.split(b"\n"), int(head))]


def pack_input(number: int, line: bytes) -> bytes:
    return b"%d\n%s" % (number, line)


def unpack_input(frame: bytes) -> tuple[int, bytes]:
    """Raises ValueError, also when it is not one line."""
    head, newline, line = frame.partition(b"\n")
    if not newline or b"\n" in line:
        raise ValueError("an input is one line")
    return int(head), line


def parse_notice(message: dict[str, Any]) -> Event | None:
    """What a text frame tells a reader; None for the others. Raises KeyError."""
    match message["type"]:
        case "gap":
            return Gap(message["first"], message["last"])
        case "long":
            return TooLong(message["seq"], message["bytes"])
        case "started":
            return Started(message["seq"])
        case "exit":
            return Exited(message["seq"], message["code"], message["stderr"], message["again"])
    return None


def text(kind: str, **fields: Any) -> str:
    return json.dumps({"type": kind, **fields})
