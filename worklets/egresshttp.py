"""HTTP/1.1 as the forward proxy reads it: heads parsed strictly, so that no two readers understand two things. Pure.

Whatever RFC 9112 leaves room for (folded lines, bare line feeds, two lengths, a length beside chunks) is refused:
such requests are how a second one is smuggled past a check (RFC 9112 11.2). The proxy takes one request for each
connection and frames its body anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from config.hosts import host_name

LONGEST_HEAD = 1 << 16  # bytes
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([!-~\x80-\xff]+) HTTP/1\.[01]")
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)( [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)")  # each byte has one place: no backtracking
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:\[\]/?#@]*)(?::(\d{1,5}))?")
_ABSOLUTE = re.compile(r"http://([^/?#]*)(/[^#]*|\?[^#]*|)", re.IGNORECASE)

#: RFC 9110 7.6.1; the framing is written anew.
_HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"proxy-authenticate", b"te",
    b"trailer", b"upgrade",
}  # fmt: skip
_FRAMING = {b"content-length", b"transfer-encoding"}

Fields = tuple[tuple[bytes, bytes], ...]


class BadRequest(Exception):
    """What came in is not understood, or not served. `status` is the answer's, the text a sentence."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason, self.status = reason, status


class BadResponse(Exception):
    """The host outside does not speak HTTP/1.1."""


class Framing(NamedTuple):
    """How much body follows a request's head."""

    length: int = 0
    chunked: bool = False


NO_BODY = Framing()


@dataclass(frozen=True, slots=True)
class Request:
    """`host` is in the one form of `config.hosts`. `target` is what the host gets to see; empty for CONNECT."""

    method: str
    host: str
    port: int
    target: bytes
    fields: Fields = ()
    framing: Framing = NO_BODY

    @property
    def tunnels(self) -> bool:
        return self.method == "CONNECT"

    def head(self) -> bytes:
        """As it goes to the host: the address line's host, whatever a Host field said, and no second request."""
        authority = self.host if self.port == 80 else f"{self.host}:{self.port}"
        lines = [b"%s %s HTTP/1.1" % (self.method.encode(), self.target), b"Host: " + authority.encode()]
        lines += [name + b": " + value for name, value in self.fields]
        if self.framing.chunked:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.framing.length or self.method in ("POST", "PUT", "PATCH"):
            lines.append(b"Content-Length: %d" % self.framing.length)
        return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def parse_request(head: bytes) -> Request:
    """From a head with its empty line. Raises BadRequest."""
    first, fields = _split(head)
    match = _REQUEST.fullmatch(first)
    if match is None:
        raise BadRequest("That is not a request of HTTP/1.1.")
    method, target = match[1].decode(), match[2].decode("utf-8", "replace")
    framing = _framing(fields)
    if method == "CONNECT":
        if framing != NO_BODY:
            raise BadRequest("A CONNECT request has no body.")
        return Request(method, *_host_and_port(target, None), b"")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not target.isascii():
        raise BadRequest(_how_to_ask(target))
    host, port = _host_and_port(absolute[1], 80)
    path = absolute[2] if absolute[2].startswith("/") else f"/{absolute[2]}"
    return Request(method, host, port, path.encode(), _kept(fields, also={b"host", *_FRAMING}), framing)


def parse_response(head: bytes) -> tuple[int, bytes]:
    """The status of a host's answer, and its head as it goes to the worklet. Raises BadResponse."""
    try:
        first, fields = _split(head)
    except BadRequest as e:
        raise BadResponse from e
    match = _STATUS.fullmatch(first)
    if match is None:
        raise BadResponse
    status = int(match[1])
    kept = [name + b": " + value for name, value in _kept(fields)]
    if status >= 200:
        kept.append(b"Connection: close")
    return status, b"\r\n".join([first, *kept, b"", b""])


def chunk_size(line: bytes) -> int:
    """Of a chunk's first line, without its end. Raises BadRequest."""
    match = re.fullmatch(rb"([0-9a-fA-F]{1,12})[ \t]*(;[\t\x20-\x7e\x80-\xff]*)?", line)
    if match is None:
        raise BadRequest("A chunk of the request's body has no size.")
    return int(match[1], 16)


def _split(head: bytes) -> tuple[bytes, Fields]:
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    fields = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise BadRequest("A header field is malformed.")
        fields.append((match[1], match[2].strip(b" \t")))
    return first, tuple(fields)


def _kept(fields: Fields, also: frozenset[bytes] | set[bytes] = frozenset()) -> Fields:
    """Those meant for the other end."""
    named = {
        each.strip().lower() for name, value in fields if name.lower() == b"connection" for each in value.split(b",")
    }
    gone = _HOP_BY_HOP | also | (named - _FRAMING)
    return tuple((name, value) for name, value in fields if name.lower() not in gone)


def _framing(fields: Fields) -> Framing:
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value.lower() for name, value in fields if name.lower() == b"transfer-encoding"]
    if codings and (lengths or codings != [b"chunked"]):
        raise BadRequest("The request does not say clearly how long it is.")
    if len(lengths) > 1 or not all(re.fullmatch(rb"\d{1,18}", length) for length in lengths):
        raise BadRequest("The request does not say clearly how long it is.")
    return Framing(int(lengths[0]) if lengths else 0, bool(codings))


def _host_and_port(authority: str, default: int | None) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(authority)
    if match is None or not (match[2] or default):
        raise BadRequest("The request names no host and port.")
    port = int(match[2] or default or 0)
    if not 0 < port < 65536:
        raise BadRequest("The request names no port.")
    try:
        return host_name(match[1]), port
    except ValueError as e:
        raise BadRequest(f"Flow's proxy does not reach that: {e}.", 403) from e


def _how_to_ask(target: str) -> str:
    if target.lower().startswith("https:"):
        return "Flow's proxy does not read encrypted traffic: ask it for https with CONNECT."
    return "This is Flow's forward proxy: ask it for http://host/path, or with CONNECT for host:port."
