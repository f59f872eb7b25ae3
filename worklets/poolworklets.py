"""Worklets of the pool, from this side of their relays: started for nobody, then bound to a session that they fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from worklets import spare
from worklets.agent import Agent
from worklets.attaching import Attaching
from worklets.comingup import ComingUp
from worklets.errors import AgentGone, AgentRefused, WorkletStartFailed
from worklets.mcpservers import wants_browser
from worklets.monitor import Monitor
from worklets.opendoors import OpenDoors
from worklets.permissions import Permissions
from worklets.profile import Profile
from worklets.resting import Resting
from worklets.room import Room
from worklets.runtime import Runtime, Worklet, WorkletSpec
from worklets.shielded import Shielded
from worklets.startspec import Opening, StartSpecs, given, permitted

_ALL = Permissions()


class Unfit(Exception):
    """The worklet was started for nobody, and cannot become what its session's profile says."""


class PoolWorklets:
    """One per program. Which worklets are of the pool is known by their marks (`worklets.spare`)."""

    def __init__(
        self,
        runtime: Runtime,
        share_dir: Path,
        room: Room,
        monitor: Monitor,
        coming_up: ComingUp,
        shielded: Shielded,
        specs: StartSpecs,
        doors: OpenDoors,
        attaching: Attaching,
        resting: Resting,
    ) -> None:
        self._runtime, self._share_dir, self._room, self._monitor = runtime, share_dir, room, monitor
        self._coming_up, self._shielded = coming_up, shielded
        self._specs, self._doors, self._attaching, self._resting = specs, doors, attaching, resting

    async def pattern(self) -> str:
        """What a worklet that is started now is like: of those with the same, each can stand for another.

        Raises RuntimeUnavailable, ImageMissing.
        """
        spec = await self._specs.make("any", "any", {}, _ALL, Profile())
        env = {key: value for key, value in spec.env.items() if key != "ANTHROPIC_API_KEY"}  # its own token
        return spare.pattern(spec.command, env, spec.egress, await self._runtime.fingerprint())

    async def prepare(self, name: str, claude_session_id: str, *, awake: bool) -> None:
        """Starts worklet `name`; returns when its Claude answers, or, not `awake`, has ended. Raises WorkletError."""
        await self._room.require()
        try:
            await asyncio.to_thread(spare.mark, self._share_dir, name)
        except OSError as error:
            raise WorkletStartFailed(f"Flow cannot write {self._share_dir}: {error.strerror or error}.") from error
        spec = await self._specs.make(name, claude_session_id, {}, _ALL, Profile())
        async with self._coming_up.place(last=True):
            with self._monitor.timed("prepare"):
                await self._prepared(name, spec)
        if not awake:
            await self._resting.rest(name, fence=0)

    async def _prepared(self, name: str, spec: WorkletSpec) -> None:
        worklet = await self._shielded.to_its_end(name, self._runtime.start(replace(spec, spare=True)))
        agent = await self._attaching.new(worklet, fence=0)
        try:
            await spare.warm_up(agent)
        except TimeoutError as error:
            raise WorkletStartFailed("Claude's process does not answer.") from error
        finally:
            await agent.close()

    async def bind(self, worklet: Worklet, opening: Opening, profile: Profile, on_step: Callable[[str], None]) -> Agent:
        """The agent of a worklet of the pool, which is told whose it is. Raises Unfit, WorkletError."""
        agent = None
        if await self._fits(worklet.name, profile):
            agent = await self._bound(worklet, opening, profile)
        elif not await self._resting.rest(worklet.name, opening.fence):
            raise Unfit
        if agent is None:
            on_step("starting")
            agent = await self._resting.rouse(worklet, opening, None, profile)
            self._monitor.handouts["cold"] += 1
        agent.new_volume = True
        return agent

    async def _bound(self, worklet: Worklet, opening: Opening, profile: Profile) -> Agent | None:
        """The agent of the process that was started for nobody. None: it rests. Raises WorkletError."""
        agent = await self._attaching.running(worklet, None, opening.fence)
        if agent.resting or agent.exited:
            await agent.close()
            if agent.resting:
                return None
            raise AgentGone
        agent.profile = profile
        agent.hold_prompts(self._become(agent, worklet, opening))
        return agent

    async def _become(self, agent: Agent, worklet: Worklet, opening: Opening) -> None:
        """Tells a Claude that was started for nobody whose it is; opens its door. Raises AgentGone, WorkletError."""
        profile = agent.profile
        telling = spare.bind(agent, given(opening, profile), permitted(opening.permissions, profile))
        with self._monitor.timed("bind"):
            try:
                await asyncio.gather(telling, self._doors.open(worklet, opening.worklet_id, profile))
            except TimeoutError as error:
                raise AgentGone("Claude's process does not answer.") from error
            except AgentRefused as error:
                raise AgentGone(str(error)) from error
        self._monitor.handouts["warm"] += 1

    async def _fits(self, name: str, profile: Profile) -> bool:
        """Whether the Claude of a worklet that was started without a profile can become what this one says.

        Permissions can be told to a running one, grants belong to the door. What a profile has for Claude's
        environment is for Claude itself and its MCP servers too, and these keep what they were started with. Raises
        Unfit where not even the worklet can: an image is for good, and so may its limits be.
        """
        wanted = await self._specs.make(name, "any", {}, _ALL, replace(profile, allowed=None))
        plain = await self._specs.make(name, "any", {}, _ALL, Profile())
        another = profile.base is not None or wants_browser(profile.mcp_servers)
        if another or _fixed(wanted) != _fixed(plain):
            raise Unfit
        memory, cpus, pids = profile.memory, profile.cpus, profile.pids
        own = (memory, cpus, pids) == (None, None, None)
        if not own and not await self._runtime.resize(name, memory=memory, cpus=cpus, pids=pids):
            raise Unfit
        return not profile.env and wanted.command == plain.command


def _fixed(spec: WorkletSpec) -> WorkletSpec:
    """What of it cannot be changed in a container that runs."""
    return replace(spec, env={}, command=(), memory=None, cpus=None, pids=None)
