"""Reads what an answer of the Messages API cost, as it passes. Nothing is held back, changed or kept but counts.

The API tells usage at an answer's begin (`message_start`) and, for the whole of it, at its end (`message_delta`). An
answer that is cut off has cost what its begin told, and what came of it: about that is known by its length only.
docs.claude.com, "Streaming messages" and "Messages".
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_LONGEST_LINE = 1 << 20  # bytes of an event; those with usage take a few hundred
_LONGEST_BODY = 32 << 20  # bytes of an answer in one piece
#: Ours by the API's own names.
_COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_write_tokens": "cache_creation_input_tokens",
}
#: List prices in US dollars for a million tokens in and out (docs.claude.com, "Pricing"), the first that matches.
_PRICES = (
    (re.compile(r"haiku"), (1.0, 5.0)),
    (re.compile(r"sonnet"), (3.0, 15.0)),
    (re.compile(r"opus-4-(0|1|20)|3-opus"), (15.0, 75.0)),
    (re.compile(r"opus"), (5.0, 25.0)),
)
_UNKNOWN = (15.0, 75.0)
_BYTES_OF_TOKEN = 3  # of an answer's text, roughly
_TEXTS = ("text", "partial_json", "thinking")  # of a `content_block_delta`
#: Times the price of an input token: read from the cache, written to it for five minutes, for an hour.
_CACHE_READ, _CACHE_5M, _CACHE_1H = 0.1, 1.25, 2.0


@dataclass(frozen=True, slots=True)
class Metered:
    """One answer: the model, tokens by kind; `hour_tokens` of the cache's writes."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    hour_tokens: int = 0

    @property
    def dollars(self) -> float:
        """By list prices; a model that none is known of counts as the dearest."""
        into, out = rates(self.model) or _UNKNOWN
        written = self.cache_write_tokens * _CACHE_5M + self.hour_tokens * (_CACHE_1H - _CACHE_5M)
        weighed = self.input_tokens + self.cache_read_tokens * _CACHE_READ + written
        return (weighed * into + self.output_tokens * out) / 1e6


def rates(model: str) -> tuple[float, float] | None:
    """List prices in US dollars for a million tokens in and out; None where none is known."""
    return next((price for rule, price in _PRICES if rule.search(model)), None)


class Meter:
    """Of one answer. `feed` its body piece by piece as it comes, then ask for `result`."""

    def __init__(self, content_type: str, encoding: str = "") -> None:
        """Content-Type and Content-Encoding of the answer. Of an encoding but gzip and deflate nothing is read."""
        self._streams = content_type.partition(";")[0].strip().lower() == "text/event-stream"
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in ("gzip", "deflate") else None
        self._blind = encoding not in ("", "identity", "gzip", "deflate")
        self._rest = b""  # a line without its end, or the body so far
        self._skipping = False  # the rest of a line that is too long
        self._message: Mapping[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._whole = False  # the usage is of the whole answer
        self._said = 0  # bytes of text so far

    def feed(self, chunk: bytes) -> None:
        if self._blind:
            return
        try:
            data = self._inflate.decompress(chunk, _LONGEST_BODY) if self._inflate is not None else chunk
        except zlib.error:
            self._blind = True
            return
        if self._streams:
            self._lines(data)
        elif len(self._rest) + len(data) <= _LONGEST_BODY:
            self._rest += data
        else:
            self._blind, self._rest = True, b""

    def result(self) -> Metered | None:
        """None: nothing that costs is known of it."""
        if not self._streams and self._rest and not self._blind:
            self._started(_json(self._rest))
            self._rest, self._whole = b"", True
        counts = {ours: self._usage.get(theirs) for ours, theirs in _COUNTS.items()}
        known = {name: count for name, count in counts.items() if isinstance(count, int) and count > 0}
        if not self._whole and self._said:
            known["output_tokens"] = max(known.get("output_tokens", 0), self._said // _BYTES_OF_TOKEN)
        if not known:
            return None
        lasting = self._usage.get("cache_creation")
        hour = lasting.get("ephemeral_1h_input_tokens") if isinstance(lasting, dict) else None
        return Metered(
            str(self._message.get("model") or "")[:200],
            hour_tokens=min(hour, known.get("cache_write_tokens", 0)) if isinstance(hour, int) and hour > 0 else 0,
            **known,
        )

    def _lines(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            if not self._skipping:
                self._line(self._rest + line)
            self._rest, self._skipping = b"", False
        if self._skipping or len(self._rest) + len(rest) > _LONGEST_LINE:
            self._rest, self._skipping = b"", True
        else:
            self._rest += rest

    def _line(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        if b'"usage"' not in line and b'"content_block_delta"' not in line:  # in a text its quotes would be escaped
            return
        event = _json(line[len(b"data:") :])
        if event.get("type") == "content_block_delta":
            self._heard(event.get("delta"))
        elif event.get("type") == "message_start":
            self._started(event.get("message"))
        elif event.get("type") == "message_delta":
            self._whole = True
            self._count(event.get("usage"))

    def _heard(self, delta: Any) -> None:
        if isinstance(delta, dict):
            texts = [delta.get(name) for name in _TEXTS]
            self._said += sum(len(text.encode(errors="replace")) for text in texts if isinstance(text, str))

    def _started(self, message: Any) -> None:
        if isinstance(message, dict):
            self._message = message
            self._count(message.get("usage"))

    def _count(self, usage: Any) -> None:
        if isinstance(usage, dict):
            self._usage.update(usage)


def _json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
