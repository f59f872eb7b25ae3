"""Where sessions get their agents: finds, starts, ends worklets by name, with all that belongs to one.

A worklet is a container (or child process), its volume, its host directory, its door to the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worklets import rundir, spare
from worklets.agent import Agent
from worklets.attaching import Attaching
from worklets.comingup import ComingUp
from worklets.egress import EgressPolicy
from worklets.errors import WorkletError
from worklets.events import Position
from worklets.failures import exit_clause
from worklets.files import Outgoing
from worklets.gitgrants import AUTHOR, author_config
from worklets.identity import Identity
from worklets.link import OtherEpoch, Refused
from worklets.mirrors import Mirrors
from worklets.monitor import Monitor
from worklets.newvolume import NewVolumes
from worklets.opendoors import OpenDoors
from worklets.permissions import Permissions
from worklets.poolworklets import PoolWorklets, Unfit
from worklets.predecessor import keep_tail, with_put_aside
from worklets.profile import AsTheSettingsSay, Origin, Profile, Profiles
from worklets.relaydial import Answer, answers
from worklets.resting import Resting
from worklets.room import Room
from worklets.rundir import clear_remains, worklet_dir
from worklets.runtime import Runtime, Worklet
from worklets.shielded import Shielded
from worklets.startspec import Opening, StartSpecs
from worklets.startup import NoScript
from worklets.sweep import Sweep

if TYPE_CHECKING:
    from worklets.gateway import Doors
    from worklets.profileimages import ProfileImages
    from worklets.sidecars import Sidecars

log = structlog.get_logger(__name__)

_ALL = Permissions()
_NOTHING = EgressPolicy()
_GONE = "Claude's container is gone"


class WorkletHost:
    """One per program."""

    def __init__(
        self,
        runtime: Runtime,
        gateway: Doors,
        identity: Identity,
        share_dir: Path,
        *,
        model: str | None = None,
        attach_timeout: float = 30.0,
        mirrors: Mirrors | None = None,
        file_limit: int = 50 << 20,
        egress: EgressPolicy = _NOTHING,
        profiles: Profiles | None = None,
        previews: bool = False,
        monitor: Monitor | None = None,
        images: ProfileImages | None = None,
        room: Room | None = None,
        sidecars: Sidecars | None = None,
        coming_up: ComingUp | None = None,
    ) -> None:
        """`model` is the CLI's --model, `mirrors` bring repositories, `attach_timeout` in seconds.

        `file_limit`: bytes that Claude may send in one file. `egress`: what new worklets are told that they may reach;
        the gateway decides. `profiles`: what worklets are to be beyond all this. `monitor` hears what they use.
        `images` makes those of profiles with a wish of their own; None: that counts for nothing. `room`: whether there
        is any. `sidecars`: where MCP servers with a secret run; None: there are none. `coming_up`: how many start at a
        time.
        """
        self.monitor = monitor or Monitor()
        self.room = room or Room(share_dir)
        self._runtime, self._gateway, self._identity = runtime, gateway, identity
        self._share_dir, self._sidecars, self._images = share_dir, sidecars, images
        self._mirrors = mirrors or Mirrors(share_dir, identity)
        self._profiles: Profiles = profiles or AsTheSettingsSay()
        self._origins: dict[str, Origin] = {}  # of the worklets that were opened here
        self._coming_up = coming_up or ComingUp()
        self._shielded = Shielded()
        self._volumes = NewVolumes(runtime, share_dir, self._mirrors, self._profiles, self._shielded)
        self._specs = StartSpecs(
            runtime, identity, self._mirrors, egress, model=model, file_limit=file_limit, previews=previews
        )
        self._doors = OpenDoors(gateway, share_dir, sidecars)
        self._attaching = Attaching(runtime, identity, self.monitor, attach_timeout)
        self._resting = Resting(
            runtime,
            share_dir,
            identity,
            sidecars,
            self.monitor,
            self._coming_up,
            self._specs,
            self._doors,
            self._attaching,
        )
        self._pool = PoolWorklets(
            runtime,
            share_dir,
            self.room,
            self.monitor,
            self._coming_up,
            self._shielded,
            self._specs,
            self._doors,
            self._attaching,
            self._resting,
        )
        self._sweep = Sweep(runtime, self._mirrors, sidecars)

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
        worklet_id: str | None = None,
        origin: Origin | None = None,
        permissions: Permissions = _ALL,
        prompted: bool = True,
        still_owned: Callable[[], Awaitable[object]] | None = None,
        on_step: Callable[[str], None],
    ) -> Agent:
        """The agent of the running worklet, after `position`; or of a new one on the same volume.

        A running worklet of another epoch than `position`'s is told from its first line: nothing of it was stored.
        A new worklet goes on with the conversation that its volume holds; the agent's `earlier` is what its
        predecessor had still written after `position`. `on_step` is told "cloning" (a new volume only), what
        `Prebuilt.image` tells, then "starting" or, with history, "waking", and "setup". `worklet_id`, a uuid,
        names its key-value store, `origin` says whose it is. `prompted`: Claude is asked something at once, else
        it says nothing. `still_owned` raises where the session is another's by now: asked before a worklet is ended
        that does not answer. Whoever cancels this calls `close`. Raises WorkletError.
        """
        await self._shielded.settle(name)
        if origin is not None:
            self._origins[name] = origin
        opening = Opening(claude_session_id, worklet_id, fence, env, permissions, prompted)
        run_dir = worklet_dir(self._share_dir, name) / "run"
        found = await self._runtime.find(name)
        is_spare = position is None and await asyncio.to_thread(spare.is_marked, self._share_dir, name)
        # Outside of the try: where it cannot be told, because of a setting, say, a Claude at work is not ended.
        profile = await self._profile(name, new=is_spare) if found is not None and found.running else Profile()
        if found is not None and found.running:
            try:
                if is_spare:
                    return await self._pool.bind(found, opening, profile, on_step)
                agent = await self._attach_running(found, opening, position, profile)
                if not agent.exited:
                    if profile.startup is not None:
                        await self._attaching.set_up(agent, found, profile.startup.seconds)
                    return await with_put_aside(agent, run_dir, position)
                await agent.close()  # what it said last is in the journal, which is read below
                if agent.resting:
                    on_step("waking")
                    return await self._resting.rouse(found, opening, position, profile)
            except Refused:
                raise
            except Unfit:
                log.info("a worklet of the pool does not fit and is started anew", worklet=name)
            except WorkletError as error:
                if still_owned is not None:  # relays from before the sealed refusals only hang up on a lower fence
                    await still_owned()
                log.warning("worklet does not answer, starting it anew", worklet=name, error=str(error))
        ending = await self._end(name, found, grace=0) if found is not None else _GONE
        await self.room.require()
        await self._runtime.gather(name)
        tail = await asyncio.to_thread(keep_tail, run_dir, position)
        new_volume = is_spare or not await self._volumes.is_there(name, repository, has_history)
        if repository is not None and new_volume:
            on_step("cloning")
            await self._volumes.bring(name, repository, branch, self._origins.get(name))
        profile = await self._with_image(await self._profile(name, new=new_volume), on_step)
        on_step("waking" if has_history else "starting")
        with self.monitor.timed("wake" if has_history else "start"):
            async with self._coming_up.place() as coming:
                await asyncio.to_thread(spare.unmark, self._share_dir, name)  # not before it waited: it may be given up
                spec = await self._specs.of(name, opening, profile)
                worklet = await self._shielded.to_its_end(name, self._runtime.start(spec))
                await self._doors.open(worklet, worklet_id, profile)
                agent = await self._attaching.new(worklet, fence)
                if prompted and profile.startup is None:  # else it begins minutes later perhaps
                    coming.until_heard(agent)
        if profile.startup is not None:
            if new_volume:
                on_step("setup")
            await self._attaching.set_up(agent, worklet, profile.startup.seconds)
        agent.earlier, agent.new_volume = tail.batches, new_volume
        agent.profile, agent.ending = profile, exit_clause(tail.exited, ending) if tail.exited else ending
        if is_spare:
            self.monitor.handouts["cold"] += 1
        return agent

    async def _profile(self, name: str, *, new: bool = False) -> Profile:
        """`new`: its volume is, so its startup script has not run yet. Raises WorkletError, SecretError."""
        origin = self._origins.get(name)
        if origin is None:
            return Profile()
        try:
            return await self._profiles.of(name, origin)
        except NoScript as error:
            if new:
                raise
            log.warning("a startup script is gone, after it has run", worklet=name, error=str(error))
            return await self._profiles.of(name, replace(origin, startup_script=None))

    async def _with_image(self, profile: Profile, on_step: Callable[[str], None]) -> Profile:
        return profile if self._images is None else await self._images.of(profile, on_step)

    # -- worklets that are started before anybody asks for them ---------------------------------------------------

    @property
    def least_memory(self) -> int:
        """Bytes: to no lower limit can one be set that was started with the runtime's own."""
        return self._runtime.least_memory

    async def pattern(self) -> str:
        """What a worklet that is started now is like: of those with the same, each can stand for another.

        Raises RuntimeUnavailable, ImageMissing.
        """
        return await self._pool.pattern()

    async def prepare(self, name: str, claude_session_id: str, *, awake: bool = True) -> None:
        """Starts worklet `name` for nobody yet; returns when its Claude answers, or, not `awake`, has ended again.

        Whoever opens it under that name, without a position, becomes its owner. Raises WorkletError.
        """
        await self._pool.prepare(name, claude_session_id, awake=awake)

    async def rest(self, name: str, fence: int) -> bool:
        """Ends Claude's process and lets its worklet go on; `open` starts another. False: it cannot be done.

        Whoever is attached has to let go first. Idempotent. Raises WorkletError.
        """
        return await self._resting.rest(name, fence)

    async def close(self, name: str, grace: float = 5.0) -> str | None:
        """Ends the worklet politely and removes its container; the volume stays. Idempotent.

        It has `grace` seconds. Returns why it had ended already: see `Runtime.remove`. Raises WorkletError.
        """
        await self._shielded.settle(name)
        ending = await self._end(name, await self._runtime.find(name), grace)
        await self._doors.close(name)
        if (origin := self._origins.pop(name, None)) is not None:
            await self._profiles.ended(name, origin)
        try:
            await asyncio.to_thread(clear_remains, worklet_dir(self._share_dir, name) / "run")
        except OSError as error:
            log.warning("what a worklet left could not be removed", worklet=name, error=str(error))
        return ending

    async def _end(self, name: str, found: Worklet | None, grace: float) -> str | None:
        """Of one that runs the end is no news; of one that does not, none will be heard of, and the next is."""
        if found is not None and found.running:
            self.monitor.expect_end(name)
        if self._sidecars is not None:
            await self._sidecars.end(name)
        return await self._runtime.remove(name, grace)

    async def answers(self, name: str, seconds: float = 10.0) -> Answer:
        """Whether the relay of that running worklet does, in so many seconds."""
        run_dir = worklet_dir(self._share_dir, name) / "run"
        answer = await answers(run_dir, self._identity.token("relay", name), seconds)
        return Answer.AWAY if answer is Answer.SILENT and not await self._runtime.reaches() else answer

    async def grant(self, name: str, subject: str, grant: Any) -> None:
        """Tells the gateway what the worklet may have of one subject from now on; nothing where it was not opened here.

        Raises WorkletError.
        """
        await self._doors.grant(name, subject, grant)

    async def introduce(self, name: str, author: str, email: str) -> None:
        """Whose commits git makes in the worklet from now on. Raises nothing: work goes on without."""
        run_dir = worklet_dir(self._share_dir, name) / "run"
        try:
            await asyncio.to_thread(rundir.hand_over, run_dir, AUTHOR, author_config(author, email))
        except OSError as error:
            log.warning("git is not told who asks", worklet=name, error=str(error))

    async def allow_spending(self, name: str, dollars: float | None, spent: float = 0.0, of: str = "") -> None:
        """What the worklet may still spend on the model, whoever asks inside; None: as much as it takes.

        `spent` is what is known already of what the turn `of` has cost.
        """
        await self._gateway.limit(name, dollars, spent, of)

    async def copy(self, source: str, name: str) -> None:
        """Gives worklet `name`, which never ran, a copy of `source`'s volume. Idempotent. Raises WorkletError."""
        await self._shielded.to_its_end(name, self._runtime.copy(source, name))
        await self._profiles.forked(source, name)
        await asyncio.to_thread(self._mirrors.forked, source, name)

    async def destroy(self, name: str) -> None:
        """`close`, and the volume goes too. Idempotent. Raises WorkletError."""
        await self.close(name)
        await self._runtime.remove_volume(name)

    async def taken(self, name: str, paths: Sequence[str]) -> set[str]:
        """Those of the paths in the running worklet's workspace at which something stands. Raises WorkletError."""
        return await self._runtime.taken(name, paths)

    async def place(self, name: str, files: Mapping[str, Path]) -> None:
        """Copies files into the running worklet's workspace: see `Runtime.place`. Raises WorkletError."""
        await self._runtime.place(name, files)

    def outgoing(self, name: str) -> Outgoing:
        """What the worklet's agent hands over with `send_file`, also when it has ended."""
        return self._runtime.outgoing(name)

    async def running(self) -> dict[str, Worklet]:
        """The running worklets of this instance by name. Raises RuntimeUnavailable."""
        return {worklet.name: worklet for worklet in await self._runtime.list() if worklet.running}

    async def standing(self) -> dict[str, Worklet]:
        """`running`, and those that have ended and whose container was not removed. Raises RuntimeUnavailable."""
        return {worklet.name: worklet for worklet in await self._runtime.list()}

    async def kept(self) -> dict[str, datetime | None]:
        """All that have a volume or a host directory, and when each was used last, as far as it can be told.

        Raises RuntimeUnavailable.
        """
        used = await asyncio.to_thread(rundir.last_used, self._share_dir)
        return {**dict.fromkeys(await self._runtime.volumes()), **used}

    async def sidecars(self) -> int:
        """How many run beside worklets. Raises WorkletError."""
        return await self._sidecars.count() if self._sidecars is not None else 0

    async def sweep(self) -> None:
        """Removes what killed programs left in the middle of their work, now and then. Raises WorkletError."""
        await self._sweep.now_and_then(self.running)

    async def container_id(self, name: str) -> str | None:
        """The id of the worklet's container, running or stopped."""
        worklet = await self._runtime.find(name)
        return worklet.id if worklet else None

    async def _attach_running(
        self, worklet: Worklet, opening: Opening, position: Position | None, profile: Profile
    ) -> Agent:
        await self._doors.open(worklet, opening.worklet_id, profile)
        try:
            agent = await self._attaching.running(worklet, position, opening.fence)
        except OtherEpoch:
            agent = await self._attaching.running(worklet, None, opening.fence)
        agent.profile = profile
        return agent
