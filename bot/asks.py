"""Answers to what Claude asks: buttons, check boxes and modals."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.asking import (
    ALLOW_CHANNEL,
    ALLOW_ONCE,
    ALLOW_SESSION,
    APPROVE,
    APPROVE_EDITS,
    CHOICE,
    DENY,
    DENY_WHY,
    ENOUGH,
    FORM,
    KEEP_PLANNING,
    MORE,
    OWN_WORDS,
    PICK,
    REACH_CHANNEL,
    REACH_ONCE,
    REACH_SESSION,
    SHOW_ALL,
    SUBMIT,
)
from bot.askmodals import (
    ANSWERS,
    COMMENT,
    WHY,
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
from bot.askoutcome import outcome
from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.modals import open_modal
from bot.parts import Block
from config.logging import get_logger
from sessions.asks import Ask, AskClosedAlready, AskId, AskNotFound, Decision

log = get_logger(__name__)

_DECISIONS = {
    ALLOW_ONCE: Decision("allow"),
    ALLOW_SESSION: Decision("allow", "session"),
    ALLOW_CHANNEL: Decision("allow", "channel"),
    DENY: Decision("deny"),
    APPROVE: Decision("allow"),
    APPROVE_EDITS: Decision("allow", mode="acceptEdits"),
    MORE: Decision("allow"),
    ENOUGH: Decision("deny"),
    REACH_ONCE: Decision("allow"),
    REACH_SESSION: Decision("allow", "session"),
    REACH_CHANNEL: Decision("allow", "channel"),
}
_MODALS: dict[str, Callable[[Ask], Block]] = {
    DENY_WHY: lambda ask: why_modal(ask.id),
    KEEP_PLANNING: lambda ask: comment_modal(ask.id),
    FORM: answers_modal,
    OWN_WORDS: lambda ask: answers_modal(ask, own_words=True),
    SHOW_ALL: all_modal,
}
_NOTHING_TICKED = "Tick at least one box first, or answer in your own words."

#: What only the person who pressed is told; "" for nothing.
Private = str
Tell = Callable[[str], Awaitable[None]]


def register(app: AsyncApp, door: Door) -> None:
    async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
        await ack()
        action_id, value, user_id = str(action["action_id"]), str(action.get("value", "")), str(body["user"]["id"])
        if action_id in _MODALS:
            trigger = str(body.get("trigger_id", ""))
            making = _made(door, action_id, AskId(value), user_id)
            door.after.start(open_modal(door.client, trigger, making, _whispering(respond)), "ask")
        else:
            values = (body.get("state") or {}).get("values") or {}
            door.after.start(_told(_press(door, action_id, value, values, user_id), _whispering(respond)), "ask")

    async def ticked(ack: Ack) -> None:
        await ack()  # what is ticked comes with Submit

    async def submitted(ack: Ack, body: dict[str, Any], view: dict[str, Any]) -> None:
        if view["callback_id"] == ANSWERS and (errors := missing(view)):
            await ack(response_action="errors", errors=errors)
            return
        await ack()
        door.after.start(_submit(door, view, str(body["user"]["id"])), "ask")

    app.action(PICK)(ticked)
    for action_id in (*_DECISIONS, *_MODALS, SUBMIT):
        app.action(action_id)(pressed)
    app.action(re.compile(rf"{CHOICE}_\d+"))(pressed)
    for callback_id in (WHY, COMMENT, ANSWERS):
        app.view(callback_id)(submitted)


# ---- buttons -----------------------------------------------------------------------------------------------------


async def _press(door: Door, action_id: str, value: str, values: dict[str, Any], user_id: str) -> Private:
    ask_id, _, number = value.partition(" ")

    def decision(ask: Ask) -> Decision | Private:
        if action_id == SUBMIT:
            return picked_decision(ask, values) or _NOTHING_TICKED
        if number:
            return (choice_decision(ask, int(number)) if number.isdecimal() else None) or "There is no such answer."
        return _DECISIONS[action_id]

    return await _decide(door, AskId(ask_id), user_id, decision)


async def _decide(door: Door, ask_id: AskId, user_id: str, decision: Callable[[Ask], Decision | Private]) -> Private:
    """Raises what `Sessions` raises but AskClosedAlready."""
    ask = await _ask(door, ask_id)
    if not ask.is_open:
        return _late(ask, user_id, decision(ask))
    if (refusal := await _refusal(door, ask, user_id)) is not None:
        return refusal
    made = decision(ask)
    if isinstance(made, str):
        return made
    try:
        await door.sessions.decide(ask.id, made, user_id)
    except AskClosedAlready as error:
        return error.sentence() if error.ask.is_open else _late(error.ask, user_id, made)
    return ""


async def _ask(door: Door, ask_id: AskId) -> Ask:
    ask = await door.sessions.ask(ask_id)
    if ask is None:
        raise AskNotFound
    return ask


async def _refusal(door: Door, ask: Ask, user_id: str) -> str | None:
    refusal = door.answerers.refusal(ask, await door.sessions.turns(ask.session_id), user_id)
    if refusal is not None:
        log.info("somebody who may not answer tried to", ask=ask.id, session=ask.session_id, by=user_id)
    return refusal


def _late(ask: Ask, user_id: str, wanted: Decision | Private) -> Private:
    """Nothing for the second half of a double click."""
    return "" if (ask.decided_by, ask.decision) == (user_id, wanted) else f"That is settled already. {outcome(ask)}"


async def _told(work: Awaitable[Private], tell: Tell) -> None:
    try:
        text = await work
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        text = sentence_for(error, "answering what Claude asked")
    if text:
        await tell(text)


def _whispering(respond: Respond) -> Tell:
    async def tell(text: str) -> None:
        await respond(text=text, response_type="ephemeral", replace_original=False)

    return tell


# ---- modals ------------------------------------------------------------------------------------------------------


async def _made(door: Door, action_id: str, ask_id: AskId, user_id: str) -> Block | Private:
    """The modal, or why there is none."""
    try:
        ask = await _ask(door, ask_id)
        if action_id != SHOW_ALL:
            if not ask.is_open:
                return _late(ask, user_id, "")
            if (refusal := await _refusal(door, ask, user_id)) is not None:
                return refusal
        return _MODALS[action_id](ask)
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        return sentence_for(error, "opening a modal")


async def _submit(door: Door, view: dict[str, Any], user_id: str) -> None:
    """What is to be said goes into the thread, for this person only: a modal that was sent has no place for it."""
    ask_id = AskId(str(view.get("private_metadata", "")))

    def decision(ask: Ask) -> Decision:
        return answers_decision(ask, view) if view["callback_id"] == ANSWERS else typed_decision(view)

    async def whisper(text: str) -> None:
        session = await door.sessions.get((await _ask(door, ask_id)).session_id)
        await door.whisper(session.thread, user_id, text)

    await _told(_decide(door, ask_id, user_id, decision), whisper)
