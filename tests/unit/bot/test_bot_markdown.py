"""Markdown made harmless and cut to size."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.markdown import clean, clip, neutralise, render, size
from bot.structure import Fence, Open, Table
from bot.textcuts import cut, measure

LIVE = re.compile(r"<(?:[@#!][A-Za-z]|https?:|mailto:)")
PIECES = st.sampled_from(
    [
        *("word ", "\n", "\n\n", "```python\n", "```\n", "~~~\n", "````\n", "# Head\n", "---\n", "<!channel> "),
        *("<@U123> ", "`<#C1>` ", "<https://evil|good> ", "&amp; ", "😀", "é", "- item\n", "> quote\n"),
        *("x" * 40, "| a | b |\n", "<", "`"),
    ]
)
TEXTS = st.lists(PIECES, max_size=120).map("".join)


def split(text: str, limit: int = 300, items: int = 6) -> list[tuple[str, Open | None, Open | None]]:
    pieces: list[tuple[str, Open | None, Open | None]] = []
    fence: Open | None = None
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


def test_an_escaped_bracket_is_shown_without_its_backslash() -> None:
    assert neutralise(r"a \< b \\< c \\\< d") == r"a &lt; b \\&lt; c \\&lt; d"
    assert neutralise(r"`a \< b`") == r"`a \< b`"


def test_a_fence_goes_on_in_the_next_piece() -> None:
    text = "```python\n" + "x = 1\n" * 100 + "```\n"
    (first, before, after), (_, again, _), *_ = split(text)
    assert before is None
    assert first.startswith("```python\n")
    assert after == again == Fence("```python", "```")


@pytest.mark.parametrize("item", ["2. ", "- ", "* ", "10) ", "> - ", "1. - "])
def test_a_fence_that_begins_an_item_ends_with_its_closer(item: str) -> None:
    inner = re.sub(r"[^\s>]", " ", item)
    text = f"{item}```bash\n{inner}make <in\n{inner}- ```\n{inner}```\nThen <that\n"
    assert neutralise(text) == text.replace("<that", "&lt;that")
    begun = measure(text[: text.index("make")]).fence
    assert begun == Fence(f"{item}```bash", f"{inner}```", doubtful=True)
    assert measure(text).fence is None


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


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("[https://good.com](https://evil.com)", "https://good.com (https://evil.com)"),
        ("see [good.com](https://evil.com/x 'y').", "see good.com (https://evil.com/x 'y')."),
        ("![www.good.com](https://evil.com)", "www.good.com (https://evil.com)"),
        ("[**https:&#47;/good.com**](https://evil.com)", "**https:&#47;/good.com** (https://evil.com)"),
        ("[https://good.com\n](https://evil.com)", "https://good.com\n (https://evil.com)"),
        ("[[[good.com]]](https://evil.com)", "[[good.com]] (https://evil.com)"),
        ("[https://good.com@evil.com](https://evil.com)", "[https://good.com@evil.com](https://evil.com)"),
        ("[\uff47ood.com](https://evil.com)", "\uff47ood.com (https://evil.com)"),
        ("[good.com](mailto:me@evil.com)", "good.com (mailto:me@evil.com)"),
        ("[good.com][1]\n\n[1]: https://evil.com", "[good.com][1]\n\n[1]\u200b: https://evil.com"),
        ("`[good.com](https://evil.com)`", "`[good.com]\u200b(https://evil.com)`"),
        ('[good.com](https://evil.com "a(b")', 'good.com (https://evil.com "a(b")'),
        ("[good.com](https://evil.com '(')", "good.com (https://evil.com '(')"),
        ("[good.com](https://evil.com/(a(b)c))", "good.com (https://evil.com/(a(b)c))"),
        (f"[good.com](https://evil.com/{'(' * 40}{')' * 41}", f"good.com (https://evil.com/{'(' * 40}{')' * 41}"),
        ("[good.com](https://good.com 'a)", "good.com (https://good.com 'a)"),
        ("[good.com](https://good.com/" + "a" * 4000, "good.com (https://good.com/" + "a" * 4000),
        ("[good.com](<https://good.com @evil.com>)", "good.com (&lt;https://good.com @evil.com>)"),
        ("[https://allegro.pl](https://evil.com/?allegro.pl)", "https://allegro.pl (https://evil.com/?allegro.pl)"),
        ("[allegro.pl](https://evil.com/?allegro.pl)", "allegro.pl (https://evil.com/?allegro.pl)"),
        ("[bank.pl/login](https://evil.com/bank.pl)", "bank.pl/login (https://evil.com/bank.pl)"),
        ("[www.bank.pl](https://evil.com/www.bank.pl)", "www.bank.pl (https://evil.com/www.bank.pl)"),
        ("[paypal.com](https://evil.com\\\\@paypal.com)", "paypal.com (https://evil.com\\\\@paypal.com)"),
        ("[paypal.com](https://evil.com&#92;@paypal.com)", "paypal.com (https://evil.com&#92;@paypal.com)"),
        ("[good.py](https://good.py:80@evil.com)", "good.py (https://good.py:80@evil.com)"),
        ("[10.0.0.1](https://evil.com)", "10.0.0.1 (https://evil.com)"),
    ],
)
def test_a_link_that_says_another_address_shows_its_own(source: str, shown: str) -> None:
    assert neutralise(source) == shown


@pytest.mark.parametrize(
    "source",
    [
        "[the docs](https://example.com)",
        "[example.com](https://www.example.com/a)",
        "[example.com](https://docs.example.com)",
        "[https://example.com/a](https://example.com/b)",
        "[main.py](https://github.com/a/b/blob/x/main.py#L3)",
        "[src/app.py](src/app.py)",
        "[version 1.2.3](https://example.com)",
        "[src/app.py:42](src/app.py:42)",
        '[en.wikipedia.org](https://en.wikipedia.org/wiki/A_(b_(c)) "a (b")',
        "[10.0.0.1](http://10.0.0.1:8080/)",
        "`a[0](x)` and [x] done",
    ],
)
def test_an_honest_link_stays(source: str) -> None:
    assert neutralise(source) == source


TABLE = "| name | value |\n|---|---|\n" + "".join(f"| row{n} | {n} |\n" for n in range(60))


def test_a_table_goes_on_below_its_header() -> None:
    (first, before, left), (second, again, _), *_ = split(TABLE)
    assert before is None
    assert left == again == Table("| name | value |\n|---|---|", "")
    assert first.endswith("|\n")
    assert render(second, again, None).startswith("| name | value |\n|---|---|\n| row")


def test_a_second_table_waits_for_the_next_message() -> None:
    text = "One:\n\n|a|\n|-|\n|1|\n\nTwo:\n\n|b|\n|-|\n|2|\n"
    place = cut(text, 1_000, 40)
    assert place is not None
    assert text[place.end :] == "|b|\n|-|\n|2|\n"
    assert place.measure.tables == 1
    assert cut("|b|\n|-|\n|2|\n", 1_000, 40, None, 0) is not None
    assert cut("|b|\n|-|\n|2|\n", 1_000, 40, None, 1) is None


def test_no_cut_stands_between_a_header_and_its_dashes() -> None:
    for words in range(1, 60):
        text = "word " * words + "\n" + TABLE
        for raw, _, _ in split(text)[:-1]:
            assert not raw.endswith("| name | value |\n")


def test_what_grows_looks_as_it_will() -> None:
    assert render("```py\nx = 1", None, None, growing=True) == "```py\nx = 1\n```"
    assert render("```py\nx = 1\n``", None, None, growing=True) == "```py\nx = 1\n```"
    assert render("```py\nx = 1\n```", None, None, growing=True) == "```py\nx = 1\n```"
    assert render("| a | b |\n", None, None, growing=True) == "| a | b |\n|---|---|"
    assert render("| a | b |\n|--", None, None, growing=True) == "| a | b |\n|---|---|"
    assert render("| a | b |\n", None, None) == "| a | b |"


@pytest.mark.parametrize(
    "sign", ["\U0001f1e9\U0001f1ea", "e\u0301\u0302", "\u1100\u1161\u11a8", "👍🏽", "1\ufe0f\u20e3"]
)
def test_no_sign_is_torn(sign: str) -> None:
    for before in range(280 - 2 * len(sign), 290):
        for raw, _, _ in split("a" * before + sign * 80):
            assert raw.strip("a").replace(sign, "") == ""


@pytest.mark.parametrize("token", ["[a label](https://example.com/path)", "`code span`", "&amp;", "<https://a.b|c>"])
def test_nothing_that_belongs_together_is_cut(token: str) -> None:
    for before in range(240, 300):
        pieces = [raw for raw, _, _ in split("a" * before + token + "b" * 300)]
        assert any(token in raw for raw in pieces), pieces
