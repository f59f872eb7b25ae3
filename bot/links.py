"""Links of Markdown that say one address and lead to another. Pure."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_BRACKET = re.compile(r"\\.|[\[\]]", re.DOTALL)
_BLANK = re.compile(r"\s*")
_ANGLED = re.compile(r"<((?:\\.|[^<>\\\n])*)>")
_BARE = re.compile(r"\\\S|[()\s]")
_TITLE_AND_END = re.compile(r"""(?:\s+(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\((?:\\.|[^()\\])*\)))?\s*\)""", re.DOTALL)
_DEEPEST = 32  # parentheses within each other, as cmark has it; so a text of nothing else is read in linear time
_LONGEST = 3_000  # characters of a target: what is longer counts as one that nobody can read
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
_HOST = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s/?#\\]+|(?<![\w@.-])(?:(?:[\w-]+\.)+[^\W\d_]{2,}(?![\w-])"
    r"|(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d))",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
#: Endings of files that are top-level domains too, or look like one.
_FILES = frozenset(
    re.findall(
        r"\w+",
        "c cc cfg conf cpp cs css csv env go h hpp html ini ipynb java jpg js json jsx kt lock log lua md mjs pdf php"
        " pl png proto ps py rb rs scss sh sql svg swift tex tf toml ts tsx txt vue xml yaml yml",
    )
)
_DEFINITION = re.compile(r"^([ \t>*+\d.)-]*\[(?:\\.|[^\[\]\\]){1,500}\]):", re.MULTILINE)
_ADDRESS = re.compile(r"\s*<?(?:[a-z][a-z0-9+.-]*:|//|www\.)", re.IGNORECASE)
_LINE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:[^\n]|\n(?![ \t]*\n)){1,2000}?)(?<!`)\1(?!`)")
_DOUBTFUL = re.compile(r"[\s\\]")  # in an authority: browsers take a backslash for a slash, others do not
_LINE_NUMBER = re.compile(r":[\d:-]+$")
_BEHIND = ("/", "?", "\\")
ZERO_WIDTH = "\u200b"


@dataclass(frozen=True, slots=True)
class Link:
    """`[label](target)`: where it begins (before a `!`), the places of both brackets, and from where to where its
    address stands; None if the target is none that CommonMark knows."""

    begin: int
    opening: int
    closing: int
    address: tuple[int, int] | None

    def of(self, text: str) -> tuple[str, str | None]:
        """Label and address."""
        return text[self.opening + 1 : self.closing], text[slice(*self.address)] if self.address else None


def links(text: str) -> Iterator[Link]:
    """Inline links and images; `text` is without code (masked)."""
    open_brackets: list[int] = []
    for match in _BRACKET.finditer(text):
        if match[0] == "[":
            open_brackets.append(match.start())
        elif match[0] == "]" and open_brackets:
            opening = open_brackets.pop()
            if text.startswith("(", match.end()) and _ends(text, match.end() + 1):
                image = opening > 0 and text[opening - 1] == "!"
                yield Link(opening - image, opening, match.start(), _address(text, match.end() + 1))


def _ends(text: str, start: int) -> bool:
    """Whether something may take what begins here for a target. One that has only begun is none yet."""
    return text.find(")", start) >= 0 or len(text) - start > _LONGEST


def _address(text: str, start: int) -> tuple[int, int] | None:
    """From where to where the address of this target stands, read as CommonMark does (0.31.2, "Links")."""
    most = min(len(text), start + _LONGEST)
    blank = _BLANK.match(text, start, most)
    start = blank.end() if blank else start
    if angled := _ANGLED.match(text, start, most):
        place, end = angled.span(1), angled.end()
    else:
        end = _bare_end(text, start, most)
        place = (start, end)
    return place if _TITLE_AND_END.match(text, end, most) else None


def _bare_end(text: str, start: int, most: int) -> int:
    """Where an address without angle brackets ends: at white space, or at the parenthesis that is not its own."""
    depth = 0
    for match in _BARE.finditer(text, start, most):
        if match[0] == "(":
            depth += 1
            if depth > _DEEPEST:
                return most
        elif match[0] == ")" and depth:
            depth -= 1
        elif match[0] == ")" or match[0].isspace():
            return match.start()
    return most


def honest(text: str, in_code: Callable[[int], bool]) -> str:
    """The text with disguised links written out, `label (address)`, or within code taken apart by a zero-width space.

    `in_code`: whether the character at this place is in a code block. What is code to us may be none to Slack, so
    links are looked for both with and without code spans, and in blocks too. The lines stay those that they were.
    Definitions (`[1]: https://…`) are shown as text too: a reader could not see them, and a cut takes them from the
    links that use them.
    """
    gone: dict[int, str] = {}
    if "](" in text:
        masked = (_masked(_LINE_SPAN, text), _masked(_SPAN, text)) if "`" in text else (text,)
        judged: set[Link] = set()
        for source in dict.fromkeys((*masked, text)):
            for link in links(source):
                if link in judged or link.closing in gone:
                    continue
                judged.add(link)
                if not disguised(*link.of(text)):
                    continue
                if source not in masked or in_code(link.opening) or in_code(link.closing):
                    gone[link.closing] = f"]{ZERO_WIDTH}"
                else:
                    apart = " " if text[link.begin - 1 : link.begin].isalnum() else ""
                    gone |= {link.begin: "", link.opening: apart, link.closing: " "}
    for match in _DEFINITION.finditer(text):
        if _ADDRESS.match(text, match.end()) or not in_code(match.start()):
            gone[match.end() - 1] = f"{ZERO_WIDTH}:"
    if not gone:
        return text
    out, end = [], 0
    for at in sorted(gone):
        out += [text[end:at], gone[at]]
        end = at + 1
    return "".join([*out, text[end:]])


def _masked(spans: re.Pattern[str], text: str) -> str:
    """As long as the text, with code spans made meaningless."""
    return spans.sub(lambda span: "x" * len(span[0]), text)


def disguised(label: str, address: str | None) -> bool:
    """Whether the label looks like an address of another host than that of the link's. An address that cannot be read
    (None) may be any."""
    said = [one for one in _hosts(_plain(label)) if one[0]]
    if not said or address is None:
        return bool(said)
    real = _seen(html.unescape(address))
    return any(not (_same(one, _host(real)) or (file and _is_file(one, real))) for one, file in said)


def _plain(text: str) -> str:
    """As a reader sees it: without marks, escapes and what cannot be seen."""
    return _seen(_ESCAPE.sub(r"\1", html.unescape(_IMAGE.sub(r"\1", text))))


def _seen(text: str) -> str:
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).translate({ord(c): None for c in "*~`[]"})
    return " ".join(text.split())


def _hosts(text: str) -> Iterator[tuple[str, bool]]:
    """Each with whether it may be a file's name: nothing that only an address has stands before or behind it."""
    for match in _HOST.finditer(text):
        scheme = _SCHEME.match(match[0])
        host = _host(match[0]) if scheme else match[0].lower()
        yield host, not scheme and not host.startswith("www.") and text[match.end() : match.end() + 1] not in _BEHIND


def _host(address: str) -> str:
    """The host in lower case; "" for none, and for one that programs read in different ways."""
    try:
        parts = urlsplit(address if _SCHEME.match(address) else f"//{address}")
        return "" if _DOUBTFUL.search(parts.netloc) else (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""


def _same(said: str, host: str) -> bool:
    said, host = said.removeprefix("www."), host.removeprefix("www.")
    return said == host or host.endswith(f".{said}")


def _is_file(said: str, address: str) -> bool:
    """Whether it is the name of the file that the address leads to, perhaps with a line's number (`a.py:3`)."""
    path = _ESCAPE.sub(r"\1", re.split("[?#]", address, maxsplit=1)[0])
    name = _LINE_NUMBER.sub("", path.rpartition("/")[2])
    return said.rpartition(".")[2] in _FILES and said == unquote(name).lower()
