"""Slack payloads become prompts, or nothing."""

from __future__ import annotations

from typing import Any

import pytest

from bot.inbound import (
    Amendment,
    EmptyMention,
    Identity,
    Misspelt,
    Said,
    StopWord,
    Subcommand,
    read_command,
    read_edit,
    read_message,
    readable,
    said_by,
)
from bot.spelling import distance, nearest
from sessions.types import Attached, Prompt, ThreadId

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


@pytest.mark.parametrize("text", ["stop", "Stop", "STOP!", " stop. ", "<@UBOT> stop", "stop <@UBOT|flow>!"])
def test_the_one_word_stop(text: str) -> None:
    called = "UBOT" in text
    assert read_message(message(text, thread_ts="1.1"), ME) == StopWord(
        ThreadId("T1", "C1", "1.1"), f"C1:{TS}", TS, "U1", called
    )
    alone = read_message(message(text), ME)
    assert alone == (StopWord(ThreadId("T1", "C1", None), f"C1:{TS}", TS, "U1", True) if called else None)


@pytest.mark.parametrize("text", ["stop it", "stopp", "please stop", "stop?", "non-stop"])
def test_more_than_one_word_is_a_prompt(text: str) -> None:
    assert prompt(message(text, thread_ts="1.1")).text == text


@pytest.mark.parametrize("text", ["<@U2> look", "  <@U2|jo>: look", "<!here> look", "<!subteam^S1|@team> look"])
def test_what_begins_with_somebody_else_is_for_them(text: str) -> None:
    thread = ThreadId("T1", "C1", "1.1")
    said = read_message(message(text, thread_ts="1.1"), ME)
    assert said == Said(thread, f"C1:{TS}", TS, "U1", None, text.strip())
    assert read_message(message(text), ME) is None
    assert prompt(message(f"{text} <@UBOT>", thread_ts="1.1")).starts
    assert prompt(message(text, channel="D1", thread_ts="1.1")).starts
    assert prompt(message(f"look {text}", thread_ts="1.1"))


@pytest.mark.parametrize(
    ("more", "author"),
    [
        ({"bot_id": "B2", "bot_profile": {"name": "CI"}}, "CI"),
        ({"bot_id": "B2", "subtype": "bot_message", "username": "hook", "user": None}, "hook"),
        ({"bot_id": "B2"}, "an app"),
    ],
)
def test_other_apps_are_only_overheard(more: dict[str, Any], author: str) -> None:
    said = read_message(message("<@UBOT> built", thread_ts="1.1", **more), ME)
    assert isinstance(said, Said)
    assert (said.author, said.user_id) == (author, more.get("user", "U1") or "B2")
    assert read_message(message("<@UBOT> built", **more), ME) is None


def test_what_the_bot_says_itself_is_nothing() -> None:
    for mine in ({"user": "UBOT"}, {"bot_id": "B1"}):
        assert read_message(message("x", thread_ts="1.1", **mine), ME) is None
        assert said_by(message("x", thread_ts="1.1", **mine), ThreadId("T1", "C1", "1.1"), ME) is None


def test_a_message_that_is_read_late_may_be_edited() -> None:
    event = message("<@UBOT> x", edited={"user": "U1", "ts": TS})
    assert isinstance(read_message(event, ME, late=True), Prompt)
    assert read_message(message("gone", subtype="tombstone", hidden=True, thread_ts="1.1"), ME, late=True) is None


def change(before: str, after: str, **more: Any) -> dict[str, Any]:
    edited = {"edited": {"user": "U1", "ts": "1700000009.000000"}}
    old, new = message(before, **more), message(after, **more, **edited)
    return {
        "type": "message", "subtype": "message_changed", "hidden": True, "channel": old["channel"],
        "channel_type": old["channel_type"], "ts": "1.5", "message": new, "previous_message": old,
    }  # fmt: skip


def test_an_edit_is_read_like_the_message() -> None:
    edit = read_edit(change("<@UBOT> frist", "<@UBOT> first repo=<https://x/y>", thread_ts="1.1"), ME)
    assert edit == Amendment(
        ThreadId("T1", "C1", "1.1"), f"C1:{TS}", "first", "1700000009.000000", aside=None, addressed=True
    )
    plain = read_edit(change("one", "two &amp; more", thread_ts="1.1"), ME)
    assert plain is not None
    assert (plain.text, plain.addressed) == ("two & more", False)
    aside = read_edit(change("<@U2> one", "<@U2> two", thread_ts="1.1"), ME)
    assert aside is not None
    assert aside.aside == "<@U2> two"
    nothing = read_edit(change("<@UBOT> one", "<@UBOT>"), ME)
    assert nothing is not None
    assert nothing.text is None
    direct = read_edit(change("one", "two", channel="D1", channel_type="im"), ME)
    assert direct is not None
    assert (direct.addressed, direct.thread) == (True, ThreadId("T1", "D1", TS))


@pytest.mark.parametrize(
    "event",
    [
        change("same", "same", thread_ts="1.1"),  # a link was unfurled
        change("one", "two", thread_ts="1.1", bot_id="B1"),
        change("one", "two", thread_ts="1.1", user="UBOT"),
        {"type": "message", "subtype": "message_deleted", "channel": "C1", "deleted_ts": "1.2", "ts": "1.3"},
    ],
)
def test_changes_that_are_none(event: dict[str, Any]) -> None:
    assert read_edit(event, ME) is None


def test_a_deleted_message() -> None:
    old = message("<@UBOT> one")
    event = {
        "type": "message", "subtype": "message_deleted", "hidden": True, "channel": "C1", "deleted_ts": TS,
        "ts": "1700000009.000000", "event_ts": "1700000009.000000", "previous_message": old,
    }  # fmt: skip
    gone = Amendment(ThreadId("T1", "C1", TS), f"C1:{TS}", None, "1700000009.000000", aside=None, addressed=True)
    assert read_edit(event, ME) == gone
    # A root with replies becomes a tombstone.
    tomb = {"type": "message", "subtype": "tombstone", "user": "USLACKBOT", "text": "gone", "ts": TS, "thread_ts": TS}
    changed = {**event, "subtype": "message_changed", "message": tomb}
    del changed["deleted_ts"]
    assert read_edit(changed, ME) == gone


def test_files_are_named() -> None:
    read = prompt(message("<@UBOT>", subtype="file_share", files=[{"name": "a.png"}, {"title": "b"}]))
    assert read.text == "(Attached: a.png, b)"
    assert read.files == ()  # of neither did Slack say what it is


FILE = {
    "id": "F1", "name": "a.png", "mimetype": "image/png", "size": 7, "mode": "hosted",
    "url_private": "https://files.slack.com/p", "url_private_download": "https://files.slack.com/d",
}  # fmt: skip


def test_files_come_with_the_prompt() -> None:
    shared = {"id": "F2", "mode": "file_access", "file_access": "check_file_info"}
    drive = {"id": "F3", "title": "plan", "is_external": True, "url_private": "https://drive.example/plan"}
    gone = {"id": "F4", "mode": "tombstone"}
    read = prompt(message("<@UBOT> look", subtype="file_share", files=[FILE, shared, drive, gone]))
    assert read.files == (
        Attached("F1", "a.png", "image/png", 7, "https://files.slack.com/d"),
        Attached("F2", "file"),
        Attached("F3", "plan"),
    )


def test_an_edit_tells_which_files_are_left() -> None:
    before = message("<@UBOT> look", files=[FILE, {**FILE, "id": "F2", "name": "b.png"}])
    after = {**before, "files": [FILE], "edited": {"ts": "1700000009.000000"}}
    event = {"subtype": "message_changed", "channel": "C1", "message": after, "previous_message": before}
    amendment = read_edit(event, ME)
    assert amendment is not None
    assert amendment.text == "look\n\n(Attached: a.png)"
    assert [file.id for file in amendment.files] == ["F1"]


def test_an_aside_only_names_its_files() -> None:
    said = read_message(message("<@U2> look", thread_ts="1.1", subtype="file_share", files=[FILE]), ME)
    assert isinstance(said, Said)
    assert said.markup == "<@U2> look\n\n(Attached in Slack, not readable from here: a.png)"


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
        ("#include <stdio.h> <h1>Hi</h1> <!DOCTYPE html> <std::string> <br/> <>",)
        * 2,  # a command's text is not escaped
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
        ("repo=app.web fix it", "fix it", "app.web", None),
        ("branch=b repo=app fix it", "fix it", "app", "b"),
        ("repo=Name fix it", "repo=Name fix it", None, None),
    ],
)
def test_repository_and_branch(raw: str, text: str, repository: str | None, branch: str | None) -> None:
    read = prompt(message(f"<@UBOT> {raw}"))
    assert (read.text, read.repository, read.branch) == (text, repository, branch)


@pytest.mark.parametrize(
    ("word", "meant"),
    [("stpo", "stop"), ("STOPP", "stop"), ("hlep", "help"), ("stats", "status"), ("sesions", "sessions")],
)
def test_a_slip_of_the_finger_starts_nothing(word: str, meant: str) -> None:
    assert command(word) == Misspelt(word, meant)
    assert isinstance(command(f"{word} the music"), Prompt)


@pytest.mark.parametrize("word", ["hello", "test", "refactor", "ship", "continue"])
def test_other_single_words_are_prompts(word: str) -> None:
    assert isinstance(command(word), Prompt)


def test_distances() -> None:
    assert [distance(*pair) for pair in (("", "abc"), ("abc", "acb"), ("abc", "abc"), ("ab", "xy"))] == [3, 1, 0, 2]
    assert nearest("", ("help",)) is None


def command(text: str) -> Prompt | Subcommand | Misspelt:
    body = {"text": text, "user_id": "U1", "channel_id": "C1", "trigger_id": "1.2.abc"}
    return read_command(body, ME, "1700000001.000000")


@pytest.mark.parametrize("text", ["", "  ", "help", " HELP ", "repo=https://x/y"])
def test_flow_alone_is_help(text: str) -> None:
    assert command(text) == Subcommand("help", "U1", "C1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("stop", "stop"),
        ("Stop!", "stop"),
        ("stop all", "stop all"),
        ("Stop everything, please", "stop all"),
        ("stop the server from crashing", "stop what"),
        ("stop: allow nothing", "stop what"),
    ],
)
def test_a_command_that_begins_with_stop_starts_nothing(text: str, name: str) -> None:
    assert command(text) == Subcommand(name, "U1", "C1")


@pytest.mark.parametrize("name", ["status", "new", "sessions"])
def test_subcommands_are_single_words(name: str) -> None:
    assert command(name) == Subcommand(name, "U1", "C1")
    read = command(f"{name} the server from crashing")
    assert isinstance(read, Prompt)
    assert read.text == f"{name} the server from crashing"


def test_a_command_opens_a_thread_to_come() -> None:
    assert command("do &lt;it&gt;") == Prompt(
        ThreadId("T1", "C1", None), "cmd:1.2.abc", "1700000001.000000", "U1", "do <it>", True
    )
