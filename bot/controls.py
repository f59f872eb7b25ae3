"""*Retry*, *Continue*, *Copy as file* and an opinion, below an answer that is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from slack_bolt.async_app import AsyncApp

from bot.below import COPY, DOWN, GO_ON, RETRY, UP
from bot.door import Ack, Door, Respond
from bot.errors import sentence_for
from bot.refusals import place_sentence, refusal
from bot.upload import upload
from config.logging import get_logger
from sessions.types import Attached, Prompt, Session, Turn, TurnId
from worklets.events import Text

log = get_logger(__name__)

_GO_ON = "Continue."
_OPINIONS = {
    True: "👍 Noted, thank you.",
    False: "👎 Noted, thank you. Reply in the thread to say what should be different, and I will do it again.",
}

#: Does it for the person, and says what became of it. The last argument names the press.
Act = Callable[[Door, Turn, str, str], Awaitable[str]]


def register(app: AsyncApp, door: Door) -> None:
    def button(action_id: str, act: Act) -> None:
        async def pressed(ack: Ack, body: dict[str, Any], action: dict[str, Any], respond: Respond) -> None:
            await ack()
            door.after.start(_press(door, act, action, str(body["user"]["id"]), respond), action_id)

        app.action(action_id)(pressed)

    button(RETRY, retry)
    button(GO_ON, go_on)
    button(COPY, copy)
    button(UP, _opinion(True))
    button(DOWN, _opinion(False))


async def _press(door: Door, act: Act, action: dict[str, Any], user_id: str, respond: Respond) -> None:
    """A press that Slack tells of twice counts once: `action_ts` names it."""
    try:
        turn = await door.sessions.turn(TurnId(str(action.get("value", ""))))
        text = await act(door, turn, user_id, str(action.get("action_ts") or door.ts()))
    except Exception as error:  # noqa: BLE001 - worded for the person who pressed
        text = sentence_for(error, "a button below an answer")
    if text:
        await respond(text=text, response_type="ephemeral", replace_original=False)


async def retry(door: Door, turn: Turn, user_id: str, press: str) -> str:
    """The same prompt again, with its files, as a new turn."""
    files = await door.sessions.store.files.attached(turn.id)
    return await _ask(door, turn, _Again("retry", turn.text, files), user_id, press, "I will answer that anew, below.")


async def go_on(door: Door, turn: Turn, user_id: str, press: str) -> str:
    return await _ask(door, turn, _Again("continue", _GO_ON), user_id, press, "I will go on, below.")


@dataclass(frozen=True, slots=True)
class _Again:
    """What is asked by a button."""

    kind: str
    text: str
    files: tuple[Attached, ...] = ()


async def _ask(door: Door, turn: Turn, again: _Again, user_id: str, press: str, said: str) -> str:
    """A second press while the first one's turn is open was a double click, or somebody else's."""
    session = await door.sessions.get(turn.session_id)
    kind = f"{again.kind}:{turn.id}:"
    prompt = Prompt(
        session.thread, kind + press, door.ts(), user_id, again.text, starts=False, files=again.files, sole=kind
    )
    submitted = await door.sessions.submit(prompt)
    if submitted is None:
        return "This thread has no session any more. Mention me in a new message to start one."
    log.info("asked by a button", turn=turn.id, by=user_id, new=submitted.turn.id, fresh=submitted.fresh)
    if submitted.fresh:
        return said
    return "" if submitted.turn.source_id == prompt.source_id else "I am at that already, below."


async def copy(door: Door, turn: Turn, user_id: str, press: str) -> str:
    """The answer's Markdown as a file in the thread: Slack has no private files there."""
    if not door.acted.first(f"copy {turn.id} {press}") or not door.acted.first(f"copying {turn.id}"):
        return ""
    try:
        return await _copy(door, turn, user_id)
    finally:
        door.acted.forget(f"copying {turn.id}")


async def _copy(door: Door, turn: Turn, user_id: str) -> str:
    session = await door.sessions.get(turn.session_id)
    text = await answer(door, turn)
    if not text:
        return "There are no words in this answer to copy."
    log.info("an answer is copied", turn=turn.id, by=user_id)
    try:
        await _upload(door, session, text)
    except Exception as error:
        told = refusal(error)
        if told.error == "missing_scope":
            return "The app may not write files here. Ask whoever runs me to install it again with its newest manifest."
        if told.error in ("not_in_channel", "is_archived", "channel_not_found"):
            return place_sentence(told.error)
        raise
    return ""


async def answer(door: Door, turn: Turn) -> str:
    """All that Claude said in the turn, as Markdown; empty when it said nothing."""
    said: list[str] = []
    cursor = 0
    while page := await door.sessions.transcript.read(turn.session_id, turn_id=turn.id, after=cursor):
        said += [entry.event.text for entry in page if isinstance(entry.event, Text)]
        cursor = page[-1].cursor
    return "\n\n".join(text.strip("\n") for text in said if text.strip())


async def _upload(door: Door, session: Session, text: str) -> None:
    thread = session.thread
    content = (text + "\n").encode("utf-8", "replace")
    await upload(door.client, thread.channel, thread.thread_ts, "answer.md", content, "The answer, as Markdown")


def _opinion(good: bool) -> Act:
    async def rate(door: Door, turn: Turn, user_id: str, _press: str) -> str:
        await door.sessions.controls.rate(turn.id, user_id, good)
        log.info("an opinion of an answer", turn=turn.id, by=user_id, good=good)
        return _OPINIONS[good]

    return rate
