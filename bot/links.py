"""Links of Markdown that say one address and lead to another. Pure."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_BRACKET = re.compile(r"\\.|[\[\]]", re.DOTALL)
_TARGET = re.compile(r"\(((?:\\.|[^()\\]|\((?:\\.|[^()\\]){0,500}\)){0,2500})\)", re.DOTALL)
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]"
)
_HOST = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://|www\.)[^\s/?#]+|(?<![\w@.-])(?:[\w-]+\.)+[^\W\d_]{2,}(?![\w-])", re.IGNORECASE
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
ZERO_WIDTH = "\u200b"


@dataclass(frozen=True, slots=True)
class Link:
    """`[label](target)`: where it begins (before a `!`), the places of both brackets, and where it ends."""

    begin: int
    opening: int
    closing: int
    end: int

    def of(self, text: str) -> tuple[str, str]:
        """Label and target."""
        return text[self.opening + 1 : self.closing], text[self.closing + 2 : self.end - 1]


def links(text: str) -> Iterator[Link]:
    """Inline links and images; `text` is without code (masked)."""
    open_brackets: list[int] = []
    for match in _BRACKET.finditer(text):
        if match[0] == "[":
            open_brackets.append(match.start())
        elif match[0] == "]" and open_brackets:
            opening = open_brackets.pop()
            if target := _TARGET.match(text, match.end()):
                image = opening > 0 and text[opening - 1] == "!"
                yield Link(opening - image, opening, match.start(), target.end())


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


def disguised(label: str, target: str) -> bool:
    """Whether the label looks like an address of another host than the target's."""
    if not (said := [host for host in _hosts(_plain(label)) if host]):
        return False
    real = _plain(target).strip().partition(" ")[0].strip("<>")
    host = _host(real)
    return any(not _same(one, host, real) for one in said)


def _plain(text: str) -> str:
    """As a reader sees it: without marks, escapes and what cannot be seen."""
    text = _ESCAPE.sub(r"\1", html.unescape(_IMAGE.sub(r"\1", text)))
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).translate({ord(c): None for c in "*~`[]"})
    return " ".join(text.split())


def _hosts(text: str) -> Iterator[str]:
    for match in _HOST.finditer(text):
        yield _host(match[0]) if _SCHEME.match(match[0]) else match[0].lower()


def _host(address: str) -> str:
    """The host in lower case; "" for none."""
    try:
        return (urlsplit(address if _SCHEME.match(address) else f"//{address}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _same(said: str, host: str, target: str) -> bool:
    said, host = said.removeprefix("www."), host.removeprefix("www.")
    if said.rpartition(".")[2] in _FILES and said in unquote(target).lower():
        return True  # the name of a file that the address holds
    return said == host or host.endswith(f".{said}")
