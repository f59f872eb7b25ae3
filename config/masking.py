"""Takes secrets out of text: values that Flow knows, and what looks like one (`config/secretpatterns.py`).

A text is masked where any secret covers it, so the result does not depend on the order in which they are looked for.
`StreamMasker` gives the same result for a text in pieces: it holds back only what may be the beginning of a secret, and
what it has given out is never half of one. Work is proportional to the text, whatever it says: a look at a place costs
a bounded number of steps, and no pattern looks again into a run that it has masked.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TypeVar, cast
from urllib.parse import quote, quote_plus, unquote

from config.secretpatterns import Pattern, passwords_in, patterns

MASK = "‹masked›"
LEAST = 6  # characters; a shorter value would take words out of every text
_TELLING = 8  # characters of a secret that was cut off may be seen
_HEAD = 3  # characters by which places worth a look are found; no secret begins with fewer
_CONTEXT = 96  # characters kept before what is held back: what guards and the end of a block look at
_CUT_RUN = re.compile(r"[A-Za-z0-9_+=-]{16,}")
_CUT_BLOCK = re.compile(r"[A-Za-z0-9+/=\s\\]*-----END [A-Z0-9 ]{0,24}PRIVATE KEY[ BLOCK]{0,6}-----")

T = TypeVar("T")


class Masker:
    """`secrets`: values to mask wherever they stand, URL-encoded or escaped as in JSON too; none shorter than LEAST."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = frozenset(secret.strip() for secret in secrets if len(secret.strip()) >= LEAST)
        self._values = sorted({form for secret in self._secrets for form in _forms(secret)}, key=len, reverse=True)
        self._by_head: dict[str, tuple[list[str], list[Pattern]]] = {}
        for size in range(1, _HEAD + 1):
            for value in self._values:
                self._by_head.setdefault(value[:size], ([], []))[0].append(value)
            for pattern in _patterns():
                self._by_head.setdefault(pattern.head[:size], ([], []))[1].append(pattern)
        self._marks = _marks(self._values)
        self.heads = re.compile(_trie(head for head in self._by_head if len(head) == _HEAD))
        self.looks = 0  # at single places so far: what the work is counted by

    def extended(self, secrets: Iterable[str]) -> Masker:
        """One that masks these as well."""
        more = [secret for secret in secrets if len(secret.strip()) >= LEAST and secret.strip() not in self._secrets]
        return Masker([*self._secrets, *more]) if more else self

    def text(self, text: str, *, cut: bool = False) -> str:
        """`cut`: the text was cut off at its beginning, so it may begin in the middle of a secret."""
        if not any(mark in text for mark in self._marks):
            return self._beheaded(text) if cut else text
        stream = self.stream()
        masked = stream.feed(text) + stream.flush()
        return self._beheaded(masked) if cut else masked

    def stream(self) -> StreamMasker:
        return StreamMasker(self)

    def bytes_of_text(self, data: bytes) -> bytes:
        """A file's content: masked where it is UTF-8 text, else as it is."""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return data
        masked = self.text(text)
        return data if masked == text else masked.encode()

    def value(self, value: T, *, cut: bool = False) -> T:
        """JSON with every string in it masked, keys too; the same object where nothing had to be."""
        return cast(T, self._value(value, lambda text: self.text(text, cut=cut)))

    def _value(self, value: object, mask: Callable[[str], str]) -> object:
        if isinstance(value, str):
            return mask(value)
        if isinstance(value, Mapping):
            changed = {mask(key) if isinstance(key, str) else key: self._value(one, mask) for key, one in value.items()}
            return value if changed == value else changed
        if isinstance(value, list | tuple):
            items = [self._value(one, mask) for one in value]
            return value if all(a is b for a, b in zip(items, value, strict=True)) else type(value)(items)
        return value

    def _beheaded(self, text: str) -> str:
        """Without what may be the end of a secret whose beginning was cut off."""
        start = len(text) - len(text.lstrip("…\n"))
        end = start
        for value in self._values:
            for size in range(min(len(value) - 1, len(text) - start), _TELLING, -1):
                if text.startswith(value[-size:], start):
                    end = max(end, start + size)
                    break
        for pattern in (_CUT_RUN, _CUT_BLOCK):
            found = pattern.match(text, start)
            end = max(end, found.end()) if found else end
        return f"{text[:start]}{MASK}{text[end:]}" if end > start else text

    def at(self, text: str, place: int) -> tuple[list[str], list[Pattern]]:
        """What may begin at that place, which `heads` found; near the end of the text that may be much."""
        return self._by_head[text[place : place + _HEAD]]


class LearningMasker:
    """Gives a masker that masks what is `known` by now, besides `secrets`."""

    def __init__(self, secrets: Iterable[str], known: Callable[[], list[str]]) -> None:
        self._first, self._known = Masker(secrets), known
        self._masker, self._seen = self._first, list[str]()

    def __call__(self) -> Masker:
        known = self._known()
        if known != self._seen:
            self._masker, self._seen = self._first.extended(known), known
        return self._masker


def secrets_of(settings: object) -> list[str]:
    """Every secret among settings: values of type SecretStr, and the passwords in addresses."""
    from pydantic import BaseModel, SecretStr  # slow, and not needed by all that logs

    if isinstance(settings, SecretStr):
        return [settings.get_secret_value()]
    if isinstance(settings, str):
        return passwords_in([settings])
    if isinstance(settings, BaseModel):
        settings = [getattr(settings, name) for name in type(settings).model_fields]
    return [secret for one in settings for secret in secrets_of(one)] if isinstance(settings, list | tuple) else []


class StreamMasker:
    """Masks a text that comes in pieces; what `feed` and `flush` return together is what `Masker.text` returns."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._text = ""  # what is held back, after a little of what was given out
        self._given = 0  # up to here it was given out
        self._covered = -1  # up to here it is masked; may lie beyond
        self._next = 0  # up to here each place was looked at
        self._spans: list[tuple[int, int]] = []  # to be masked, and not given out
        self._growing: dict[Pattern, tuple[int, int]] = {}  # secrets that reach the end: where they began, and the end
        self._past: dict[int, int] = {}  # no secret of that pattern begins before, or it is masked with another

    def feed(self, text: str) -> str:
        """What can be shown now."""
        if not text:
            return ""
        self._text += text
        for pattern, (start, end) in list(self._growing.items()):
            self._grow(pattern, start, end)
        return self._give(self._look(final=False, cut=False))

    def flush(self, *, cut: bool = False) -> str:
        """The rest. `cut`: the text was broken off here, so its end may be the beginning of a secret."""
        return self._give(self._look(final=True, cut=cut))

    @property
    def holds(self) -> bool:
        """Something was fed that was not given out."""
        return self._given < len(self._text) and self._covered < len(self._text)

    # ---- looking ----

    def _look(self, *, final: bool, cut: bool) -> int:
        """Looks at all places that were not looked at; returns up to where nothing can change any more."""
        text, end = self._text, len(self._text)
        while (found := self._masker.heads.search(text, self._next)) is not None:
            place = found.start()
            if self._is_open(place, final, cut) and not final:
                self._next = place
                return place
            self._next = place + 1
        self._next = end
        return end

    def _is_open(self, place: int, final: bool, cut: bool) -> bool:
        """Masks what begins there; True: it depends on what follows."""
        unsure = False
        values, known = self._masker.at(self._text, place)
        for value in values:
            unsure = self._value_at(value, place, cut) or unsure
        for pattern in known:
            if self._past.get(pattern.number, 0) <= place:
                unsure = self._pattern_at(pattern, place, final, cut) or unsure
        return unsure

    def _value_at(self, value: str, place: int, cut: bool) -> bool:
        text, rest = self._text, len(self._text) - place
        self._masker.looks += 1
        if rest >= len(value):
            if text.startswith(value, place):
                self._spans.append((place, place + len(value)))
            return False
        begun = value.startswith(text[place:])
        if begun and cut and rest > _TELLING:
            self._spans.append((place, len(text)))
        return begun

    def _pattern_at(self, pattern: Pattern, place: int, final: bool, cut: bool) -> bool:
        text = self._text
        self._masker.looks += 1
        if pattern.patient and not final and pattern.partial.match(text, place):
            return True
        if (full := pattern.full.match(text, place)) is not None:
            self._grow(pattern, full.start(1), full.start(1) if pattern.end else full.end(1))
            return False
        partial = pattern.partial.match(text, place) if not final or cut else None
        if partial is not None and cut and (begun := partial.start(1)) >= 0 and len(text) - begun > _TELLING:
            self._spans.append((begun, len(text)))
        return partial is not None

    def _grow(self, pattern: Pattern, start: int, end: int) -> None:
        """Masks what a secret goes on with after `end`; it began at `start`."""
        text, grown = self._text, end
        run = pattern.tail.match(text, end) if pattern.tail else None
        is_whole = run is None
        if run is not None:
            grown = run.end()
            last = pattern.end.search(text, max(start, end - _CONTEXT), grown) if pattern.end else None
            grown = last.end() if last else grown
            is_whole = last is not None or grown < len(text)
        self._spans.append((start, grown))
        self._past[pattern.number] = grown
        if is_whole:
            self._growing.pop(pattern, None)
        else:
            self._growing[pattern] = start, grown

    # ---- giving out ----

    def _give(self, limit: int) -> str:
        """What comes before `limit`, and forgets it."""
        out: list[str] = []
        self._spans.sort()
        ready = bisect_left(self._spans, (limit, 0))
        for start, end in self._spans[:ready]:
            if start > self._covered:
                out += [self._text[max(self._given, self._covered) : start], MASK]
            self._covered = max(self._covered, end)
        del self._spans[:ready]
        out.append(self._text[max(self._given, self._covered) : limit])
        self._given = limit
        self._forget(min(limit, self._next) - _CONTEXT)
        return "".join(out)

    def _forget(self, count: int) -> None:
        if count <= 0:
            return
        self._text = self._text[count:]
        self._given, self._covered, self._next = self._given - count, self._covered - count, self._next - count
        self._spans = [(max(0, start - count), end - count) for start, end in self._spans]
        self._growing = {pattern: (start - count, end - count) for pattern, (start, end) in self._growing.items()}
        self._past = {number: place - count for number, place in self._past.items() if place > count}


@cache
def _patterns() -> list[Pattern]:
    return patterns()


def _forms(secret: str) -> set[str]:
    """How a value may be written: as it is, URL-encoded, escaped in JSON."""
    encoded = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    lower = {re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), form) for form in encoded}
    return {secret, unquote(secret), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]} | (
        encoded | lower
    )


def _marks(values: Iterable[str]) -> list[str]:
    """Strings of which every text that holds a secret holds one."""
    return sorted({*values, *(pattern.head for pattern in _patterns())}, key=len)


def _trie(heads: Iterable[str]) -> str:
    """An expression that finds the beginning of a head, or what may become one at the end of the text."""
    tree: dict[str, dict[str, set[str]]] = {}
    for head in heads:
        one, two, three = tuple(head)
        tree.setdefault(one, {}).setdefault(two, set()).add(three)
    return "|".join(
        f"{re.escape(one)}(?:\\Z|"
        + "|".join(
            f"{re.escape(two)}(?:\\Z|{'|'.join(map(re.escape, sorted(three)))})" for two, three in sorted(twos.items())
        )
        + ")"
        for one, twos in sorted(tree.items())
    )
