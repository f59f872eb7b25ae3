"""The seam to the worklets, as sessions see it: who opens agents, and what an open agent can do.

`worklets/host.py` and `worklets/agent.py` satisfy these; tests use a scripted pair.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

from worklets.events import AgentEvent, Position
from worklets.runtime import Worklet


class AgentLike(Protocol):
    """One Claude Code process, seen through its relay."""

    @property
    def epoch(self) -> str:
        """Names the relay process: positions count within it."""

    @property
    def worklet_id(self) -> str:
        """The container's id."""

    def events(self) -> AsyncIterator[tuple[Position, Sequence[AgentEvent]]]:
        """What the agent says, batch by batch, from the position it was opened at; each with its place in the journal.

        Ends after AgentExited. Raises AgentGone when the relay is lost for good. Iterated once.
        """

    async def send(self, prompt_id: str, text: str) -> None:
        """Hands a prompt over. The CLI runs a `prompt_id` (a uuid) once, however often it is sent. Raises AgentGone."""

    async def interrupt(self, timeout: float = 10.0) -> None:
        """Asks the CLI to end the running turn; returns when it said yes. Raises AgentGone, TimeoutError."""

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
        on_step: Callable[[str], None],
    ) -> AgentLike:
        """The agent of the running worklet, from `position` on; or of a new one on the same volume.

        A running worklet of another epoch tells from its first line. A new one goes on with the conversation that its
        volume holds, and tells first what its predecessor had still written after `position`: batches of the old
        epoch. The repository is cloned only into a new volume. `on_step` is told what takes a while ("cloning",
        "starting", "waking"); attaching says nothing. `fence` grows with each owner of the session: the relay
        refuses lower ones. Raises WorkletError.
        """

    async def close(self, name: str) -> None:
        """Ends the worklet politely and removes its container; the volume stays. Idempotent. Raises WorkletError."""

    async def destroy(self, name: str) -> None:
        """`close`, and the volume goes too. Idempotent. Raises WorkletError."""

    async def running(self) -> Mapping[str, Worklet]:
        """The running worklets of this instance by name. Raises RuntimeUnavailable."""
