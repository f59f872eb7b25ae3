"""Markdown as Slack's `markdown` block takes it: made harmless and honest. Pure.

Sizes count UTF-16 units, the larger of the two ways in which Slack may count.
"""

from __future__ import annotations

import bisect
import itertools
import re

from bot.links import ZERO_WIDTH, honest
from bot.structure import Fence, Open, State, after, columns, ends_fence

_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_BRACKET = re.compile(r"(\\*)<")
_LIVE_IN_CODE = re.compile(r"<(?=[@#]|!(?!--|DOCTYPE)|[A-Za-z][A-Za-z0-9+.-]*:)")
_UNSENDABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_DASHES_BEGUN = re.compile(r"[\s|:-]*")
_FENCE_BEGUN = re.compile(r"[\s>]*(?:`+|~+)")


def clean(text: str) -> str:
    """Without control characters and lone surrogates, which no JSON body carries safely. Character by character."""
    return _UNSENDABLE.sub("\ufffd", text).replace("\r", " ")


def size(text: str) -> int:
    """UTF-16 units that the text takes at most after `neutralise`."""
    units = len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
    return units + 3 * text.count("<") + text.count("]:") + text.count("](")


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


# ---- tokens and links --------------------------------------------------------------------------------------------


def render(text: str, before: Open | None, behind: Open | None, *, growing: bool = False) -> str:
    """A piece as a block takes it: harmless, what was open before it opened anew, what is open behind it closed.

    `growing`: more of it comes; a fence or table that has begun looks as it will. "" if there is nothing to see.
    """
    body = neutralise(text, before)
    if growing:
        body, behind = _grown(body, text, before)
    body = body.rstrip() if behind is None else body.removesuffix("\n")
    body = body.lstrip("\n") if before is None else f"{neutralise(before.opener)}\n{body}"
    if behind is not None and behind.closer:
        body += f"\n{behind.closer}"
    return body if body.strip() else ""


def _grown(body: str, text: str, before: Open | None) -> tuple[str, Open | None]:
    """Without a half-written end of a fence, with the dashes that a table's header waits for; what is to be closed."""
    state, lines = State(before), text.split("\n")
    for line in lines[:-1]:
        state = after(line, state)
    last = lines[-1]
    shown = body[: len(body) - len(body.rpartition("\n")[2])]
    if isinstance(state.open, Fence):
        half = _FENCE_BEGUN.fullmatch(last) is not None
        still = after(last, state).open
        return (shown if half and still is not None else body), still
    header = state.header
    if header is not None and header.startswith("|") and header.endswith("|") and _DASHES_BEGUN.fullmatch(last):
        return shown + "|" + "---|" * columns(header), None
    return body, after(last, state).open


def neutralise(text: str, fence: Open | None = None) -> str:
    """Markdown in which no `<!channel>`, `<@U…>`, `<#C…>` or `<url|label>` is live, and no link leads elsewhere than it
    says. `fence`: open at the start.

    Slack parses its own tokens inside Markdown too. Outside code `<` becomes an entity; in code, where entities are
    shown as they are, a zero-width space breaks the token.
    """
    lines = text.split("\n")
    code = _code_lines(lines, fence)
    if "]" in text:
        starts = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
        lines = honest(text, lambda at: code[bisect.bisect_right(starts, at) - 1]).split("\n")
    return "\n".join(
        (_LIVE_IN_CODE.sub("<" + ZERO_WIDTH, line) if inside else _neutral_line(line)) if "<" in line else line
        for line, inside in zip(lines, code, strict=True)
    )


def _code_lines(lines: list[str], before: Open | None) -> list[bool]:
    """Of each line whether it belongs to a code block, its fences too."""
    state, found = State(before), []
    for line in lines:
        then = after(line, state)
        found.append(isinstance(then.open, Fence) or (isinstance(state.open, Fence) and ends_fence(line, state.open)))
        state = then
    return found


def _neutral_line(line: str) -> str:
    out, end = [], 0
    for span in _CODE_SPAN.finditer(line):
        out.append(_BRACKET.sub(_entity, line[end : span.start()]))
        out.append(_LIVE_IN_CODE.sub("<" + ZERO_WIDTH, span[0]))
        end = span.end()
    return "".join([*out, _BRACKET.sub(_entity, line[end:])])


def _entity(bracket: re.Match[str]) -> str:
    """Without the backslash that escapes the bracket: it would escape the entity, which is then shown as it is."""
    slashes = bracket[1]
    return f"{slashes[: len(slashes) // 2 * 2]}&lt;"
