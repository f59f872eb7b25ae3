"""What one worklet is to be beyond the settings: from its template, its repository's configuration, its channel.

A profile only tightens what the settings allow. Whoever makes one has seen to that; the runtime takes the lower of
its own limit and the profile's all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from worklets.startup import Startup

LEAST_MEMORY = 256 << 20  # bytes: an idle Claude Code has 180 MiB
LEAST_CPUS = 0.01  # processors: the engine takes less than its finest step for no limit at all


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose worklet it is. `session_id` is a uuid, `template` the id of one, `startup_script` a name.

    `work_branch`: the session's own in the repository. `forked`: its volume began as a copy of another session's.
    """

    session_id: str
    user_id: str
    channel: str
    repository: str | None = None
    branch: str | None = None
    template: str | None = None
    startup_script: str | None = None
    work_branch: str | None = None
    forked: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """None, or nothing: as the settings say. `base`: the image that its `image` is to be made on.

    `memory` in bytes, `cpus` in processors, `pids` processes and threads. `env` goes to Claude's process: no secret
    that Claude may not see. `grants`: what lies behind its door to the gateway, by subject (`ModelGateway.open`).
    `mcp_servers`: as the CLI's --mcp-config has them, by name; `mcp_aliases`: of those, the built-in ones under another
    name, with that of the built-in one; `mcp_identities`: of all, what each really is (worklets/mcpidentity.py).
    `allowed`: the CLI's rules for tools; None: all of them.
    `instructions`: added to Claude's system prompt. `turn_timeout`: seconds that a turn may work. `startup`: what runs
    in a new volume before Claude. `notes`: what the thread is told when the worklet is new, as sentences; `missing`:
    what it is told whenever Claude's process starts, since it may be there the next time.
    """

    image: str | None = None
    base: str | None = None
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    grants: Mapping[str, Any] = field(default_factory=dict)
    mcp_servers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mcp_aliases: Mapping[str, str] = field(default_factory=dict)
    mcp_identities: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] | None = None
    instructions: str = ""
    turn_timeout: float | None = None
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    startup: Startup | None = None


class Profiles(Protocol):
    """Where the worklets' host learns what a worklet is to be."""

    async def learn(self, name: str, origin: Origin, checkout: Path) -> None:
        """Reads the configuration of the repository that was cloned for worklet `name`, before it is moved inside.

        What the agent does to it later changes nothing. Raises WorkletError, in words for people.
        """

    async def of(self, name: str, origin: Origin) -> Profile:
        """The profile of worklet `name`, which is about to run. Raises WorkletError, in words for people."""

    async def forked(self, source: str, name: str) -> None:
        """Worklet `name` has a copy of `source`'s volume: what was learned holds for it too. Raises WorkletError."""

    async def ended(self, name: str, origin: Origin) -> None:
        """The worklet runs no more; what was made for it alone may go. Idempotent; raises nothing."""


class AsTheSettingsSay:
    """`Profiles` where nothing but the settings counts."""

    async def learn(self, name: str, origin: Origin, checkout: Path) -> None: ...

    async def of(self, name: str, origin: Origin) -> Profile:  # noqa: ARG002
        return Profile()

    async def forked(self, source: str, name: str) -> None: ...

    async def ended(self, name: str, origin: Origin) -> None: ...
