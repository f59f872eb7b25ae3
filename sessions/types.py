"""The values that sessions are made of. All frozen; times are aware UTC datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType, TypeAlias

SessionId = NewType("SessionId", str)  # uuid4, also Claude's own session id at the first start
TurnId = NewType("TurnId", str)  # uuid4, also the uuid of the prompt on the wire (makes re-sending harmless)


@dataclass(frozen=True, slots=True)
class ThreadId:
    """Where a conversation takes place. `thread_ts` is the root message's ts, a string, never a float.

    None: the thread is yet to be opened (a slash command carries no ts; the door posts the root and calls
    `Sessions.opened`).
    """

    team: str
    channel: str
    thread_ts: str | None


@dataclass(frozen=True, slots=True)
class Attached:
    """A file that came with a message. `id` and `url` are the door's, to fetch it by; `size` in bytes (0: unknown)."""

    id: str
    name: str
    mimetype: str = ""
    size: int = 0
    url: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What somebody asked, as a door submits it.

    `source_id` names the asking message once and for all, e.g. "C1:1700000000.000100" (channel and ts) or
    "cmd:<trigger id>"; with the thread it is the key under which a redelivery is recognised. `ts` gives the
    order among turns ("<seconds>.<6 digits>"). `starts` False: only continues a session that exists.
    `repository`, `branch`, `model`, `mode`, `template` (an id) and `startup_script` are for the session that it starts.
    `sole`, a beginning of `source_id`: not stored while the session has an open turn whose source id begins so.
    """

    thread: ThreadId
    source_id: str
    ts: str
    user_id: str
    text: str
    starts: bool = True
    repository: str | None = None
    branch: str | None = None
    model: str | None = None
    mode: str | None = None
    template: str | None = None
    startup_script: str | None = None
    files: tuple[Attached, ...] = ()
    sole: str | None = None


class SessionState(StrEnum):
    """What the row's `status` says. live = WAITING to WORKING; a container may exist from STARTING on."""

    NEW = "new"  # never had a worklet
    WAITING = "waiting"  # wants a place among max_sessions
    STARTING = "starting"
    IDLE = "idle"  # worklet runs, nothing to do
    WORKING = "working"
    ASLEEP = "asleep"  # no worklet; volume and history stay


class TurnState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    WITHDRAWN = "withdrawn"  # taken back before it began
    CUT = "cut"  # lost with its worklet after it had changed something: the thread asks how to go on

    @property
    def settled(self) -> bool:
        return self not in (TurnState.QUEUED, TurnState.RUNNING)


@dataclass(frozen=True, slots=True)
class Session:
    id: SessionId
    user_id: str
    name: str  # title: the first words of the first prompt
    state: SessionState
    thread: ThreadId
    worklet: str  # name of the worklet and its volume
    container_id: str | None
    claude_session_id: str
    has_history: bool  # Claude took a prompt in: the next start resumes
    repository: str | None
    branch: str | None
    startup_script: str | None
    epoch: str | None  # position in the relay's journal of all that is stored
    seq: int
    created_at: datetime
    updated_at: datetime
    last_activity_at: datetime
    retired_at: datetime | None = None  # its volume was removed: the next start has a new one, and only the transcript
    summary: str | None = None  # of a transcript that was archived
    model: str | None = None  # the CLI's name of it; None: the one that Flow was started with
    fork_of: str | None = None  # Claude's id of the conversation that it goes on from, on a copy of its volume
    mode: str | None = None  # permission mode: auto, ask or plan; None: as the settings say
    mode_before: str | None = None  # of plan: the mode that an approved plan goes back to
    template: str | None = None  # id of the template that it was started from
    template_name: str | None = None  # as it was then


@dataclass(frozen=True, slots=True)
class Turn:
    id: TurnId
    session_id: SessionId
    source_id: str
    ts: str
    user_id: str
    text: str
    state: TurnState
    error: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    delivered: bool  # the door has shown the final state
    stopped_by: str | None = None  # user id, of an interrupted or withdrawn turn
    hurried: bool = False  # goes before the others that wait
    attempts: int = 0  # processes that were given the prompt
    stop_asked: str | None = None  # user id ("" for nobody in particular): whoever runs the turn is to end it
    level: str | None = None  # how much of it is shown (sessions/options.py); None: as is usual
    mention: bool = False  # its end mentions who asked

    @property
    def seconds(self) -> float | None:
        """From its start to its end; None while it is open, and for one that never started."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class Done:
    """Claude answered."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn failed; `reason` is a sentence for people, with what to do next."""

    reason: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Somebody stopped the turn."""

    by: str | None = None  # user id


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The turn was taken back before it began."""

    by: str | None = None  # user id


@dataclass(frozen=True, slots=True)
class Cut:
    """The worklet was lost in the middle, after a tool had run that may have changed something.

    `reason` is a sentence for people. How to go on is theirs to say: `Sessions.resume`.
    """

    reason: str


Outcome: TypeAlias = Done | Failed | Interrupted | Withdrawn | Cut


def outcome_of(turn: Turn) -> Outcome | None:
    """How a stored turn ended; None while it is open."""
    match turn.state:
        case TurnState.DONE:
            return Done()
        case TurnState.FAILED:
            return Failed(turn.error or "The turn failed.")
        case TurnState.INTERRUPTED:
            return Interrupted(turn.stopped_by)
        case TurnState.WITHDRAWN:
            return Withdrawn(turn.stopped_by)
        case TurnState.CUT:
            return Cut(turn.error or "The turn was cut off.")
        case TurnState.QUEUED | TurnState.RUNNING:
            return None


@dataclass(frozen=True, slots=True)
class Aside:
    """What somebody said in a thread without asking anything of Claude; given to it with the next turn.

    `source_id` and `ts` are as in `Prompt`; `author` is a name for Claude.
    """

    thread: ThreadId
    source_id: str
    ts: str
    user_id: str
    author: str
    text: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a prompt. `fresh` False: this source id was known already, nothing was done."""

    session: Session
    turn: Turn
    fresh: bool
    new_session: bool
