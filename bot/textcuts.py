"""Where a text is cut so that each piece fits a message, and what that takes. Pure.

A cut depends only on what stands before the limit, so it stays where it is when more text arrives.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from bot.markdown import size
from bot.structure import FENCE_ROOM, MOST_ROWS, Open, State, Table, after, begins_table
from bot.structure import items as items_of

_TOKEN_ROOM = 3_000  # a token or link that began longer ago is cut
_SOON = 600  # characters in which a paragraph should end
_SIGN_ROOM = 64  # so many characters may be one sign to a reader


@dataclass(frozen=True, slots=True)
class Measure:
    """What a text takes: `size` at most once it is neutralised, `items` that Slack makes blocks of, what is left open.

    `tables`: how many it has, the one that was open before it too.
    """

    size: int
    items: int
    fence: Open | None
    tables: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """A text is cut before `end`; `measure` is of what comes before."""

    end: int
    measure: Measure


def measure(text: str, fence: Open | None = None) -> Measure:
    """Of a text that starts inside `fence` (its opening counts, it is repeated)."""
    state, items, tables = State(fence), 0, int(isinstance(fence, Table))
    lines = text.split("\n")
    for number, line in enumerate(lines):
        whole = number < len(lines) - 1
        items += items_of(line, state, whole=whole)
        if whole or line:
            state = after(line, state)
            tables += begins_table(state)
    return Measure(size(text), items + tables, _reopened(state.open), tables)


def _reopened(left: Open | None) -> Open | None:
    """As the next message has it: of a table only the header."""
    return Table(left.opener, left.closer) if isinstance(left, Table) else left


def cut(text: str, limit: int, items: int, fence: Open | None = None, tables: int = 1) -> Cut | None:
    """Where to end this text so that it takes at most `limit` units, `items` items and `tables` tables.

    None: it fits as a whole. A blank line is the best place, then the end of a line outside code and tables, then of
    any line, then a space; all but the last only in the second half of the room. No cut stands between a table's header
    and its dashes. An end of 0: nothing of it fits behind what `tables` has counted already.
    """
    room = max(1, limit - FENCE_ROOM - (size(fence.opener) + 1 if fence else 0))
    window = _prefix(text, room)
    places = _places(text, window, items, fence, tables)
    if places.whole:
        return None
    found = places.line
    for place in (places.blank, places.outside, places.line):
        if place is not None and place.measure.size >= room // 2:
            found = place
            break
    else:
        if not places.full:
            start = places.line.end if places.line else 0
            end = _inside_line(text, start, window) if window > start else start
            found = Cut(end, measure(text[:end], fence))
    found = found or Cut(0, measure("", fence))
    return _with_short_opener(found, limit)


def resting_place(text: str, start: int, fence: Open | None = None) -> int | None:
    """Where, at `start` or soon behind it, a text may go on in another message; None: it has not come yet.

    After a blank line; where none comes soon after any line outside code and tables, then after any line.
    """
    state, end = State(fence), 0
    line_end: int | None = None
    inner_end: int | None = None
    for line in text.split("\n")[:-1]:
        state = after(line, state)
        end += len(line) + 1
        if end < start:
            continue
        if state.open is None and state.header is None:
            if not line.strip():
                return end
            line_end = line_end or end
        inner_end = inner_end or (end if state.header is None else None)
        for place, patience in ((line_end, _SOON), (inner_end, 4 * _SOON)):
            if place is not None and end - start > patience:
                return place
    return None


def _with_short_opener(found: Cut, limit: int) -> Cut:
    """A header that would fill the next message is not repeated."""
    left = found.measure.fence
    if isinstance(left, Table) and size(left.opener) > limit // 4:
        return Cut(found.end, Measure(found.measure.size, found.measure.items, None, found.measure.tables))
    return found


@dataclass(slots=True)
class _Places:
    whole: bool = False  # nothing to cut
    full: bool = False  # the items, the tables or a table's rows ran out
    blank: Cut | None = None
    outside: Cut | None = None
    line: Cut | None = None

    def note(self, place: Cut | None, *, blank: bool) -> None:
        if place is None:
            return
        self.line = place
        if place.measure.fence is None:
            self.outside = place
            self.blank = place if blank else self.blank


def _places(text: str, window: int, items: int, fence: Open | None, tables: int) -> _Places:
    found, state, start, used = _Places(), State(fence), 0, 0
    begun = taken = int(isinstance(fence, Table))
    header: Cut | None = None  # after a line that may turn out a table's header
    while start < window:
        newline = text.find("\n", start, window)
        line = text[start : newline if newline >= 0 else window]
        then = after(line, state)
        begins = newline >= 0 and begins_table(then)
        found.note(None if begins or newline < 0 else header, blank=False)
        taken += items_of(line, state, whole=newline >= 0) + begins
        begun += begins
        rows = then.open.rows if isinstance(then.open, Table) else 0
        if (taken > items and start > 0) or begun > tables or rows > MOST_ROWS:
            found.full = True
            return found
        if newline < 0:
            break
        used += size(text[start : newline + 1])
        place = Cut(newline + 1, Measure(used, taken, _reopened(then.open), begun))
        header = place if then.header is not None else None
        found.note(None if header else place, blank=not line.strip())
        state, start = then, newline + 1
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
    for place in (space + 1, end) if space >= 0 else (end,):
        begin = _begun(text, max(start, place - _TOKEN_ROOM), place)
        if begin is None:
            return place if place < end else _between_signs(text, start, place)
        if begin > floor:
            return begin
    return _between_signs(text, start, end)


def _begun(text: str, start: int, end: int) -> int | None:
    """Where a `<…>`, a code span, a link or an entity begins that is not closed before `end`."""
    open_brackets: list[int] = []
    at = start
    while match := _MARK.search(text, at, end):
        at = match.end()
        mark = match[0]
        if mark[0] == "`":
            close = text.find(mark, at, end)
            while close >= 0 and text[close : close + len(mark) + 1] == mark + "`":
                close = text.find(mark, close + len(mark) + 1, end)
            if close < 0 or close + len(mark) == end:
                return match.start()
            at = close + len(mark)
        elif mark == "[":
            open_brackets.append(match.start())
        elif mark == "<" or mark == "&":
            closer = ">" if mark == "<" else ";"
            reach = end if mark == "<" else min(end, at + 10)
            if closer not in text[at:reach] and (mark == "<" or at + 10 > end):
                return open_brackets[0] if open_brackets else match.start()
        elif open_brackets:
            begin = open_brackets.pop()
            if at == end or (text[at] == "(" and ")" not in text[at:end]):
                return open_brackets[0] if open_brackets else begin
            if text[at] == "(":
                at = text.index(")", at, end)
    return open_brackets[0] if open_brackets else None


_MARK = re.compile(r"`+|[\[\]<&]")


def _between_signs(text: str, start: int, end: int) -> int:
    place = end
    while place - 1 > start and end - place < _SIGN_ROOM and _joined(text, place):
        place -= 1
    return end if _joined(text, place) else place


def _joined(text: str, at: int) -> bool:
    """Whether the characters on both sides of `at` are one sign to a reader (accents, emoji sequences, a `` ``` ``)."""
    if at >= len(text):
        return False
    before, after_it = text[at - 1], text[at]
    if "\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after_it <= "\U0001f1ff":  # flags are pairs
        run = at
        while run > 0 and "\U0001f1e6" <= text[run - 1] <= "\U0001f1ff":
            run -= 1
        return (at - run) % 2 == 1
    hangul = "\u1100" <= before <= "\ud7ff" and "\u1160" <= after_it <= "\u11ff"
    tag = "\U000e0020" <= after_it <= "\U000e007f" or "\U0001f3fb" <= after_it <= "\U0001f3ff"
    mark = unicodedata.category(after_it) in ("Mn", "Mc", "Me") or after_it == "\u200d"
    return before == "\u200d" or hangul or tag or mark or before == after_it == "`"
