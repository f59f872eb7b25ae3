"""What a worklet of the pool is before it is somebody's: started for nobody, and marked so until it is started anew."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worklets.permissions import Permissions
from worklets.rundir import worklet_dir

if TYPE_CHECKING:
    from worklets.agent import Agent

_READY_SECONDS = 30.0  # for a process on a busy machine
_MARK = "spare"  # beside `run`, where the agent cannot write


def mark(share_dir: Path, name: str) -> None:
    """What runs under that name from now on was started for nobody. Raises OSError, WorkletStartFailed."""
    directory = worklet_dir(share_dir, name)
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(exist_ok=True)
    (directory / _MARK).touch()


def unmark(share_dir: Path, name: str) -> None:
    """What runs from now on was started for a session. Raises OSError."""
    (worklet_dir(share_dir, name) / _MARK).unlink(missing_ok=True)


def is_marked(share_dir: Path, name: str) -> bool:
    """Whether what runs under that name was started for nobody."""
    return (worklet_dir(share_dir, name) / _MARK).exists()


def pattern(command: Sequence[str], env: Mapping[str, str], egress: bool, runtime: str) -> str:
    """Worklets that were started alike have the same one. `runtime`: how the runtime would start one now."""
    from importlib.metadata import version

    content = json.dumps([version("flow-slack"), list(command), sorted(env.items()), egress, runtime])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


async def warm_up(agent: Agent) -> None:
    """Has a Claude that was just started get ready for its first prompt; returns when it is.

    The reply to `initialize` is of no use to us, but the CLI loads what it needs for it: the first prompt then
    reaches the model in less than half the time, with the same request (measured, 2.1.329). Raises AgentGone,
    AgentRefused, TimeoutError.
    """
    await agent.request("initialize", timeout=_READY_SECONDS)


async def bind(agent: Agent, env: Mapping[str, str], permissions: Permissions) -> None:
    """Tells a Claude that was started for nobody whose it is. Idempotent. Raises AgentGone, AgentRefused, TimeoutError.

    The CLI gives the settings' `env` to its tools (measured, 2.1.329), and keeps it when settings without it follow.
    """
    await asyncio.gather(
        agent.request("apply_flag_settings", settings={**permissions.settings(), "env": dict(env)}),
        agent.request("set_permission_mode", mode=permissions.cli_mode),
    )
