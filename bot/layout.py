"""How the content of a turn falls into messages. Pure.

Content only grows at the end, so a page that is full keeps its cut for ever. Text that is still a preview may be taken
back as a whole (`mark`, `rollback`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bot.asking import AskMessage
from bot.markdown import render
from bot.structure import Open
from bot.textcuts import Cut, Measure, cut, measure, resting_place
from bot.toollines import DIFFS, ToolLine

# Slack: 12,000 characters over all markdown blocks of a message, about 13,200 over all blocks, 50 blocks where each
# heading and rule inside Markdown counts as one. What is left free holds the status or the footer.
MARKDOWN_ROOM = 11_200
TOTAL_ROOM = 11_400
ITEM_ROOM = 40
TOOLS_ROOM = 1_900  # of one context element
_LEAST = 800  # less room than this is not worth starting a text in
_BLANK = 100  # characters of white space that need no message
_MORE = 80  # characters of the same text that are worth a message below people's


@dataclass(slots=True)
class TextPiece:
    """A stretch of Markdown. `fence` was open before it, `ends_in` is after it: it is closed and reopened there."""

    raw: str
    fence: Open | None = None
    ends_in: Open | None = None
    growing: bool = True
    continues: bool = False  # the piece before it

    def text(self) -> str:
        """As a block takes it; "" if there is nothing to see."""
        return render(self.raw, self.fence, self.ends_in, growing=self.growing)


@dataclass(slots=True)
class ToolsPiece:
    """Tool lines that share a block."""

    lines: list[ToolLine] = field(default_factory=list)
    room: int = 0
    buttons: int = 0  # that its lines may get


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in the content of a turn: so many characters of text and so many lines of tools stand above it."""

    lines: int
    chars: int

    @classmethod
    def of(cls, text: str) -> Place:
        lines, _, chars = text.partition(":")
        return cls(int(lines), int(chars))

    def __str__(self) -> str:
        return f"{self.lines}:{self.chars}"


@dataclass(slots=True)
class Page:
    """The content of one message. `stale` is set by every change and cleared by whoever renders it.

    `ask`: the message is (a part of) what Claude asks, and nothing else.
    """

    pieces: list[TextPiece | ToolsPiece] = field(default_factory=list)
    markdown: int = 0
    total: int = 0
    items: int = 0
    tables: int = 0
    stale: bool = True
    ask: AskMessage | None = None
    opens_at: Place | None = None  # set: it was begun there, below what people wrote

    def lines(self) -> Iterator[ToolLine]:
        for piece in self.pieces:
            if isinstance(piece, ToolsPiece):
                yield from piece.lines


@dataclass(frozen=True, slots=True)
class Mark:
    pages: int
    pieces: int
    markdown: int
    total: int
    items: int
    tables: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one message: units of Markdown, units of everything, blocks as Slack counts them."""

    markdown: int = MARKDOWN_ROOM
    total: int = TOTAL_ROOM
    items: int = ITEM_ROOM


class Layout:
    """Pages of content, filled from the front. At most one text is open; `settle` lays out what was added to it."""

    def __init__(self, limits: Limits = Limits(), breaks: Sequence[Place] = ()) -> None:
        """`breaks`: where a page was begun for people's sake."""
        self._limits = limits
        self._breaks = list(breaks)
        self._below: tuple[int, Place] | None = None  # this page is to be left at or after this place
        self.pages: list[Page] = []
        self._open: TextPiece | None = None
        self._fresh: list[str] = []  # text that is not laid out yet
        self._before = Measure(0, 0, None)  # Markdown, items and tables of the last page without the open piece
        self._rest = 0  # units of the last page that are not Markdown

    # ---- text ----

    def begin_text(self) -> Mark:
        """Opens a text; the mark takes the layout back to here."""
        last = self.pages[-1] if self.pages else Page()
        mark = Mark(len(self.pages), len(last.pieces), last.markdown, last.total, last.items, last.tables)
        page = self._page_for(_LEAST, _LEAST, 1)
        self._place(page, None)
        return mark

    def extend_text(self, text: str) -> None:
        """More of the open text: only kept, until somebody looks."""
        self._fresh.append(text)

    def end_text(self) -> None:
        self.settle()
        if self._open is not None and not self._open.raw.strip():
            self._drop_open()
        elif self._open is not None:
            self._open.growing, self.pages[-1].stale = False, True
        self._open = None

    def rollback(self, mark: Mark) -> None:
        """Forgets the open text and everything laid out since the mark."""
        del self.pages[mark.pages :]
        if self.pages:
            page = self.pages[-1]
            del page.pieces[mark.pieces :]
            page.markdown, page.total = mark.markdown, mark.total
            page.items, page.tables = mark.items, mark.tables
            page.stale = True
        self._open, self._fresh = None, []

    def settle(self) -> None:
        """Lays out what was added to the open text. Work is proportional to that and to one page."""
        if self._open is None or not self._fresh:
            return
        self._open.raw += "".join(self._fresh)
        self._fresh = []
        while True:
            page, piece, before = self.pages[-1], self._open, self._before
            page.stale = True
            limit = min(self._limits.markdown - before.size, self._limits.total - self._rest - before.size)
            split = cut(piece.raw, limit, self._limits.items - before.items - 1, piece.fence, 1 - before.tables)
            if (forced := self._forced(page, piece)) is not None and (split is None or forced < split.end):
                self._break(page, piece, Cut(forced, measure(piece.raw[:forced], piece.fence)))
                self.pages[-1].opens_at = self._at(len(self.pages) - 1)
            elif split is None or _is_blank(piece.raw, split.end):
                self._count(page, measure(piece.raw, piece.fence))
                return
            else:
                self._break(page, piece, split)

    # ---- below people's messages ----

    def step_below(self) -> bool:
        """People wrote below the last page: what comes next begins a new one. False: it has nothing to leave behind."""
        self.settle()
        if not self.pages or self.pages[-1].ask is not None:
            return False
        self._below = len(self.pages), self._at(len(self.pages))
        return True

    def _at(self, pages: int) -> Place:
        """What stands on the first so many pages."""
        pieces = [piece for page in self.pages[:pages] for piece in page.pieces]
        lines = sum(len(piece.lines) for piece in pieces if isinstance(piece, ToolsPiece))
        return Place(lines, sum(len(piece.raw) for piece in pieces if isinstance(piece, TextPiece)))

    def _forced(self, page: Page, piece: TextPiece) -> int | None:
        """Where in the open text a page is to begin for people's sake."""
        if not (self._breaks or self._below) or (page.pieces == [piece] and not piece.raw):
            return None
        end = self._at(len(self.pages))
        start = end.chars - len(piece.raw)
        if self._below is not None and self._below[0] != len(self.pages):
            self._below = None  # a new one has begun by itself
        if self._below is not None and (place := self._leave(piece, self._below[1].chars - start)) is not None:
            self._breaks.append(Place(end.lines, start + place))
            self._below = None
        begun = {other.opens_at for other in self.pages}
        ahead = [one.chars - start for one in self._breaks if one.lines == end.lines and one not in begun]
        place = min((place for place in ahead if 0 <= place < len(piece.raw)), default=None)
        if place == 0 and len(page.pieces) == 1:  # it begins a page as it is
            page.opens_at = Place(end.lines, start)
            return self._forced(page, piece)
        return place

    def _leave(self, piece: TextPiece, after: int) -> int | None:
        """Where to leave the page, once there is something to say behind that place."""
        if after <= 0:
            return 0 if piece.raw.strip() else None
        place = resting_place(piece.raw, after, piece.fence)
        return place if place is not None and len(piece.raw[place:].strip()) >= _MORE else None

    def _tool_below(self) -> None:
        """Before a line of a tool is added: begins the page that people's messages ask for."""
        if not (self._breaks or self._below) or not self.pages:
            return
        here = self._at(len(self.pages))
        if self._below is not None and self._below[0] == len(self.pages):
            self._breaks.append(here)
        self._below = None
        if here in self._breaks and here not in {page.opens_at for page in self.pages}:
            self._new_page().opens_at = here

    # ---- pages of text ----

    def _break(self, page: Page, piece: TextPiece, split: Cut) -> None:
        rest, fence = piece.raw[split.end :], split.measure.fence
        piece.raw, piece.ends_in, piece.growing = piece.raw[: split.end], fence, False
        self._count(page, split.measure)
        if split.end == 0:
            fence = piece.fence
            page.pieces.pop()
        self._place(self._new_page(), fence)
        assert self._open is not None
        self._open.raw, self._open.continues = rest, split.end > 0 or piece.continues

    def _place(self, page: Page, fence: Open | None) -> None:
        self._before, self._rest = Measure(page.markdown, page.items, None, page.tables), page.total - page.markdown
        self._open = TextPiece("", fence)
        page.pieces.append(self._open)
        page.items += 1
        page.stale = True

    def _drop_open(self) -> None:
        page = self.pages[-1]
        page.pieces.pop()
        self._count(page, Measure(0, -1, None))
        page.stale = True
        if not page.pieces:
            self.pages.pop()

    def _count(self, page: Page, used: Measure) -> None:
        before = self._before
        page.markdown, page.total = before.size + used.size, self._rest + before.size + used.size
        page.items, page.tables = before.items + used.items + 1, before.tables + used.tables

    def texts(self) -> list[str]:
        """Each text as it came, from all pages."""
        self.settle()
        found: list[str] = []
        for piece in (piece for page in self.pages for piece in page.pieces if isinstance(piece, TextPiece)):
            if piece.continues:
                found[-1] += piece.raw
            else:
                found.append(piece.raw)
        return found

    # ---- tools ----

    def add_tool(self, line: ToolLine) -> None:
        """A line after everything else; no text may be open."""
        self._tool_below()
        piece = self.pages[-1].pieces[-1] if self.pages and self.pages[-1].pieces else None
        room, page = line.room + 1, self.pages[-1] if self.pages else None
        row = int(bool(line.label))  # a tool that changes a file has a button, in a row below the lines
        if not (
            isinstance(piece, ToolsPiece)
            and page is not None
            and piece.room + room <= TOOLS_ROOM
            and piece.buttons + row <= DIFFS
            and self._fits(page, room, items=row)
        ):
            page = self._page_for(0, room, 1 + row)
            piece = ToolsPiece()
            page.pieces.append(piece)
            page.items += 1
        page.items += int(row and not piece.buttons)
        piece.lines.append(line)
        piece.buttons += row
        line.given = room
        piece.room += room
        self.pages[-1].total += room
        self.pages[-1].stale = True

    def changed(self, line: ToolLine) -> None:
        """The line looks different. What an ended one does not take is free for those after it.

        Not while a text is open, whose cuts count on what stands before it.
        """
        for page in reversed(self.pages):  # tools end soon after they start
            piece = next((p for p in page.pieces if isinstance(p, ToolsPiece) and _has(p.lines, line)), None)
            if piece is None:
                continue
            page.stale = True
            if not line.running and self._open is None and (freed := line.given - line.room - 1) > 0:
                line.given -= freed
                piece.room -= freed
                page.total -= freed
            return

    # ---- asks ----

    def add_ask(self, messages: list[AskMessage]) -> list[Page]:
        """Pages of their own after everything else; no text may be open. Their looks may be replaced later."""
        if not self.pages:  # an edit of the message that is there would notify nobody: the ask comes below it
            self.add_tool(ToolLine("", "Claude asks before it goes on:", nested=False, mark="✋"))
        pages = [self._new_page() for _ in messages]
        show_ask(pages, messages)
        return pages

    # ---- pages ----

    def _fits(self, page: Page, total: int, markdown: int = 0, items: int = 0) -> bool:
        return (
            page.ask is None
            and page.total + total <= self._limits.total
            and page.markdown + markdown <= self._limits.markdown
            and page.items + items <= self._limits.items
        )

    def _page_for(self, markdown: int, total: int, items: int) -> Page:
        if self.pages and self._fits(self.pages[-1], total, markdown, items):
            return self.pages[-1]
        return self._new_page()

    def _new_page(self) -> Page:
        self.pages.append(Page())
        return self.pages[-1]


def _is_blank(text: str, start: int) -> bool:
    """Nothing but a little white space comes from there, which is not shown: no reason for a new message."""
    return len(text) - start <= _BLANK and not text[start:].strip()


def _has(lines: list[ToolLine], line: ToolLine) -> bool:
    return any(line is other for other in lines)


def show_ask(pages: list[Page], messages: list[AskMessage]) -> None:
    """The ask as it stands now, on the pages that it was given."""
    for page, message in zip(pages, messages, strict=True):
        page.stale = page.stale or page.ask != message
        page.ask = message
