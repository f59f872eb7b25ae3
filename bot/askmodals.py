"""The modals of asks, and what people put into them as decisions. Pure.

A modal carries the ask's id in `private_metadata`, and nothing else: what was asked is in the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bot.asking import PICK, options_of
from bot.asksubject import Question, questions, subject
from bot.markdown import clean
from bot.parts import Block, context
from bot.plaintext import clip_code, plain_text, preformatted
from sessions.asks import Ask, Decision

#: Callback ids.
WHY, ANSWERS, COMMENT = "ask_why", "ask_answers", "ask_comment"

_INPUT = "text"
_TEXT_LIMIT = 3_000  # of a plain-text input (docs.slack.dev)
_LABEL = 1_900
_MOST_QUESTIONS = 30
_CODE_ROOM = 2_900  # of one block of the modal that shows all
_VIEW_BYTES = 200_000  # of a view's JSON; Slack takes 250 kB
_CODE_BLOCKS = 90


def why_modal(ask_id: str) -> Block:
    """For *Deny and say why*."""
    asked = _text_input(_INPUT, "What should Claude do instead, and why?")
    return _modal("Deny and say why", ask_id, [asked], callback_id=WHY, submit="Deny")


def comment_modal(ask_id: str) -> Block:
    """For *Keep planning*."""
    asked = _text_input(_INPUT, "What should the plan look like?", optional=True)
    return _modal("Keep planning", ask_id, [asked], callback_id=COMMENT, submit="Send")


def answers_modal(ask: Ask, *, own_words: bool = False) -> Block:
    """All questions of the ask; `own_words`: without their choices."""
    blocks: list[Block] = []
    for number, question in enumerate(questions(ask)[:_MOST_QUESTIONS]):
        blocks += _question(number, question, choices=bool(question.options) and not own_words)
    return _modal("Answer Claude", ask.id, blocks, callback_id=ANSWERS, submit="Send")


def _question(number: int, question: Question, *, choices: bool) -> list[Block]:
    """A choice and words of one's own, of which one is needed; without a choice the words are."""
    label = clean(question.text).strip() or "…"
    if not choices:
        return [_text_input(f"words{number}", label)]
    kind = "checkboxes" if question.multiple else "radio_buttons"
    picking: Block = {
        "type": "input",
        "block_id": f"pick{number}",
        "optional": True,
        "label": plain_text(label, _LABEL),
        "element": {"type": kind, "action_id": f"pick{number}", "options": options_of(question)},
    }
    return [picking, _text_input(f"words{number}", "In your own words", optional=True)]


def all_modal(ask: Ask) -> Block:
    """For *Show all*: the whole command, diff or plan, as far as a view can hold it."""
    rest, room = subject(ask).text, _VIEW_BYTES
    blocks: list[Block] = []
    while rest and len(blocks) < _CODE_BLOCKS:
        piece = clip_code(rest, _CODE_ROOM)
        block = preformatted(piece)
        room -= len(json.dumps(block))
        if room < 0:
            break
        if piece.strip():
            blocks.append(block)
        rest = rest[len(piece) :]
    if rest:
        blocks.append(context(f"… and {len(rest):,} more characters, which is more than Slack can show."))
    return _modal("The whole of it", ask.id, blocks or [context("There is nothing in it.")])


def _modal(title: str, metadata: str, blocks: list[Block], *, callback_id: str = "", submit: str = "") -> Block:
    view: Block = {
        "type": "modal",
        "title": {"type": "plain_text", "text": title},
        "close": {"type": "plain_text", "text": "Cancel" if submit else "Close"},
        "private_metadata": metadata,
        "blocks": blocks,
    }
    if submit:
        view |= {"callback_id": callback_id, "submit": {"type": "plain_text", "text": submit}}
    return view


def _text_input(name: str, label: str, *, optional: bool = False) -> Block:
    element = {"type": "plain_text_input", "action_id": name, "multiline": True, "max_length": _TEXT_LIMIT}
    return {
        "type": "input",
        "block_id": name,
        "optional": optional,
        "label": plain_text(label, _LABEL),
        "element": element,
    }


# ---- what people put in ------------------------------------------------------------------------------------------


def missing(view: Mapping[str, Any]) -> dict[str, str]:
    """Block id to a sentence, for the `errors` of the acknowledgement: questions that have no answer."""
    state = _state(view)
    numbers = [name.removeprefix("words") for name in state if name.startswith("words")]
    unanswered = [number for number in numbers if not _words(state, number) and not _picked(state, number)]
    return {
        f"pick{number}" if f"pick{number}" in state else f"words{number}": "Choose an answer, or write one."
        for number in unanswered
    }


def typed_decision(view: Mapping[str, Any]) -> Decision:
    """Of *Deny and say why* and *Keep planning*."""
    return Decision("deny", message=_typed(_state(view).get(_INPUT)))


def answers_decision(ask: Ask, view: Mapping[str, Any]) -> Decision:
    """By each question's text: the labels that were picked, and words of one's own."""
    state, answers = _state(view), {}
    for number, question in enumerate(questions(ask)[:_MOST_QUESTIONS]):
        words = _words(state, str(number))
        labels = _labels(question, _picked(state, str(number)))
        if labels and words:
            answers[question.text] = f"{labels}, {words}" if question.multiple else f"{labels} ({words})"
        elif labels or words:
            answers[question.text] = labels or words
    return Decision("allow", answers=answers)


def choice_decision(ask: Ask, number: int) -> Decision | None:
    """One of a single question's options. None: it has no such option."""
    question = questions(ask)[0]
    if not 0 <= number < len(question.options):
        return None
    return Decision("allow", answers={question.text: question.options[number].label})


def picked_decision(ask: Ask, values: Mapping[str, Any]) -> Decision | None:
    """The check boxes of the message; `values` as in a payload's state. None: none is ticked."""
    question = questions(ask)[0]
    ticked: Mapping[str, Any] = next((actions[PICK] for actions in values.values() if PICK in actions), {})
    labels = _labels(question, _values(ticked))
    return Decision("allow", answers={question.text: labels}) if labels else None


def _labels(question: Question, picked: list[int]) -> str:
    return ", ".join(question.options[n].label for n in picked if 0 <= n < len(question.options))


def _state(view: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Action id to its state; block ids are the same as action ids here."""
    values = (view.get("state") or {}).get("values") or {}
    return {name: state for actions in values.values() for name, state in actions.items()}


def _words(state: Mapping[str, Mapping[str, Any]], number: str) -> str:
    return _typed(state.get(f"words{number}"))


def _picked(state: Mapping[str, Mapping[str, Any]], number: str) -> list[int]:
    return _values(state.get(f"pick{number}") or {})


def _typed(state: Mapping[str, Any] | None) -> str:
    return clean(str((state or {}).get("value") or "")).strip()


def _values(state: Mapping[str, Any]) -> list[int]:
    one = state.get("selected_option")
    chosen = state.get("selected_options") or ([one] if one else [])
    return [int(option["value"]) for option in chosen if str(option.get("value", "")).isdecimal()]
