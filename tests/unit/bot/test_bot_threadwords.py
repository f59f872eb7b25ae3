"""Which messages are words to Flow, and what it says of Claude's memory."""

from __future__ import annotations

from typing import Any

import pytest

from bot.inbound import Identity, read_message
from bot.threadacts import context_text
from bot.threadwords import as_asked, read_word, word_of
from sessions.types import Prompt

ME = Identity("T1", "UBOT", "BBOT")


@pytest.mark.parametrize(
    ("markup", "word"),
    [
        ("cost", ("cost", "")),
        ("  Context ", ("context", "")),
        ("COMPACT", ("compact", "")),
        ("model opus", ("model", "opus")),
        ("/model opus", ("model", "opus")),
        ("Model   Haiku", ("model", "haiku")),
        ("mode plan", ("mode", "plan")),
        ("model", ("model", "")),
        ("mode", ("mode", "")),
        ("quiet", ("quiet", "")),
        ("share <#C123ABC|general>", ("share", "C123ABC")),
        ("share <#C123ABC>", ("share", "C123ABC")),
        ("share <#C123ABC|>", ("share", "C123ABC")),
    ],
)
def test_words(markup: str, word: tuple[str, str]) -> None:
    assert read_word(markup) == word


@pytest.mark.parametrize(
    "markup",
    [
        "costs",
        "cost?",
        "contxt",
        "model gpt",
        "model opus please",
        "mode opus",
        "model: opus",
        "share",
        "share #general",
        "share <#C123|general> now",
        "share <@U123>",
        "fork this",
        "clear the cache",
        "what does it cost",
        "/compact",
        "model\nopus\nplease",
        "",
    ],
)
def test_everything_else_is_for_claude(markup: str) -> None:
    assert read_word(markup) is None


def event(text: str, **more: Any) -> dict[str, Any]:
    given = {"type": "message", "channel": "C1", "user": "U1", "ts": "1700000002.000100", "text": text}
    return {**given, "thread_ts": "1700000001.000100", **more}


def word(event: dict[str, Any]) -> tuple[str, str] | None:
    prompt = read_message(event, ME)
    assert isinstance(prompt, Prompt)
    found = word_of(event, prompt, ME)
    return (found.name, found.argument) if found else None


def test_a_word_needs_the_mention_and_a_thread() -> None:
    assert word(event("<@UBOT> share <#C9|general>")) == ("share", "C9")
    assert word(event("cost <@UBOT>")) == ("cost", "")
    assert word(event("cost")) is None
    direct = {"channel": "D1", "channel_type": "im"}
    for text in ("cost", "clear", "fork", "model opus"):
        assert word(event(text, **direct)) is None, "an everyday word, said to Claude"
    assert word(event("<@UBOT> clear", **direct)) == ("clear", "")
    assert word(event("/model opus", **direct)) == ("model", "opus")
    assert word(event("help", **direct)) == ("help", "")
    assert (as_asked("clear", "D1"), as_asked("clear", "C1")) == ("clear", "/clear")
    top = event("<@UBOT> cost")
    del top["thread_ts"]
    assert word(top) is None
    assert word({**top, "text": "<@UBOT> help"}) == ("help", "")


def test_a_word_with_a_file_is_a_prompt() -> None:
    assert word(event("<@UBOT> compact", files=[{"id": "F1", "name": "a.txt"}])) is None


def test_claudes_memory_in_words() -> None:
    usage = {
        "totalTokens": 1_830,
        "maxTokens": 200_000,
        "categories": [
            {"name": "System prompt", "tokens": 1_803, "kind": "used"},
            {"name": "<!channel>", "tokens": 27, "kind": "used"},
            {"name": "Free space", "tokens": 198_170, "kind": "free"},
        ],
    }
    assert context_text(usage).splitlines() == [
        "My memory of this thread holds 1,830 of 200,000 tokens (1 %).",
        "• System prompt: 1,803",
        "• &lt;!channel&gt;: 27",
        "`compact` makes room, `clear` begins anew.",
    ]


def test_a_forged_answer_about_memory_harms_nobody() -> None:
    forged: list[dict[str, Any]] = [{}, {"totalTokens": "x", "maxTokens": None, "categories": 3}, {"categories": [1]}]
    for usage in forged:
        assert context_text(usage).startswith("My memory of this thread holds 0 of 0 tokens.")
