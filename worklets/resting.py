"""Worklets whose Claude's process has ended while they go on: put to rest, and roused with another process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from worklets import rest, spare
from worklets.agent import Agent
from worklets.attaching import Attaching
from worklets.comingup import ComingUp
from worklets.errors import AgentGone
from worklets.events import Position
from worklets.identity import Identity
from worklets.link import Refused
from worklets.monitor import Monitor
from worklets.opendoors import OpenDoors
from worklets.predecessor import keep_tail
from worklets.profile import Profile
from worklets.runtime import Runtime, Worklet
from worklets.startspec import Opening, StartSpecs

if TYPE_CHECKING:
    from worklets.sidecars import Sidecars

log = structlog.get_logger(__name__)


class Resting:
    """One per program."""

    def __init__(
        self,
        runtime: Runtime,
        share_dir: Path,
        identity: Identity,
        sidecars: Sidecars | None,
        monitor: Monitor,
        coming_up: ComingUp,
        specs: StartSpecs,
        doors: OpenDoors,
        attaching: Attaching,
    ) -> None:
        self._runtime, self._share_dir, self._identity, self._sidecars = runtime, share_dir, identity, sidecars
        self._monitor, self._coming_up = monitor, coming_up
        self._specs, self._doors, self._attaching = specs, doors, attaching

    async def rest(self, name: str, fence: int) -> bool:
        """Ends Claude's process and lets its worklet go on. False: it cannot be done. Raises WorkletError.

        Whoever is attached has to let go first. Idempotent.
        """
        found = await self._runtime.find(name)
        if found is None or not found.running:
            return False
        try:
            await rest.rest(found.run_dir, self._identity.token("relay", name), fence)
        except Refused:
            raise
        except AgentGone as error:  # its relay is of an older image, say
            log.info("Claude's process goes on: it cannot be put to rest", worklet=name, reason=str(error))
            return False
        if self._sidecars is not None:
            await self._sidecars.end(name)
        return True

    async def rouse(self, worklet: Worklet, opening: Opening, position: Position | None, profile: Profile) -> Agent:
        """The agent of a new process in a worklet in which none runs. Raises WorkletError."""
        with self._monitor.timed("rouse"):
            async with self._coming_up.place() as coming:
                await self._runtime.gather(worklet.name)
                tail = await asyncio.to_thread(keep_tail, worklet.run_dir, position)
                spec = await self._specs.of(worklet.name, opening, profile)
                await self._doors.open(worklet, opening.worklet_id, profile)
                await asyncio.to_thread(spare.unmark, self._share_dir, worklet.name)
                await rest.wake(worklet.run_dir, spec.token, opening.fence, spec.command, spec.env)
                agent = await self._attaching.running(worklet, None, opening.fence)
                if opening.prompted and profile.startup is None:
                    coming.until_heard(agent)
        if profile.startup is not None:
            await self._attaching.set_up(agent, worklet, profile.startup.seconds)
        agent.earlier, agent.profile = tail.batches, profile
        return agent
