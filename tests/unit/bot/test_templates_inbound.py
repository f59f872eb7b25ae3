"""How templates are named in what people write."""

from __future__ import annotations

from typing import Any

import pytest

from bot.inbound import EmptyMention, Identity, Misspelt, StartFrom, Subcommand, read_command, read_edit, read_message
from sessions.types import Prompt

ME = Identity("T1", "UBOT", "B1")


def said(text: str) -> Any:
    event = {"type": "app_mention", "channel": "C1", "ts": "1.000001", "user": "U1", "text": f"<@UBOT> {text}"}
    return read_message(event, ME)


def command(text: str) -> Any:
    body = {"text": text, "user_id": "U1", "channel_id": "C1", "trigger_id": "7.8"}
    return read_command(body, ME, "1.000000")


@pytest.mark.parametrize(
    ("text", "template", "left", "branch"),
    [
        ("template=review look at it", "review", "look at it", None),
        ("template=Review.API_2", "review.api_2", "", None),
        ("branch=dev template=review look", "review", "look", "dev"),
        ("template=review look branch=dev", "review", "look", "dev"),
        ("set template=blue in the file", None, "set template=blue in the file", None),
        ("template=../x look", None, "template=../x look", None),
        ("template= look", None, "template= look", None),
        ("xtemplate=review look", None, "xtemplate=review look", None),
        ("branch=dev look", None, "branch=dev look", None),
    ],
)
def test_a_template_is_named_at_the_beginning(text: str, template: str | None, left: str, branch: str | None) -> None:
    for read in (said(text), command(text)):
        assert isinstance(read, Prompt)
        assert (read.template, read.text, read.branch) == (template, left, branch)


def test_with_a_repository_of_its_own() -> None:
    read = said("template=review repo=<https://host/a/b.git> look")
    assert (read.template, read.repository, read.text) == ("review", "https://host/a/b.git", "look")
    assert isinstance(said(""), EmptyMention)


@pytest.mark.parametrize(
    ("text", "words"),
    [("templates", ""), ("Templates api  login", "api  login"), ("start", "")],
)
def test_the_list_is_asked_for(text: str, words: str) -> None:
    read = command(text)
    assert isinstance(read, Subcommand)
    assert (read.name, read.words) == ("templates", words)


def test_what_is_for_claude() -> None:
    assert isinstance(command("templates for all of our pages, please"), Prompt)
    assert command("template new") == Subcommand("template new", "U1", "C1")
    assert command("templtes") == Misspelt("templtes", "templates")
    read = command("start review repo=https://host/a.git fix it")
    assert isinstance(read, StartFrom)
    assert (read.prompt.template, read.prompt.text, read.prompt.repository) == (
        "review",
        "fix it",
        "https://host/a.git",
    )
    assert (read.plain.template, read.plain.text) == (None, "start review fix it")
    assert isinstance(command("start, and then stop the server"), Prompt)


def test_an_edit_that_leaves_only_the_name_is_none() -> None:
    def edit(before: str, after: str) -> Any:
        event = {
            "subtype": "message_changed", "channel": "C1", "ts": "2.0",
            "previous_message": {"user": "U1", "ts": "1.0", "text": f"<@UBOT> {before}"},
            "message": {"user": "U1", "ts": "1.0", "text": f"<@UBOT> {after}", "edited": {"ts": "2.0"}},
        }  # fmt: skip
        return read_edit(event, ME)

    assert edit("template=review", "template=other") is None
    assert edit("template=review look", "template=review look closer").text == "look closer"
    assert edit("look", "").text is None
