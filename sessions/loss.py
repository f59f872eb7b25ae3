"""What the loss of Claude's process in the middle of a turn means for the turn. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID, uuid5

from config.units import format_size
from sessions.transcript import Entry
from sessions.types import Failed, TurnId
from worklets.errors import AgentGone, WorkletError
from worklets.events import AgentEvent, AgentExited, DiskFull, Restarted, Text, ToolFinished, ToolStarted
from worklets.failures import exit_clause

#: Tools that change nothing outside Claude's own notes. Whatever else has run is not run again without asking.
HARMLESS = frozenset(
    {"Read", "Grep", "Glob", "TaskCreate", "TaskUpdate", "TaskList", "TaskGet"}
    | {"AskUserQuestion", "EnterPlanMode", "ExitPlanMode"}
)
_PLANS = "/.claude/plans/"  # where the CLI has Claude write its plan

GONE = "Claude's container is gone"

_WRITTEN = 30_000  # characters of what Claude had written that it is reminded of


class Exited(AgentGone):
    """The process ended, and its relay saw how."""

    def __init__(self, exited: AgentExited) -> None:
        super().__init__(exit_clause(exited, None) + ".")
        self.exited = exited


def disk_full(full: DiskFull) -> Failed:
    """How a turn ends whose worklet wrote more than it may."""
    if full.crowded:
        return Failed(f"{disk_clause(full)}. Ask an administrator to make room there, then write again.")
    return Failed(
        f"{disk_clause(full)}. Write again and have Claude delete what is not needed, or ask an administrator "
        "to raise FLOW_WORKLET_DISK."
    )


def disk_clause(full: DiskFull) -> str:
    used, limit = format_size(full.used), format_size(full.limit)
    if full.crowded:
        return "Claude's worklet was stopped, because it wrote on while the machine's disk is nearly full"
    if full.measured:
        return f"Claude's worklet was stopped, because its disk is full ({used} of {limit})"
    return (
        "Claude's worklet was stopped, because it left no room to measure its disk, which may have come to "
        f"{used} of {limit}"
    )


def ending(lost: WorkletError, known: str | None) -> str:
    """Why the process was lost, as the beginning of a sentence. `known`: what its runtime says."""
    return exit_clause(lost.exited, known) if isinstance(lost, Exited) else known or str(lost).rstrip(".")


def again_id(turn_id: TurnId, epoch: str) -> str:
    """The uuid under which a turn's prompt goes to the process that took a lost one's place.

    Not the turn's own: a resumed CLI calls a prompt completed as soon as it had begun to answer it, finished or not.
    """
    return str(uuid5(UUID(turn_id), f"again {epoch}"))


def side_effect(events: Sequence[AgentEvent], never_begun: Collection[str] = ()) -> str | None:
    """What ran, or had run, that may have changed something: "while it ran `make`". None: nothing of the kind.

    `never_begun`: tool calls that wait for people, or that were not allowed.
    """
    started = [event for event in events if isinstance(event, ToolStarted) and not _is_harmless(event)]
    started = [event for event in started if event.tool_id not in never_begun]
    if not started:
        return None
    finished = {event.tool_id for event in events if isinstance(event, ToolFinished)}
    running = [event for event in started if event.tool_id not in finished]
    # Of a sub-agent and its tools, the tool says most.
    if running:
        return f"while it ran {_named(running[-1])}"
    return f"after it had run {_named(started[-1])}"


def note(events: Sequence[AgentEvent]) -> str:
    """For the new process: what was lost, and what people have seen already."""
    written = "\n\n".join(event.text for event in events if isinstance(event, Text))
    lost = (
        "[From Flow, not from a person: your process was lost while you worked on the message below, and this is a new "
        "one. "
    )
    if not written:
        return lost + "Nobody has seen a word of an answer. Answer it now.]"
    if len(written) > _WRITTEN:
        written = "[…] " + written[-_WRITTEN:]
    return (
        lost
        + "People have seen what you had written until then, which stands between the lines. Go on right after it, "
        "and do not repeat it; if it was complete, say so in a few words.\n"
        f"-----\n{written}\n-----]"
    )


def restarted_in(entries: Sequence[Entry], epoch: str) -> bool:
    """The process of that epoch was told to go on with the turn that `entries` are of."""
    return any(isinstance(entry.event, Restarted) and entry.epoch == epoch for entry in entries)


def _is_harmless(tool: ToolStarted) -> bool:
    return tool.name in HARMLESS or (tool.name in ("Write", "Edit") and _PLANS in str(tool.input.get("file_path", "")))


def _named(tool: ToolStarted) -> str:
    given: Any = {"Bash": "command", "Write": "file_path", "Edit": "file_path"}.get(tool.name)
    subject = " ".join(str(tool.input.get(given, "")).split()).replace("`", "'") if given else ""
    if not subject:
        return "a sub-agent" if tool.name in ("Agent", "Task") else tool.name
    short = subject if len(subject) <= 80 else subject[:79] + "…"
    return f"`{short}`" if tool.name == "Bash" else f"{tool.name} on `{short}`"
