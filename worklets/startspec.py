"""What a worklet and its Claude are started with: command line, environment, limits, from settings and profile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from worklets.claude import claude_command, claude_env, system_prompt
from worklets.egress import EgressPolicy
from worklets.egressgrants import SUBJECT as EGRESS
from worklets.identity import Identity
from worklets.mirrors import Mirrors
from worklets.permissions import Permissions, narrowed
from worklets.profile import Profile
from worklets.runtime import Runtime, WorkletSpec


@dataclass(frozen=True, slots=True)
class Opening:
    """What a session's process is started with, or a waiting one told, beyond its profile: see `WorkletHost.open`."""

    claude_session_id: str
    worklet_id: str | None
    fence: int
    env: Mapping[str, str]
    permissions: Permissions
    prompted: bool


class StartSpecs:
    """One per program. `model` is the CLI's --model, `file_limit` the bytes that Claude may send in one file."""

    def __init__(
        self,
        runtime: Runtime,
        identity: Identity,
        mirrors: Mirrors,
        egress: EgressPolicy,
        *,
        model: str | None,
        file_limit: int,
        previews: bool,
    ) -> None:
        self._runtime, self._identity, self._mirrors, self._egress = runtime, identity, mirrors, egress
        self._model, self._file_limit, self._previews = model, file_limit, previews

    async def of(self, name: str, opening: Opening, profile: Profile) -> WorkletSpec:
        """For a process of worklet `name` that is this session's from its start."""
        env = given(opening, profile)
        return await self.make(name, opening.claude_session_id, env, opening.permissions, profile)

    async def make(
        self, name: str, claude_session_id: str, env: Mapping[str, str], permissions: Permissions, profile: Profile
    ) -> WorkletSpec:
        """`env`: all that Claude's process has beside Flow's own."""
        reach = self._egress.granted(profile.grants.get(EGRESS))
        command = claude_command(
            claude_session_id,
            model=self._model,
            append_system_prompt="\n\n".join(filter(None, (system_prompt(reach), profile.instructions))),
            sender=self._runtime.sender(name, self._file_limit, previews=self._previews),
            permissions=permitted(permissions, profile),
            mcp_servers=profile.mcp_servers,
        )
        if (startup := profile.startup) is not None:
            command = (*self._runtime.starter(), f"{startup.seconds:g}", startup.name, *command)
            env = {**env, "FLOW_STARTUP_SCRIPT": startup.text} if startup.text is not None else env
        return WorkletSpec(
            name=name,
            command=command,
            token=self._identity.token("relay", name),
            env=claude_env(self._identity.token("gateway", name), env),
            egress=self._egress.mode != "none",
            image=profile.image,
            memory=profile.memory,
            cpus=profile.cpus,
            pids=profile.pids,
            mirror=await asyncio.to_thread(self._mirrors.objects_of, name),
        )


def permitted(permissions: Permissions, profile: Profile) -> Permissions:
    """What of a session's permissions its profile leaves."""
    return narrowed(permissions, profile.allowed, profile.mcp_servers, profile.mcp_aliases, profile.mcp_identities)


def given(opening: Opening, profile: Profile) -> dict[str, str]:
    """What Claude's process has in its environment beside Flow's own."""
    worklet_id = opening.worklet_id
    return {**opening.env, **profile.env, **({"FLOW_WORKLET_ID": worklet_id} if worklet_id else {})}
