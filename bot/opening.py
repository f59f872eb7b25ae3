"""The message that opens the thread of a slash command. Pure."""

from __future__ import annotations

from bot.below import person
from bot.markdown import clean, clip
from bot.parts import ROOT, Part, context, section
from sessions.brought import split_brought
from sessions.types import Session, Turn
from worklets.git import without_password

_QUOTE_ROOM = 2_600


def root_part(session: Session, turn: Turn) -> Part:
    """The message that opens the thread of a slash command: who asked, and what, without what was brought along."""
    asked, brought = split_brought(turn.text)
    quoted = "\n".join(f">{line}" for line in _first_lines(clip(clean(asked), _QUOTE_ROOM), 60))
    blocks = [section(f"{person(turn.user_id)} asked:\n{quoted}")]
    if brought:
        blocks.append(context(f"With a {brought} of another conversation, which is not shown here."))
    if session.template_name:
        blocks.append(context(f"Started from the template `{_in_code(session.template_name)}`"))
    if session.repository:
        branch = f", branch `{_in_code(session.branch)}`" if session.branch else ""
        blocks.append(context(f"Repository `{_in_code(without_password(session.repository))}`{branch}"))
    return Part(ROOT, tuple(blocks), f"{person(turn.user_id)} asked: {clip(clean(asked), 1_000)}", True)


def _first_lines(text: str, limit: int) -> list[str]:
    lines = text.splitlines()
    return lines if len(lines) <= limit else [*lines[:limit], "…"]


def _in_code(text: str) -> str:
    return clip(clean(text).replace("`", "'"), 300)
