"""Modals of asks: Slack takes them, and what is put in comes out as a decision."""

from __future__ import annotations

from typing import Any

import pytest
from bot_asks import CACHE, PARTS, bash, budget, make_ask, plan, question
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.answerers import Answerers
from bot.askmodals import (
    all_modal,
    answers_decision,
    answers_modal,
    choice_decision,
    comment_modal,
    missing,
    picked_decision,
    typed_decision,
    why_modal,
)
from sessions.asks import Ask, Decision
from simulator.inputs import view_values
from simulator.validation import check_view


def sent(view: dict[str, Any], **values: str) -> dict[str, Any]:
    """The view as a submission brings it."""
    check_view(view, "modal")
    return {**view, "state": {"values": view_values(view["blocks"], values)}}


def test_a_reason_and_a_comment() -> None:
    ask = bash()
    view = sent(why_modal(ask.id), text="  not on Friday ")
    assert typed_decision(view) == Decision("deny", message="not on Friday")
    assert (view["private_metadata"], view["callback_id"]) == (ask.id, "ask_why")
    assert typed_decision(sent(comment_modal(ask.id))) == Decision("deny")


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        ({"pick0": "0", "pick1": "0,1"}, {"Which cache?": "Redis", "Which parts?": "Redis, PostgreSQL"}),
        ({"pick0": "1", "words0": "v16", "pick1": "1", "words1": "files"},
         {"Which cache?": "PostgreSQL (v16)", "Which parts?": "PostgreSQL, files"}),
        ({"words0": "none", "words1": "all"}, {"Which cache?": "none", "Which parts?": "all"}),
    ],
)  # fmt: skip
def test_answers(values: dict[str, str], answers: dict[str, str]) -> None:
    ask = question(CACHE, PARTS)
    view = sent(answers_modal(ask), **values)
    assert missing(view) == {}
    assert answers_decision(ask, view) == Decision("allow", answers=answers)


def test_a_question_without_an_answer_is_named() -> None:
    view = sent(answers_modal(question(CACHE, PARTS)), pick1="0", words0="  ")
    assert list(missing(view)) == ["pick0"]
    assert list(missing(sent(answers_modal(question(CACHE), own_words=True)))) == ["words0"]


def test_ones_own_words() -> None:
    ask = question(CACHE)
    view = sent(answers_modal(ask, own_words=True), words0="neither")
    assert answers_decision(ask, view).answers == {"Which cache?": "neither"}


def test_buttons_and_check_boxes() -> None:
    assert choice_decision(question(CACHE), 1) == Decision("allow", answers={"Which cache?": "PostgreSQL"})
    assert choice_decision(question(CACHE), 2) is None
    ticked = {"ask_pick": {"ask_pick": {"selected_options": [{"value": "1"}, {"value": "0"}]}}}
    assert picked_decision(question(PARTS), ticked) == Decision("allow", answers={"Which parts?": "PostgreSQL, Redis"})
    assert picked_decision(question(PARTS), {}) is None
    assert picked_decision(question(PARTS), {"b": {"ask_pick": {"selected_options": []}}}) is None


def test_all_of_a_long_command() -> None:
    command = "".join(f"echo line {n}\n" for n in range(5_000))
    view = all_modal(bash(command))
    check_view(view, "modal")
    texts = [b["elements"][0]["elements"][0]["text"] for b in view["blocks"] if b["type"] == "rich_text"]
    assert "".join(texts) == command


@pytest.mark.parametrize("text", ["x" * 600_000, "\u4e2d" * 200_000, "😀\n" * 90_000, "", " \n" * 9_000])
def test_what_no_view_can_hold(text: str) -> None:
    for ask in (make_ask("Write", {"file_path": "a", "content": text}), plan(text)):
        view = all_modal(ask)
        check_view(view, "modal")
        if len(text) > 150_000:
            assert "more characters" in view["blocks"][-1]["elements"][0]["text"]


_LONG = st.builds(lambda text, times: text * times, st.text(max_size=20), st.sampled_from([1, 1, 50, 500]))
_OPTIONS = st.lists(st.fixed_dictionaries({"label": _LONG, "description": _LONG}), max_size=14)
_QUESTION = st.fixed_dictionaries({"question": _LONG, "options": _OPTIONS, "multiSelect": st.booleans()})


@settings(max_examples=60, deadline=None)
@given(st.lists(_QUESTION, max_size=40), st.booleans(), st.integers(0, 9), st.text(max_size=20))
def test_any_questions_make_a_form(questions: list[dict[str, Any]], own: bool, pick: int, words: str) -> None:
    ask = question(*questions)
    view = answers_modal(ask, own_words=own)
    filled = {f"{name}{n}": value for n in range(40) for name, value in (("pick", str(pick)), ("words", words))}
    decision = answers_decision(ask, sent(view, **filled))
    assert decision.behavior == "allow"
    assert all(answer.strip() for answer in decision.answers.values())


# ---- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answerers", "ask", "may"),
    [
        (Answerers(), bash(), {"U1", "U2"}),
        (Answerers("asker"), bash(), {"U1"}),
        (Answerers("asker", ("U9",)), bash(), {"U1", "U9"}),
        (Answerers("approvers", ("U9",)), bash(), {"U9"}),
        (Answerers("participants", ("U9",)), bash(), {"U1", "U2", "U9"}),
        (Answerers("participants", ("U9",)), budget(), {"U9"}),
        (Answerers(), budget(), {"U1", "U2"}),
    ],
)
def test_who_may_answer(answerers: Answerers, ask: Ask, may: set[str]) -> None:
    turns: list[Any] = [Turn("t", "U1"), Turn("t2", "U2"), Turn("t3", "U1")]
    refused = {user: answerers.refusal(ask, turns, user) for user in ("U1", "U2", "U3", "U9")}
    assert {user for user, refusal in refused.items() if refusal is None} == may
    for refusal in filter(None, refused.values()):
        assert all(f"<@{user}>" in refusal for user in may)


class Turn:
    def __init__(self, turn_id: str, user_id: str) -> None:
        self.id, self.user_id = turn_id, user_id


def test_a_long_list_of_people_is_cut() -> None:
    turns: list[Any] = [Turn(f"t{n}", f"U{n}") for n in range(20)]
    assert "and 15 more" in str(Answerers().refusal(bash(), turns, "UX"))
