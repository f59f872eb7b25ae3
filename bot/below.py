"""What stands below an answer: its status, how it ended, what it took, and buttons. Pure."""

from __future__ import annotations

import re

from bot.markdown import clean, clip, escape
from bot.parts import Block, Part, actions, button, context, fallback, section
from sessions.types import TurnId
from worklets.events import Usage

# Action ids of the buttons; each has its turn's id as value.
STOP_TURN = "stop_turn"
NOW, TAKE_BACK = "now", "take_back"
CONTINUE, START_OVER, LEAVE = "cut_continue", "cut_again", "cut_leave"
RETRY, GO_ON, COPY = "turn_retry", "turn_continue", "turn_copy"
UP, DOWN = "turn_up", "turn_down"

_NOTE_ROOM = 600


def stop_button(turn_id: TurnId) -> Block:
    return actions(button(STOP_TURN, "Stop", turn_id))


def waiting_buttons(turn_id: TurnId) -> Block:
    return actions(button(NOW, "Now", turn_id), button(TAKE_BACK, "Take back", turn_id))


def finished_buttons(turn_id: TurnId) -> Block:
    """Below an answer that is over. They come with its last edit and stay: an older message costs no edit for them.

    Slack's own feedback_buttons are shown in agent views only for certain, so these are plain ones.
    """
    return actions(
        button(RETRY, "Retry", turn_id),
        button(GO_ON, "Continue", turn_id),
        button(COPY, "Copy as file", turn_id),
        button(UP, "👍", turn_id),
        button(DOWN, "👎", turn_id),
    )


def cut_part(index: int, reason: str, turn_id: TurnId | None) -> Part:
    """The question how to go on, as a message of its own: a new one notifies people, an edit does not."""
    blocks = cut_question(reason, turn_id)
    return Part(index, tuple(blocks), fallback(blocks), True)


def ended_part(index: int, user_id: str, done: bool) -> Part:
    """A short message that notifies who asked."""
    text = f"{person(user_id)} {'That is done.' if done else 'That failed: see above.'}"
    return Part(index, (context(text),), text, True)


def cut_question(reason: str, turn_id: TurnId | None) -> list[Block]:
    """`turn_id` None: it is decided, without buttons."""
    blocks = [section(note(reason))]
    if turn_id is not None:
        blocks.append(
            actions(
                button(CONTINUE, "Continue", turn_id, "primary"),
                button(START_OVER, "Start over", turn_id),
                button(LEAVE, "Leave it", turn_id),
            )
        )
    return blocks


def note(reason: str) -> str:
    """mrkdwn: something went wrong."""
    return f"⚠️ {clip(clean(reason), _NOTE_ROOM)}"


def person(user_id: str) -> str:
    """A mention, if it is an id; what somebody else made up stays text."""
    return f"<@{user_id}>" if re.fullmatch(r"[UW][A-Z0-9]+", user_id) else escape(user_id)


def footer(seconds: float | None, usage: Usage | None, template: str | None = None) -> str:
    """`template`: the name of the one that the session was started from."""
    facts = [] if seconds is None else [_duration(seconds)]
    if usage is not None:
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        if read or usage.output_tokens:
            facts.append(f"{_count(read)} tokens in, {_count(usage.output_tokens)} out")
        if usage.cost is not None:
            facts.append(f"${usage.cost:.2f}" if usage.cost >= 0.005 or usage.cost == 0 else "under $0.01")
    if template is not None:
        facts.append(f"template {clip(clean(template), 60)}")
    return " · ".join(facts)


def _duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _count(tokens: int) -> str:
    if tokens < 10_000:
        return f"{tokens:,}"
    return f"{tokens / 1000:.0f}k" if tokens < 1_000_000 else f"{tokens / 1_000_000:.1f}M"
