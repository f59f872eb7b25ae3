"""What Slack refuses goes out in simpler forms, with the same words; and what a notification says."""

from __future__ import annotations

from typing import Any

import pytest

from bot.markdown import size
from bot.parts import (
    PLAIN_LIMIT,
    Part,
    actions,
    button,
    common,
    context,
    plain,
    section,
    sectioned,
    shortened,
    summary,
    worded,
)
from simulator.text import visible_text
from simulator.validation import check_content


def rich(*lines: str) -> dict[str, Any]:
    items = [{"type": "rich_text_section", "elements": [{"type": "text", "text": line}]} for line in lines]
    return {"type": "rich_text", "elements": [{"type": "rich_text_list", "style": "bullet", "elements": items}]}


KINDS: dict[str, dict[str, Any]] = {
    "markdown": {"type": "markdown", "text": "# Words of an answer &lt;here>"},
    "context": context("✓ Words of a tool `a &amp; b`"),
    "section": section("*Words* of a section"),
    "header": {"type": "header", "text": {"type": "plain_text", "text": "Words of a header"}},
    "rich_text": rich("Words of a list", "and more words"),
    "plan": {
        "type": "plan",
        "title": "Words of a plan",
        "tasks": [{"type": "task_card", "task_id": "1", "title": "its task", "status": "pending"}],
    },
    "task_card": {"type": "task_card", "task_id": "1", "title": "Words of a task", "status": "complete"},
    "table": {"type": "table", "rows": [[{"type": "raw_text", "text": "Words"}, rich("of a table")]]},
    "image": {"type": "image", "image_url": "https://example.com/a.png", "alt_text": "Words of a picture"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_simpler_form_says_the_words_of_every_block(kind: str) -> None:
    part = Part(0, (KINDS[kind], actions(button("go", "Go", "t1"))), "x", True)
    check_content({"text": part.text, "blocks": list(part.blocks)})
    for form in (common(part), sectioned(part), worded(part), plain(part), shortened(plain(part))):
        check_content({"text": form.text, "blocks": list(form.blocks)})
        said = visible_text({"blocks": list(form.blocks), "text": form.text}).casefold()
        assert "words" in said
    assert "Go" in visible_text({"blocks": list(sectioned(part).blocks)}), "people can still press"
    assert not any(block["type"] == "actions" for block in worded(part).blocks)


def test_plain_text_that_grows_shows_what_came_last() -> None:
    words = " ".join(f"w{n}<" for n in range(3_000))
    growing = shortened(plain(Part(0, ({"type": "markdown", "text": words},), "x", False)))
    assert size(growing.text) <= PLAIN_LIMIT
    assert growing.text.startswith("…")
    assert growing.text.endswith("w2999&lt;")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Hello *world*\n\nSee [the docs](https://example.com).", "Hello world See the docs."),
        ("a -> b *and* c", "a -&gt; b and c"),
        ("| a | b |\n|---|---|\n| 1 | 2 |", "a b 1 2"),
        ("```python\nx_y = 1\n```\n\n---\n\n- **one**\n> two", "x_y = 1 one two"),
    ],
)
def test_a_notification_has_words_and_no_marks(text: str, said: str) -> None:
    assert summary([context("✓ Read `a`"), {"type": "markdown", "text": text}]) == said


def test_a_notification_is_short_and_never_empty() -> None:
    assert size(summary([{"type": "markdown", "text": "word <!channel> " * 500}])) <= 300
    assert "<!" not in summary([{"type": "markdown", "text": "&lt;!channel>"}])
    assert summary([context("⏳ Thinking…")]) == "⏳ Thinking…"
