"""Markdown as Slack's `markdown` block takes it: made harmless, and cut to size. Pure.

Sizes count UTF-16 units, the larger of the two ways in which Slack may count. A cut depends only on what stands before
the limit, so it stays where it is when more text arrives.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_FENCE = re.compile(r"([\s>]*)(`{3,}|~{3,})(.*)")
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,}|=+)[ \t]*\n")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LIVE_IN_CODE = re.compile(r"<(?=[@#]|!(?!--|DOCTYPE)|[A-Za-z][A-Za-z0-9+.-]*:)")
_UNSENDABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_ZERO_WIDTH = "\u200b"
_FENCE_ROOM = 16  # kept free for closing a fence


@dataclass(frozen=True, slots=True)
class Fence:
    """An open code fence: the line that opens it anew, and the one that closes it."""

    opener: str
    closer: str


@dataclass(frozen=True, slots=True)
class Measure:
    """What a text takes: `size` at most once it is neutralised, `items` that Slack makes blocks of, the open fence."""

    size: int
    items: int
    fence: Fence | None


@dataclass(frozen=True, slots=True)
class Cut:
    """A text is cut before `end`; `measure` is of what comes before."""

    end: int
    measure: Measure


def clean(text: str) -> str:
    """Without control characters and lone surrogates, which no JSON body carries safely."""
    return _UNSENDABLE.sub("\ufffd", text)


def size(text: str) -> int:
    """UTF-16 units that the text takes at most after `neutralise`."""
    units = len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
    return units + 3 * text.count("<")


def escape(text: str) -> str:
    """Plain text for mrkdwn and `text`: Slack decodes exactly these three (docs.slack.dev, formatting)."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def clip(text: str, limit: int) -> str:
    """The text escaped, with an ellipsis in place of what exceeds `limit` units; no entity is cut."""
    if len(text) <= limit and size(escaped := escape(text)) <= limit:
        return escaped
    shortest, longest = 0, min(len(text), limit)
    while shortest < longest:  # each character adds to the size, so halving finds the longest text that leaves one unit
        middle = (shortest + longest + 1) // 2
        if size(escape(text[:middle])) < limit:
            shortest = middle
        else:
            longest = middle - 1
    return escape(text[:shortest]) + "…"


# ---- tokens ------------------------------------------------------------------------------------------------------


def neutralise(text: str, fence: Fence | None = None) -> str:
    """Markdown in which no `<!channel>`, `<@U…>`, `<#C…>` or `<url|label>` is live. `fence`: open at the start.

    Slack parses its own tokens inside Markdown too. Outside code `<` becomes an entity; in code, where entities are
    shown as they are, a zero-width space breaks the token.
    """
    lines = []
    for line in text.split("\n"):
        after = _fence_after(line, fence)
        if fence or after:
            lines.append(_LIVE_IN_CODE.sub("<" + _ZERO_WIDTH, line))
        else:
            lines.append(_neutral_line(line))
        fence = after
    return "\n".join(lines)


def _neutral_line(line: str) -> str:
    out, end = [], 0
    for span in _CODE_SPAN.finditer(line):
        out.append(line[end : span.start()].replace("<", "&lt;"))
        out.append(_LIVE_IN_CODE.sub("<" + _ZERO_WIDTH, span[0]))
        end = span.end()
    return "".join([*out, line[end:].replace("<", "&lt;")])


def _fence_after(line: str, fence: Fence | None) -> Fence | None:
    """The fence that is open after this line, given the one before it."""
    match = _FENCE.match(line)
    if match is None:
        return fence
    indent, marks, rest = match.groups()
    if fence is not None:
        opened = fence.closer.strip(" \t>")
        closes = marks[0] == opened[0] and len(marks) >= len(opened) and not rest.strip()
        return None if closes else fence
    if marks[0] == "`" and "`" in rest:
        return None
    marks = marks[: _FENCE_ROOM - 4]
    indent = indent[-8:]
    return Fence(f"{indent}{marks}{rest.strip()[:40]}", indent[:2] + marks)


# ---- cuts --------------------------------------------------------------------------------------------------------


def measure(text: str, fence: Fence | None = None) -> Measure:
    """Of a text that starts inside `fence` (its opening line counts, it is repeated)."""
    items = 0
    for line in text.splitlines(keepends=True) if "\n" in text else [text]:
        items += _items(line, fence)
        fence = _fence_after(line.rstrip("\r\n"), fence)
    return Measure(size(text), items, fence)


def _items(line: str, fence: Fence | None) -> int:
    # Only what no further character can undo counts, so that a growing line never moves an earlier cut.
    return 1 if fence is None and (_HEADING.match(line) or _RULE.fullmatch(line)) else 0


def cut(text: str, limit: int, items: int, fence: Fence | None = None) -> Cut | None:
    """Where to end this text so that it takes at most `limit` units and `items` items. None: it fits as a whole.

    A blank line is the best place, then the end of a line outside code, then of any line, then a space; all but the
    last only in the second half of the room.
    """
    room = limit - _FENCE_ROOM - (size(fence.opener) + 1 if fence else 0)
    window = _prefix(text, room)
    places = _places(text, window, items, fence)
    if places.whole:
        return None
    for place in (places.blank, places.outside, places.line):
        if place is not None and place.measure.size >= room // 2:
            return place
    if places.full and places.line is not None:  # too many headings: whatever line comes first
        return places.line
    start = places.line.end if places.line else 0
    end = _inside_line(text, start, window) if window > start else start
    return Cut(end, measure(text[:end], fence))


@dataclass(slots=True)
class _Places:
    whole: bool = False  # nothing to cut
    full: bool = False  # the items ran out
    blank: Cut | None = None
    outside: Cut | None = None
    line: Cut | None = None


def _places(text: str, window: int, items: int, fence: Fence | None) -> _Places:
    found, start, used, taken = _Places(), 0, 0, 0
    while start < window:
        newline = text.find("\n", start, window)
        end = newline + 1 if newline >= 0 else window
        line = text[start:end]
        taken += _items(line, fence)
        if taken > items and start > 0:
            found.full = True
            return found
        if newline < 0:
            break
        fence = _fence_after(line.rstrip("\r\n"), fence)
        used += size(line)
        place = Cut(end, Measure(used, taken, fence))
        found.line = place
        if fence is None:
            found.outside = place
            if not line.strip():
                found.blank = place
        start = end
    found.whole = window == len(text)
    return found


def _prefix(text: str, room: int) -> int:
    """How many characters take at most `room` units; at least one, if there is one."""
    end = min(len(text), room)
    while end > 1 and (over := size(text[:end]) - room) > 0:
        end -= max(1, over // 4)
    return min(len(text), max(1, end))


def _inside_line(text: str, start: int, end: int) -> int:
    """A place in one long line: after a space, else not within anything that belongs together."""
    floor = start + (end - start) // 2
    space = max(text.rfind(" ", floor, end), text.rfind("\t", floor, end))
    if space >= 0 and not _inside_token(text, start, space + 1):
        return space + 1
    token = _inside_token(text, start, end)
    if token and token > start:
        return token
    entity = text.rfind("&", max(start, end - 10), end)
    if entity > start and ";" not in text[entity:end]:
        return entity
    while end - 1 > start and _joined(text, end):
        end -= 1
    return end


def _inside_token(text: str, start: int, end: int) -> int:
    """Where the `<…` that is still open at `end` begins; 0 if there is none."""
    begin = text.rfind("<", max(start, end - 300), end)
    return begin if begin >= 0 and ">" not in text[begin:end] else 0


def _joined(text: str, at: int) -> bool:
    """Whether the characters on both sides of `at` are one sign to a reader (accents, emoji sequences, a `` ``` ``)."""
    if at >= len(text):
        return False
    before, after = text[at - 1], text[at]
    joins = "\u200d\ufe0f" + "".join(map(chr, range(0x1F3FB, 0x1F400)))
    return before == "\u200d" or after in joins or bool(unicodedata.combining(after)) or before == after == "`"
