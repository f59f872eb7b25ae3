"""Markdown made harmless and cut to size."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.markdown import Fence, clean, clip, cut, measure, neutralise, size

LIVE = re.compile(r"<(?:[@#!][A-Za-z]|https?:|mailto:)")
PIECES = st.sampled_from(
    [
        *("word ", "\n", "\n\n", "```python\n", "```\n", "~~~\n", "````\n", "# Head\n", "---\n", "<!channel> "),
        *("<@U123> ", "`<#C1>` ", "<https://evil|good> ", "&amp; ", "😀", "é", "- item\n", "> quote\n"),
        *("x" * 40, "| a | b |\n", "<", "`"),
    ]
)
TEXTS = st.lists(PIECES, max_size=120).map("".join)


def split(text: str, limit: int = 300, items: int = 6) -> list[tuple[str, Fence | None, Fence | None]]:
    pieces, fence = [], None
    while (place := cut(text, limit, items, fence)) is not None:
        pieces.append((text[: place.end], fence, place.measure.fence))
        text, fence = text[place.end :], place.measure.fence
    return [*pieces, (text, fence, None)]


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_cuts_lose_nothing_and_keep_the_limits(text: str) -> None:
    pieces = split(text)
    assert "".join(raw for raw, _, _ in pieces) == text
    for raw, fence, after in pieces:
        shown = neutralise(raw, fence)
        room = len(shown.encode("utf-16-le")) // 2
        room += len(fence.opener) + 1 if fence else 0
        room += len(after.closer) + 1 if after else 0
        assert room <= 300
        assert measure(raw, fence).items <= 6


@given(TEXTS, TEXTS)
@settings(max_examples=200, deadline=None)
def test_a_cut_stays_when_more_text_arrives(text: str, more: str) -> None:
    before = split(text)
    assert split(text + more)[: len(before) - 1] == before[:-1]


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_no_token_is_live(text: str) -> None:
    for raw, fence, _ in split(text):
        assert not LIVE.search(neutralise(raw, fence))


@given(st.text(max_size=500), st.integers(20, 300))
@settings(deadline=None)
def test_clip_keeps_its_limit_and_its_entities(text: str, limit: int) -> None:
    clipped = clip(text, limit)
    assert size(clipped) <= limit
    assert not re.search(r"&(?!amp;|lt;|gt;)", clipped)


def test_tokens_are_neutral_outside_and_inside_code() -> None:
    assert neutralise("<!channel> a < b") == "&lt;!channel> a &lt; b"
    assert neutralise("`<@U1>` x `if a < b`") == "`<\u200b@U1>` x `if a < b`"
    fenced = "```c\n#include <stdio.h>\n<!here>\n<!-- no -->\n```\n<!here>"
    assert neutralise(fenced) == "```c\n#include <stdio.h>\n<\u200b!here>\n<!-- no -->\n```\n&lt;!here>"


def test_a_fence_goes_on_in_the_next_piece() -> None:
    text = "```python\n" + "x = 1\n" * 100 + "```\n"
    (first, before, after), (_, again, _), *_ = split(text)
    assert before is None
    assert first.startswith("```python\n")
    assert after == again == Fence("```python", "```")


def test_an_inner_fence_does_not_close_the_outer() -> None:
    assert measure("````md\n```\nx\n```\n").fence == Fence("````md", "````")
    assert measure("````md\n```\nx\n````\n").fence is None


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("a" * 200 + "\n\n" + "b" * 200, "\n\n"),
        ("a" * 100 + "\n" + "b" * 100 + "\n" + "c" * 200, "b\n"),
        ("word " * 100, "word "),
        ("a" * 250 + "<https://example.org/" + "b" * 100 + "|label>", "a"),
        ("a" * 282 + "&amp;" + "b" * 100, "a"),
    ],
)
def test_where_a_cut_is_made(text: str, end: str) -> None:
    place = cut(text, 300, 6)
    assert place is not None
    assert text[: place.end].endswith(end)


def test_an_emoji_sequence_is_not_torn() -> None:
    family = "👨\u200d👩\u200d👧"
    text = "a" * 278 + family * 20
    place = cut(text, 300, 6)
    assert place is not None
    assert text[place.end] != "\u200d"
    assert text[place.end - 1] != "\u200d"


def test_what_no_json_body_carries_is_replaced() -> None:
    assert clean("a\x00b\ud800c\td\n") == "a\ufffdb\ufffdc\td\n"
