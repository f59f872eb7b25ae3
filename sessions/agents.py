"""The seam to the worklets, as sessions see it: who opens agents, and what an open agent can do.

`worklets/host.py` and `worklets/agent.py` satisfy these; tests use a scripted pair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from worklets.events import AgentEvent, Position
from worklets.permissions import Permissions
from worklets.pictures import Picture
from worklets.profile import Origin, Profile
from worklets.relaydial import Answer
from worklets.runtime import Worklet


class AgentLike(Protocol):
    """One Claude Code process, seen through its relay."""

    @property
    def epoch(self) -> str:
        """Names the relay process: positions count within it."""

    @property
    def worklet_id(self) -> str:
        """The container's id."""

    @property
    def earlier(self) -> Sequence[tuple[Position, Sequence[AgentEvent]]]:
        """What a lost predecessor had still written after the position: batches of older epochs."""

    @property
    def ending(self) -> str | None:
        """Why the predecessor ended, as the beginning of a sentence for people; None when there is nothing to tell."""

    @property
    def new_volume(self) -> bool:
        """The volume was made for this process: the conversation so far is not on it."""

    @property
    def behind(self) -> bool:
        """`events` is yet to give some of what its journal held when it was opened."""

    @property
    def profile(self) -> Profile:
        """What its worklet is beyond the settings."""

    async def forget_earlier(self) -> None:
        """All of `earlier` is stored. Until then it is given again at each `open`."""

    def events(self) -> AsyncIterator[tuple[Position, Sequence[AgentEvent]]]:
        """What the agent says, batch by batch, from the position it was opened at; each with its place in the journal.

        Ends after AgentExited. Raises AgentGone when the relay is lost for good. Iterated once.
        """

    async def ready(self) -> None:
        """Returns when a prompt can be given. Raises what kept it: AgentGone, or another WorkletError."""

    async def send(
        self, prompt_id: str, text: str, context: Sequence[str] = (), pictures: Sequence[Picture] = ()
    ) -> None:
        """Hands a prompt over, after what Claude should know and see first. Raises AgentGone.

        One process runs a `prompt_id` (a uuid) once, however often it is sent.
        """

    async def interrupt(self, timeout: float = 10.0) -> None:
        """Asks the CLI to end the running turn; returns when it said yes. Raises AgentGone, TimeoutError."""

    async def request(self, subtype: str, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:
        """A control request and its reply. Raises AgentGone, TimeoutError, AgentRefused."""

    async def allow(
        self, request_id: str, tool_input: Mapping[str, Any] | None = None, mode: str | None = None
    ) -> None:
        """Says yes to an `Asked`, with another input and in another CLI mode where given. Raises AgentGone.

        Harmless when repeated, and when nobody waits for it any more.
        """

    async def deny(self, request_id: str, reason: str) -> None:
        """Says no to an `Asked`; Claude reads why. As harmless as `allow`. Raises AgentGone."""

    async def terminate(self) -> None:
        """Tells the process to end; `events` tells when it has. Raises AgentGone."""

    async def ack(self, position: Position) -> None:
        """Everything up to `position` is stored: the relay may drop it."""

    async def close(self) -> None:
        """Lets go of the agent; it works on."""


class AgentHost(Protocol):
    """Where agents live: worklets by name. A name's volume (workspace and HOME) outlives its container."""

    async def open(
        self,
        name: str,
        *,
        claude_session_id: str,
        has_history: bool,
        position: Position | None,
        fence: int,
        env: Mapping[str, str],
        repository: str | None,
        branch: str | None,
        worklet_id: str | None,
        origin: Origin | None,
        permissions: Permissions,
        prompted: bool,
        still_owned: Callable[[], Awaitable[object]],
        on_step: Callable[[str], None],
    ) -> AgentLike:
        """The agent of the running worklet, from `position` on; or of a new one on the same volume.

        A running worklet of another epoch tells from its first line. A new one goes on with the conversation that its
        volume holds; what its predecessor had still written after `position` is its `earlier`. The repository is
        cloned only into a new volume, and `permissions` are those of a new process. `on_step` is told
        what takes a while ("cloning", "starting", "waking"); attaching says nothing. `fence` grows with each owner of
        the session: the relay refuses lower ones. `worklet_id`, a uuid, names its data (`WorkletData`); `origin`
        says whose it is (`worklets.profile`). `prompted`: Claude is asked something at once. `still_owned`
        raises where the session is another's by now: asked before a worklet is ended that does not answer. Whoever
        cancels it calls `close`. Raises WorkletError.
        """

    async def close(self, name: str, grace: float = 5.0) -> str | None:
        """Ends the worklet politely, within `grace` seconds, and removes its container; the volume stays. Idempotent.

        Returns why it had ended already, as the beginning of a sentence for people. Raises WorkletError.
        """

    async def rest(self, name: str, fence: int) -> bool:
        """Ends Claude's process and lets its worklet go on; `open` starts another. False: it cannot be done.

        Whoever is attached has to let go first. Idempotent. Raises WorkletError.
        """

    async def allow_spending(self, name: str, dollars: float | None, spent: float = 0.0, of: str = "") -> None:
        """What the worklet may still spend on the model, whoever asks inside; None: as much as it takes.

        `spent` is what the account has already of what the turn `of` has cost; what the gateway counted of that turn
        beside it stays counted.
        """

    async def copy(self, source: str, name: str) -> None:
        """Gives worklet `name`, which never ran, a copy of `source`'s volume. Idempotent. Raises WorkletError."""

    async def introduce(self, name: str, author: str, email: str) -> None:
        """Whose commits git makes in the worklet from now on. Raises nothing."""

    async def grant(self, name: str, subject: str, grant: Any) -> None:
        """What the worklet may have of one subject from now on (`worklets.gatewayroutes`). Raises WorkletError."""

    async def taken(self, name: str, paths: Sequence[str]) -> set[str]:
        """Those of the paths in the running worklet's workspace at which something stands. Raises WorkletError."""

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        """Copies files into the running worklet's workspace, each to its `<directory>/<name>`. Raises WorkletError."""

    async def destroy(self, name: str) -> None:
        """`close`, and the volume goes too. Idempotent. Raises WorkletError."""

    async def running(self) -> Mapping[str, Worklet]:
        """The running worklets of this instance by name. Raises RuntimeUnavailable."""

    async def answers(self, name: str, seconds: float = 10.0) -> Answer:
        """Whether the relay of that running worklet does, in so many seconds. Raises nothing."""

    async def standing(self) -> Mapping[str, Worklet]:
        """`running`, and those that have ended and whose container was not removed. Raises RuntimeUnavailable."""

    async def kept(self) -> Mapping[str, datetime | None]:
        """All that have a volume or a host directory, and when each was used last, as far as it can be told.

        Raises RuntimeUnavailable.
        """

    async def sweep(self) -> None:
        """Removes what killed programs left in the middle of their work. Raises WorkletError."""


class WorkletData(Protocol):
    """What worklets keep beside their volumes: the key-value store, by the worklet's id, which is its session's."""

    async def begin(self, worklet_id: str, user_id: str, name: str) -> None:
        """A worklet of that user is about to run. Returns soon, and raises nothing when the store is away. Idempotent.

        `name` is for people who look into the store.
        """

    async def end(self, worklet_id: str) -> None:
        """It runs no more: what let it in is void. Returns soon, and raises nothing."""

    async def retire(self, worklet_id: str) -> None:
        """Its volume is removed; what goes with that goes for good. Idempotent. Raises FlowError."""

    async def remove(self, worklet_id: str) -> None:
        """All of it goes for good. Idempotent. Raises FlowError."""

    async def sweep(self) -> None:
        """Removes what has expired. Raises FlowError."""


class NoData:
    """`WorkletData` of worklets that keep nothing beside their volumes."""

    async def begin(self, worklet_id: str, user_id: str, name: str) -> None: ...

    async def end(self, worklet_id: str) -> None: ...

    async def retire(self, worklet_id: str) -> None: ...

    async def remove(self, worklet_id: str) -> None: ...

    async def sweep(self) -> None: ...
