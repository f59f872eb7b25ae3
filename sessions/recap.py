"""What was said in a thread so far, as one text: for a Claude that has lost its memory, and for the archive. Pure.

The newest turn is given in full as far as there is room, older ones ever shorter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sessions.types import Turn, TurnId, TurnState
from worklets.events import AgentEvent, Text, ToolStarted

_SHORT = 400  # characters of a prompt, or of an answer, in an older turn
_LEFT_OUT = "({} older messages are left out.)"
_TOOLS = 12  # calls that are named for one turn
_ENDS = {
    TurnState.FAILED: "(this turn failed: {error})",
    TurnState.INTERRUPTED: "(somebody stopped this turn)",
    TurnState.CUT: "(this turn was cut off: {error})",
}


def recap(turns: Sequence[Turn], events: Mapping[TurnId, Sequence[AgentEvent]], limit: int) -> str:
    """Who said what, in order, in at most `limit` characters; "" when nothing was said.

    `turns` in their order; a turn without `events` is told by its prompt alone. Taken-back turns are left out.
    """
    told = [turn for turn in turns if turn.state is not TurnState.WITHDRAWN]
    parts: list[str] = []
    room = limit
    for age, turn in enumerate(reversed(told)):
        said = events.get(turn.id, ())
        part = _turn(turn, said, None)
        if age and len(part) > room - limit // 2:  # half of the room is for older turns
            part = _turn(turn, said, _SHORT)
        older = len(told) - age - 1
        spare = room - (len(_LEFT_OUT.format(older)) + 4 if older else 0)
        if len(part) > spare:
            if age:
                parts.append(_LEFT_OUT.format(older + 1))
                break
            part = _shortened(part, spare if spare > 0 else room)
        parts.append(part)
        room -= len(part) + 2
    return "\n\n".join(reversed(parts))[-limit:]


def _turn(turn: Turn, said: Sequence[AgentEvent], most: int | None) -> str:
    return "\n".join(_lines(turn, said, most))


def _lines(turn: Turn, said: Sequence[AgentEvent], most: int | None) -> Iterator[str]:
    yield f"<@{turn.user_id}>: {_shortened(turn.text, most)}"
    answer = "\n\n".join(event.text for event in said if isinstance(event, Text))
    if tools := [_tool(event) for event in said if isinstance(event, ToolStarted) and event.parent is None]:
        more = f" and {len(tools) - _TOOLS} more" if len(tools) > _TOOLS else ""
        yield f"(tools you called: {', '.join(tools[:_TOOLS])}{more})"
    if answer:
        yield f"You: {_shortened(answer, most)}"
    if end := _ENDS.get(turn.state):
        yield end.format(error=(turn.error or "").rstrip("."))


def _tool(event: ToolStarted) -> str:
    """`Bash (make test)`: the name, and the argument that says most."""
    known = ("command", "file_path", "pattern", "description", "url", "query")
    subject = next((str(event.input[key]) for key in known if event.input.get(key)), "")
    return f"{event.name} ({_shortened(' '.join(subject.split()), 80)})" if subject else event.name


def _shortened(text: str, most: int | None) -> str:
    """Both ends of it, when it is too long."""
    if most is None or len(text) <= most:
        return text
    mark = " […] "
    if most <= len(mark):
        return text[:most]
    head = (most - len(mark)) * 2 // 3
    return text[:head] + mark + text[len(text) - (most - len(mark) - head) :]
