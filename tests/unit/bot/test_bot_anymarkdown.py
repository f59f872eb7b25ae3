"""Any Markdown, cut at any chunk boundaries, at any limits: Slack takes it, nothing in it is live, no word is lost.

What Slack would make of a message is read by a parser of its own (markdown-it), and by the simulator's validation.
`make chaos` runs it with many more examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bot.layout import Layout, Limits, TextPiece
from bot.markdown import clean, size
from bot.renderer import TurnView
from sessions.events import Settled, Started
from sessions.types import Done
from simulator.text import pings
from simulator.validation import check_blocks, check_content
from worklets.events import Text, TextDelta

EXAMPLES: list[str] = json.loads((Path(__file__).parent / "commonmark/examples.json").read_text(encoding="utf-8"))
READER = MarkdownIt("commonmark").enable("table")
LIVE = re.compile(r"<(?:[@#]|!(?!--|DOCTYPE)|[A-Za-z][A-Za-z0-9+.-]*:)")
ADDRESS = re.compile(r"https?://([^\s/()]+)")

CONSTRUCTS = [
    *("word ", "two words\n", "\n", "\n\n", "# Head\n", "###### Six\n", "Set\n===\n", "Set\n---\n", "***\n", "- - -\n"),
    *(
        "```python\n",
        "```\n",
        "~~~\n",
        "````md\n",
        "> ```\n",
        "    ```\n",
        "``` a`b\n",
        "`",
        "``",
        "`code` ",
        "x = 1\n",
    ),
    *("<!channel> ", "<@U123> ", "<#C1|x> ", "<https://evil.example|good> ", "`<!here>` ", "<", ">", "<!-- c -->"),
    *(
        "| a | b |\n",
        "|---|:-:|\n",
        "| 1 | 2 |\n",
        "a | b\n",
        "--|--\n",
        "|" + "c|" * 25 + "\n",
        "|" + "-|" * 25 + "\n",
    ),
    *("[https://good.example](https://evil.example) ", "[good.example][r] ", "[r]: https://evil.example\n"),
    *("[**https://good.example**](<https://evil.example> 'title') ", "![https://good.example](https://evil.example)"),
    *(
        "[[https://good.example]\n](https://evil.example) ",
        "[ok](https://ok.example/a_(b)) ",
        "[",
        "]",
        "](",
        ")",
        "![x](",
    ),
    *(
        "&amp;",
        "&lt;!here&gt; ",
        "&#60;",
        "&",
        ";",
        "\\",
        "\\<",
        "- item\n",
        "  1. item\n",
        "> quote\n",
        "- [x] done\n",
    ),
    *(
        "😀",
        "👩🏽\u200d🚀",
        "🇩🇪🇫🇷",
        "e\u0301\u0302",
        "각",
        "\u200b",
        "\r\n",
        "\x00",
        "\ud83d",
        "\t",
        "\u2028",
        "x" * 90,
    ),
    *("https://example.com/" + "a" * 60 + " ", "*em* ", "**strong** ", "~~gone~~ ", "<b>html</b> ", "1) one\n", "—"),
]
PIECES = st.one_of(
    st.sampled_from(CONSTRUCTS), st.sampled_from(CONSTRUCTS), st.sampled_from(EXAMPLES), st.text(max_size=12)
)
SOURCES = st.lists(st.tuples(PIECES, st.sampled_from([1, 1, 1, 2, 30])).map(lambda one: one[0] * one[1]), max_size=30)
LIMITS = st.builds(
    lambda markdown, more, items: Limits(markdown, markdown + more, items),
    st.integers(260, 3_000),
    st.integers(0, 300),
    st.integers(3, 40),
)


def chunks(text: str, steps: list[int]) -> Iterator[str]:
    """The text in pieces of these sizes, over and over."""
    at, number = 0, 0
    while at < len(text):
        step = steps[number % len(steps)]
        yield text[at : at + step]
        at, number = at + step, number + 1


def words(text: str) -> list[str]:
    """In order, as a reader sees them."""
    return re.findall(r"\w+", text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def block(text: str) -> dict[str, Any]:
    return {"type": "markdown", "text": text}


def check_page(pieces: list[TextPiece], limits: Limits) -> None:
    blocks = [block(text) for piece in pieces if (text := piece.text())]
    check_blocks(blocks)
    assert sum(size(one["text"]) for one in blocks) <= limits.markdown + 400  # of entities, counted twice
    assert sum(len(one["text"].encode("utf-16-le")) // 2 for one in blocks) <= limits.markdown
    assert not pings({"blocks": blocks}) - {"!-- c --", "!-- no --"} or all("<!--" in one["text"] for one in blocks)
    for one in blocks:
        assert not LIVE.search(one["text"]), one["text"]
        check_links(one["text"])


def check_links(text: str) -> None:
    """No link whose label is the address of another host."""
    for token in READER.parse(text):
        target, label = "", ""
        for child in token.children or []:
            if child.type == "link_open":
                target, label = str(child.attrs.get("href", "")), ""
            elif child.type in ("text", "code_inline"):
                label += child.content
            elif child.type == "link_close" and (host := urlsplit(target).hostname):  # one without leads nowhere
                assert all(said.lower() == host for said in ADDRESS.findall(label)), f"{label} leads to {target}"


def pieces_of(layout: Layout) -> list[list[TextPiece]]:
    return [[piece for piece in page.pieces if isinstance(piece, TextPiece)] for page in layout.pages]


@given(SOURCES, st.lists(st.integers(1, 400), min_size=1, max_size=6), LIMITS)
@settings(max_examples=4 * settings().max_examples)
def test_any_markdown_is_shown_whole_and_harmless(source: list[str], steps: list[int], limits: Limits) -> None:
    text = clean("".join(source))
    layout, frozen = Layout(limits), list[list[str]]()
    layout.begin_text()
    for number, chunk in enumerate(chunks(text, steps)):
        layout.extend_text(chunk)
        if number % 3 == 0 and number < 60:
            layout.settle()
            shown = [[piece.text() for piece in page] for page in pieces_of(layout)]
            assert shown[: len(frozen)] == frozen, "a full message changed"
            frozen = shown[:-1]
            check_page(pieces_of(layout)[-1], Limits(limits.markdown + 400, limits.total + 400, limits.items))
    layout.end_text()
    assert [[piece.text() for piece in page] for page in pieces_of(layout)][: len(frozen)] == frozen
    raw = ""
    for page in pieces_of(layout):
        check_page(page, limits)
        for piece in page:
            raw += piece.raw
            opener = words(piece.fence.opener) if piece.fence else []
            if shown_text := piece.text():
                assert words(shown_text) == opener + words(piece.raw)
            else:
                assert not words(piece.raw)
    assert text.startswith(raw)
    assert not text[len(raw) :].strip()


@pytest.mark.parametrize("step", [1, 7])
def test_the_spec_itself_as_one_answer(step: int) -> None:
    """All of CommonMark's examples in one long answer, in small deltas, looked at now and then."""
    text = "\n\n".join(EXAMPLES)
    view = TurnView()
    view.apply(Started())
    for number, chunk in enumerate(chunks(text, [step, step + 3])):
        view.apply(TextDelta(chunk))
        if number % 500 == 0:
            for part in view.parts()[-1:]:
                check_content({"text": part.text, "blocks": list(part.blocks)})
    view.apply(Text(text))
    view.apply(Settled(Done(), 1.0))
    for part in view.parts():
        check_content({"text": part.text, "blocks": list(part.blocks)})
        for one in part.blocks:
            if one["type"] == "markdown":
                assert not LIVE.search(one["text"])
                check_links(one["text"])
                tables = sum(token.type == "table_open" for token in READER.parse(one["text"]))
                assert tables <= 1


@pytest.mark.parametrize("example", range(0, len(EXAMPLES), 50))
def test_each_example_of_the_spec(example: int) -> None:
    for source in EXAMPLES[example : example + 50]:
        layout = Layout(Limits(260, 300, 5))
        layout.begin_text()
        layout.extend_text(clean(source))
        layout.end_text()
        for page in pieces_of(layout):
            check_page(page, Limits(260, 300, 5))
