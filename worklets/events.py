"""What an agent says, as frozen values: the `AgentEvent` union, and its JSON form for the transcript.

`worklets/wire.py` makes them from the CLI's output lines; sessions store the durable ones and hand all of
them to observers. Text comes twice: `TextDelta` is a preview that may turn out void (`PreviewVoided`, after
a retried API call), `Text` is the committed block that replaces the preview.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a relay's journal: `seq` counts from 1 within one relay process, named by `epoch`."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class AgentReady:
    """`system/init` of a turn: which conversation, model and CLI version answers."""

    claude_session_id: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class PromptTaken:
    """`command_lifecycle`: what became of the prompt with this uuid."""

    prompt_id: str
    state: str  # queued | started | completed | cancelled | discarded | refused


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More preview text of the main thread."""

    text: str


@dataclass(frozen=True, slots=True)
class PreviewVoided:
    """All preview text since the last `Text` is void: the API call is being repeated."""


@dataclass(frozen=True, slots=True)
class Text:
    """A committed text block of the main thread; replaces the preview."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking block; `text` is empty when it has just begun."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """Claude calls a tool. `parent` is the tool id of the sub-agent's call, None in the main thread."""

    tool_id: str
    name: str
    input: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool call ended. `output` holds at most the last 30,000 characters of what it printed."""

    tool_id: str
    ok: bool
    output: str = ""
    details: dict[str, Any] = field(default_factory=dict)  # e.g. {"exit_code": 1}, {"added": 3, "removed": 1}
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Retrying:
    """The CLI repeats an API call in `delay` seconds. `status` is the HTTP status, None for the network."""

    attempt: int
    max_attempts: int
    delay: float
    status: int | None
    error: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The CLI waits for an answer (`can_use_tool`): a permission, a question or a plan.

    `suggestions` are rules in Claude Code's syntax that would let this and its like through. `by_rule`: an ask rule
    made it ask, which no allow rule overrules in the CLI.
    """

    request_id: str
    tool: str
    input: dict[str, Any]
    tool_id: str
    suggestions: tuple[str, ...] = ()
    by_rule: bool = False


@dataclass(frozen=True, slots=True)
class AskWithdrawn:
    """The CLI no longer waits for that answer (`control_cancel_request`)."""

    request_id: str


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """The CLI's permission mode is this now: "default", "plan", "acceptEdits", "bypassPermissions"."""

    mode: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and US dollars of one turn, all models and sub-agents; `cost` is None when the CLI knows no price."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """One answer of the API has ended. Provisional and without a price: the turn's end tells what all of it cost."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """`result`: the turn is over. `prompt_ids` are the uuids it answered (empty: a turn nobody asked for).

    `outcome` is decided by `is_error` and `terminal_reason`, never by `subtype` (an API error has subtype
    success). `error` is a sentence for people, None unless failed.
    """

    outcome: Literal["done", "failed", "interrupted"]
    prompt_ids: tuple[str, ...]
    usage: Usage
    duration: float  # seconds
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AgentExited:
    """The CLI process ended. `code` is negative for a signal; `stderr` its last 4,000 characters."""

    code: int
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class Restarted:
    """Claude's process was lost in the middle of a turn, and a new one goes on. `reason` is a sentence for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Remark:
    """Flow itself has to say something of the turn: a sentence for people."""

    text: str


@dataclass(frozen=True, slots=True)
class DiskFull:
    """The worklet has written more than it may, and is ended. Bytes.

    Not `measured`: that could not be told any more, and `used` is what it may have come to. `crowded`: it is within
    its limit, and wrote on while the machine's disk was nearly full.
    """

    used: int
    limit: int
    measured: bool = True
    crowded: bool = False


AgentEvent: TypeAlias = (
    AgentReady
    | PromptTaken
    | TextDelta
    | PreviewVoided
    | Text
    | Thinking
    | ToolStarted
    | ToolFinished
    | Retrying
    | Asked
    | AskWithdrawn
    | ModeChanged
    | Spent
    | TurnEnded
    | AgentExited
    | Restarted
    | Remark
    | DiskFull
)

#: Events that the transcript need not keep: the journal gives them again from the last stored position.
PASSING = (TextDelta, PreviewVoided, Retrying, PromptTaken, ModeChanged)

_BY_NAME: dict[str, type[Any]] = {
    c.__name__: c
    for c in (
        AgentReady, PromptTaken, TextDelta, PreviewVoided, Text, Thinking, ToolStarted,
        ToolFinished, Retrying, Asked, AskWithdrawn, ModeChanged, Spent, TurnEnded, AgentExited, Restarted, Remark,
        DiskFull,
    )
}  # fmt: skip


def dump(event: AgentEvent) -> dict[str, Any]:
    """The event as a JSON object with its class name under "type"."""
    return {"type": type(event).__name__, **dataclasses.asdict(event)}


def load(data: dict[str, Any]) -> AgentEvent:
    """The inverse of `dump`. Raises KeyError for an unknown type."""
    data = dict(data)
    cls = _BY_NAME[data.pop("type")]
    if cls in (Spent, TurnEnded):
        data["usage"] = Usage(**data["usage"])
    if cls is TurnEnded:
        data["prompt_ids"] = tuple(data["prompt_ids"])
    if cls is Asked:
        data["suggestions"] = tuple(data.get("suggestions", ()))
    event: AgentEvent = cls(**data)
    return event
