"""What becomes of the words in bot/threadwords.py. What concerns all is told in the thread, the rest in private."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from bot import egress, rules
from bot.below import person
from bot.door import Door
from bot.errors import sentence_for
from bot.forking import fork
from bot.listing import thread_help
from bot.markdown import clean, clip
from bot.options import set_level
from bot.parts import context, fallback
from bot.refusals import refusal
from bot.sharing import share
from bot.store import WordStore
from bot.threadwords import COMMANDS, LEVELS, Word
from config.logging import bind, get_logger
from sessions.controls import MODELS, MODES
from sessions.costs import Costs, described
from sessions.errors import ShuttingDown, StoreUnavailable
from sessions.options import Level
from sessions.types import Prompt, Session

log = get_logger(__name__)

_NO_SESSION = "There is no session in this thread yet. Mention me with what you want done, and there will be one."
_ASLEEP = (
    "I sleep, or another process runs me, so I cannot look. Mention me with `/context`: that wakes me, and the answer "
    "is for everybody."
)
_MODES = {
    "auto": "I work without asking, inside my container.",
    "ask": "I ask here before I do what changes something.",
    "plan": "I look around and make a plan, and change nothing until it is approved.",
}
#: Does it, and tells the person what it returns, if anything.
Act = Callable[[Door, Session, Word], Awaitable[str]]


async def act_on_word(door: Door, word: Word, *, late: bool) -> None:
    """Acts once on each message. `late`: Slack tells of it again, or it was read after a gap.

    What has a turn or a row of its own is then done if it was not, and a setting is set; what only answers is left.
    Raises StoreUnavailable for the former.
    """
    if not door.acted.first(f"word {word.source_id}"):
        return
    if word.name in COMMANDS:
        try:
            await _command(door, word)
        except Exception:
            door.acted.forget(f"word {word.source_id}")
            raise
    elif not late or _deed(word) is not None:
        door.after.start(_do(door, word), word.name)


async def _command(door: Door, word: Word) -> None:
    """A turn, like any prompt: before Slack hears that the message arrived."""
    asked = Prompt(word.thread, word.source_id, word.ts, word.user_id, COMMANDS[word.name], starts=False)
    if await door.sessions.submit(asked) is None:
        door.after.start(door.whisper(word.thread, word.user_id, _NO_SESSION), word.name)


async def _do(door: Door, word: Word) -> None:
    with bind(thread=word.thread.thread_ts, channel=word.thread.channel):
        try:
            async with door.one_by_one(word.thread) if _deed(word) is not None else nullcontext():
                told = await _said(door, word)
        except Exception as error:  # noqa: BLE001 - worded for the person who wrote
            told = sentence_for(error, f"the word {word.name}")
        if told:
            here = word.thread if word.thread.thread_ts != word.ts else replace(word.thread, thread_ts=None)
            await door.whisper(here, word.user_id, told)


async def _said(door: Door, word: Word) -> str:
    if word.name == "help":
        return thread_help(door.me)
    session = await door.sessions.find(word.thread)
    if session is None:
        return _NO_SESSION
    log.info("a word", word=word.name, argument=word.argument, session=session.id, by=word.user_id)
    deed = _deed(word)
    if deed is None:
        return await _ACTS[word.name](door, session, word)
    return await _once(door, session, word, deed)


def _deed(word: Word) -> str | None:
    """What it changes, for good: each setting, and each fork by itself. None: it only answers, or shares."""
    if word.name == "fork":
        return f"fork {word.ts}"
    if word.name in LEVELS:
        return "level"
    return word.name if word.name in ("model", "mode") and word.argument else None


async def _once(door: Door, session: Session, word: Word, deed: str) -> str:
    """A refusal is an end too: who was told of it may have done something else since. Cut off, it is done again."""
    done = WordStore(door.sessions.store.db)
    if await done.done(session.id, deed, word.ts):
        return ""
    try:
        told = await _ACTS[word.name](door, session, word)
    except (StoreUnavailable, ShuttingDown):
        raise
    except Exception:
        await done.note(session.id, deed, word.ts)
        raise
    await done.note(session.id, deed, word.ts)
    return told


async def _model(door: Door, session: Session, word: Word) -> str:
    if not word.argument:
        return (
            f"I answer with {f'*{session.model}*' if session.model else 'the usual model'}; {_choices('model', MODELS)}"
        )
    await door.sessions.choose_model(session.id, word.argument)
    return await _tell(door, word, f"▸ {person(word.user_id)} chose *{word.argument}*: I answer with it from now on.")


async def _mode(door: Door, session: Session, word: Word) -> str:
    before = door.sessions.policy.mode_of(session)
    if not word.argument:
        return f"The mode is *{before}*: {_MODES[before]} {_choices('mode', MODES).capitalize()}"
    turns = await door.sessions.turns(session.id)
    if refused := door.answerers.loosening_refusal(before, word.argument, turns, word.user_id):
        return refused
    await door.sessions.set_mode(session.id, word.argument, word.user_id)
    told = f"▸ {person(word.user_id)} set the mode to *{word.argument}*: {_MODES[word.argument]}"
    return await _tell(door, word, told)


def _choices(word: str, choices: Sequence[str]) -> str:
    return f"mention me with {', '.join(f'`{word} {one}`' for one in choices)} to change that."


async def _level(door: Door, session: Session, word: Word) -> str:
    told = await set_level(door, "session", session.id, Level(word.name), word.user_id)
    return await _tell(door, word, f"▸ {person(word.user_id)} set it: {told[0].lower()}{told[1:]}")


async def _cost(door: Door, session: Session, _word: Word) -> str:
    spent = await Costs(door.sessions.store.db).of_session(session.id)
    if not spent.tokens:
        return "Nothing was spent in this thread yet."
    turns = "1 answer" if spent.turns == 1 else f"{spent.turns:,} answers"
    read = spent.input_tokens + spent.cache_read_tokens + spent.cache_write_tokens
    return f"This thread: {described(spent)} for {turns} ({read:,} tokens in, {spent.output_tokens:,} out)."


async def _context(door: Door, session: Session, _word: Word) -> str:
    try:
        usage = await door.sessions.ask_agent(session.id, "get_context_usage")
    except TimeoutError:
        return "Claude does not answer just now. Try again in a moment."
    return context_text(usage) if usage is not None else _ASLEEP


def context_text(usage: dict[str, Any]) -> str:
    """mrkdwn, of what the CLI answers to `get_context_usage` (2.1.329). The agent can forge it: nothing is trusted."""
    total, most = _number(usage.get("totalTokens")), _number(usage.get("maxTokens"))
    told = usage.get("categories")
    parts = [one for one in told[:40] if isinstance(one, dict)] if isinstance(told, list) else []
    used = [one for one in parts if one.get("kind") == "used"]
    share = f" ({100 * total / most:.0f} %)" if most else ""
    lines = [f"My memory of this thread holds {total:,} of {most:,} tokens{share}."]
    lines += [f"• {_label(one.get('name'))}: {_number(one.get('tokens')):,}" for one in used]
    return "\n".join([*lines, "`compact` makes room, `clear` begins anew."])


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _label(value: object) -> str:
    return clip(clean(str(value)).replace("\n", " "), 60)


async def _tell(door: Door, word: Word, text: str) -> str:
    """For everybody in the thread; what could not be said there, for the person alone."""
    thread, blocks = word.thread, [context(text)]
    try:
        await door.client.chat_postMessage(
            channel=thread.channel, thread_ts=thread.thread_ts, text=fallback(blocks), blocks=blocks,
            unfurl_links=False, unfurl_media=False,
        )  # fmt: skip
    except Exception as error:  # noqa: BLE001 - it is done; that it cannot be told to all is no reason to say otherwise
        log.warning("cannot tell a thread what was set", error=refusal(error).error)
        return text
    return ""


_ACTS: dict[str, Act] = {
    "model": _model,
    "mode": _mode,
    "cost": _cost,
    "context": _context,
    "egress": egress.tell_in_thread,
    "rules": rules.tell_in_thread,
    "fork": fork,
    "share": share,
    **dict.fromkeys(LEVELS, _level),
}
