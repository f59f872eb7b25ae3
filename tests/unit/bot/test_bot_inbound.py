"""Slack payloads become prompts, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from bot.inbound import EmptyMention, Identity, Subcommand, read_command, read_message, readable
from sessions.types import Prompt, ThreadId

ME = Identity("T1", "UBOT", "B1")
TS = "1700000000.000100"


def message(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"type": "message", "user": "U1", "text": text, "ts": TS, "channel": "C1", "channel_type": "channel", **more}


def prompt(event: dict[str, Any]) -> Prompt:
    read = read_message(event, ME)
    assert isinstance(read, Prompt)
    return read


def test_both_events_of_a_mention_are_one_prompt() -> None:
    text = "<@UBOT> fix &lt;it&gt; &amp;amp; go"
    mention = {k: v for k, v in message(text, type="app_mention").items() if k != "channel_type"}
    assert prompt(mention) == prompt(message(text))
    assert prompt(mention) == Prompt(ThreadId("T1", "C1", TS), f"C1:{TS}", TS, "U1", "fix <it> &amp; go", True)


def test_a_mention_in_a_thread_stays_in_it() -> None:
    read = prompt(message("and <@UBOT|flow> now?", thread_ts="1600000000.000001"))
    assert read.thread.thread_ts == "1600000000.000001"
    assert read.text == "and now?"
    assert read.starts


def test_a_reply_continues_and_starts_nothing() -> None:
    read = prompt(message("more repo=https://x/y", thread_ts="1600000000.000001"))
    assert not read.starts
    assert (read.text, read.repository) == ("more repo=https://x/y", None)


def test_a_direct_message_opens_its_own_thread() -> None:
    read = prompt(message("hi", channel="D1", channel_type="im"))
    assert read.starts
    assert read.thread == ThreadId("T1", "D1", TS)


@pytest.mark.parametrize(
    "more",
    [
        {},  # nobody called the bot
        {"thread_ts": TS},  # a thread's own first message, later
        {"subtype": "message_changed", "text": "<@UBOT> x", "thread_ts": "1.1"},
        {"subtype": "channel_join", "text": "<@UBOT> has joined"},
        {"subtype": "bot_message", "bot_id": "B2", "text": "<@UBOT> x"},
        {"bot_id": "B2", "text": "<@UBOT> x"},
        {"user": "UBOT", "text": "<@UBOT> x", "thread_ts": "1.1"},
        {"text": "<@UBOT> x", "edited": {"user": "U1", "ts": TS}},
        {"hidden": True, "text": "<@UBOT> x"},
        {"user": None, "text": "<@UBOT> x"},
        {"text": "   ", "thread_ts": "1.1"},
    ],
)
def test_nothing_that_concerns_the_bot(more: dict[str, Any]) -> None:
    assert read_message(message(**more), ME) is None


@pytest.mark.parametrize("subtype", ["file_share", "thread_broadcast"])
def test_other_ways_of_speaking_count(subtype: str) -> None:
    assert prompt(message("<@UBOT> look", subtype=subtype)).text == "look"


def test_files_are_named() -> None:
    read = prompt(message("<@UBOT>", subtype="file_share", files=[{"name": "a.png"}, {"title": "b"}]))
    assert read.text == "(Attached in Slack, not readable from here: a.png, b)"


def test_an_empty_mention_is_a_question_too() -> None:
    assert read_message(message(" <@UBOT>  "), ME) == EmptyMention(ThreadId("T1", "C1", None), "U1")
    assert read_message(message("<@UBOT> repo=https://x/y", thread_ts="1.1"), ME) == EmptyMention(
        ThreadId("T1", "C1", "1.1"), "U1"
    )


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("<@U2|jo> and <@U3>", "@jo and @U3"),
        ("<#C2|dev> <#C3>", "#dev #C3"),
        ("<!here> <!subteam^S1|@team> <!date^1^x|noon>", "@here @team noon"),
        ("<https://x.io/a?b=1&amp;c=2>", "https://x.io/a?b=1&c=2"),
        ("<https://x.io|x.io> <https://x.io|the site>", "https://x.io the site (https://x.io)"),
        ("<mailto:a@b.c|a@b.c>", "a@b.c"),
        ("if a &lt; b &amp;&amp; c &gt; d", "if a < b && c > d"),
        ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),
    ],
)
def test_text_reads_as_it_was_written(raw: str, shown: str) -> None:
    assert readable(raw) == shown


@pytest.mark.parametrize(
    ("raw", "text", "repository", "branch"),
    [
        ("repo=<https://git.io/a/b> fix it", "fix it", "https://git.io/a/b", None),
        ("fix it repo=https://git.io/a/b branch=dev/x", "fix it", "https://git.io/a/b", "dev/x"),
        ("fix repo=<https://git.io/a/b|git.io/a/b> it", "fix it", "https://git.io/a/b", None),
        ("x repo=<mailto:git@git.io|git@git.io>:a/b.git", "x", "git@git.io:a/b.git", None),
        ("explain branch=main", "explain branch=main", None, None),
        ("what is `repo=https://x/y`?", "what is `repo=https://x/y`?", None, None),
        ("set repo=name please", "set repo=name please", None, None),
    ],
)
def test_repository_and_branch(raw: str, text: str, repository: str | None, branch: str | None) -> None:
    read = prompt(message(f"<@UBOT> {raw}"))
    assert (read.text, read.repository, read.branch) == (text, repository, branch)


def command(text: str) -> Prompt | Subcommand:
    body = {"text": text, "user_id": "U1", "channel_id": "C1", "trigger_id": "1.2.abc"}
    return read_command(body, ME, "1700000001.000000")


@pytest.mark.parametrize("text", ["", "  ", "help", " HELP ", "repo=https://x/y"])
def test_flow_alone_is_help(text: str) -> None:
    assert command(text) == Subcommand("help", "U1", "C1")


@pytest.mark.parametrize("name", ["status", "stop", "sessions"])
def test_subcommands_are_single_words(name: str) -> None:
    assert command(name) == Subcommand(name, "U1", "C1")
    read = command(f"{name} the server from crashing")
    assert isinstance(read, Prompt)
    assert read.text == f"{name} the server from crashing"


def test_a_command_opens_a_thread_to_come() -> None:
    assert command("do &lt;it&gt;") == Prompt(
        ThreadId("T1", "C1", None), "cmd:1.2.abc", "1700000001.000000", "U1", "do <it>", True
    )
