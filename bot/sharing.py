"""`share #channel`: the last answer of a thread, in another place."""

from __future__ import annotations

import asyncio

from bot.below import person
from bot.controls import answer
from bot.door import Door
from bot.listing import title
from bot.parts import Part, context, fallback, plain, sectioned
from bot.refusals import Meaning, place_sentence, refusal
from bot.renderer import TurnView
from bot.threadwords import Word
from config.logging import get_logger
from sessions.events import Settled
from sessions.types import Done, Session, Turn
from worklets.events import Text

log = get_logger(__name__)
_TRIES = 5
_LONGEST = 60.0  # seconds between two tries


async def share(door: Door, session: Session, word: Word) -> str:
    """What does not fit into one message goes on in the thread below it."""
    verdict = await door.access.decide(word.user_id, word.argument)
    if not verdict.allowed:
        return door.access.sentence(verdict)
    if refused := await _refused_there(door, word):
        return refused
    turns = [turn for turn in await door.sessions.turns(session.id) if turn.state.settled]
    for turn in reversed(turns):
        if text := await answer(door, turn):
            return await _post(door, session, word, turn, text)
    return "There is no answer in this thread yet that could be shared."


async def _refused_there(door: Door, word: Word) -> str:
    """Why this person must not have us write there; empty: they may. A word about it that only they can see is refused
    where they are no member: so no scope is needed to learn that, of private channels either."""
    try:
        await door.client.chat_postEphemeral(
            channel=word.argument, user=word.user_id, text="You have me share an answer here."
        )
    except Exception as error:
        told = refusal(error)
        if told.error == "user_not_in_channel":
            return f"You are not in <#{word.argument}>, so I do not write there for you. Join it, then share again."
        if told.meaning in (Meaning.CHANNEL, Meaning.OTHER):
            return place_sentence(told.error)
        raise
    return ""


async def _post(door: Door, session: Session, word: Word, turn: Turn, text: str) -> str:
    view = TurnView()
    view.apply(Text(text))
    view.apply(Settled(Done()))
    head = context(f"{person(word.user_id)} shared from {title(session, door.me)}")
    first: str | None = None
    for part in view.parts():
        if first is None:
            part = Part(part.index, (head, *part.blocks), part.text, True)
        try:
            ts = await _say(door, word.argument, first, part)
        except Exception as error:
            told = refusal(error)
            if first is None and told.meaning in (Meaning.CHANNEL, Meaning.OTHER):
                return place_sentence(told.error)
            raise
        first = first or ts
    log.info("an answer is shared", turn=turn.id, channel=word.argument, by=word.user_id)
    return f"Shared in <#{word.argument}>."


async def _say(door: Door, channel: str, thread_ts: str | None, part: Part) -> str:
    """The blocks, or the same words as simpler ones where Slack does not take them."""
    for form in (part, sectioned(part), plain(part)):
        try:
            return await _posted(door, channel, thread_ts, form)
        except Exception as error:
            if refusal(error).meaning is not Meaning.CONTENT or form == plain(part):
                raise
            log.warning("Slack refuses a shared answer's blocks; putting it more simply", error=refusal(error).error)
    raise AssertionError("unreachable")


async def _posted(door: Door, channel: str, thread_ts: str | None, form: Part) -> str:
    """The new message's ts. What Slack refuses for its pace is tried again when Slack says so, a few times."""
    for left in reversed(range(_TRIES)):
        try:
            posted = await door.client.chat_postMessage(
                channel=channel, thread_ts=thread_ts, text=form.text or fallback(list(form.blocks)),
                blocks=list(form.blocks) or None, unfurl_links=False, unfurl_media=False,
            )  # fmt: skip
        except Exception as error:
            told = refusal(error)
            if told.meaning is not Meaning.LIMITED or not left:
                raise
            log.info("sharing waits for Slack's limit", seconds=told.seconds)
            await asyncio.sleep(min(told.seconds, _LONGEST))
        else:
            return str(posted["ts"])
    raise AssertionError("unreachable")
