"""Where sessions get their agents: finds, starts, ends worklets by name, with all that belongs to one.

A worklet is a container (or child process), its volume, its host directory, its door to the gateway.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from worklets import rundir
from worklets.agent import Agent, Tail, read_put_aside, read_tail
from worklets.claude import claude_command, claude_env
from worklets.clone import clone
from worklets.errors import AgentGone, WorkletError, WorkletStartFailed
from worklets.events import Position, PromptTaken, Retrying
from worklets.failures import exit_clause
from worklets.files import Outgoing
from worklets.identity import Identity
from worklets.link import OtherEpoch, Refused
from worklets.permissions import Permissions
from worklets.rundir import clear_remains, worklet_dir
from worklets.runtime import Runtime, Worklet, WorkletSpec

if TYPE_CHECKING:
    from worklets.gateway import Doors

log = structlog.get_logger(__name__)
T = TypeVar("T")

_CHECK_SECONDS = 1.0  # how often a starting worklet is looked at while its relay does not answer yet

_ALL = Permissions()
_GONE = "Claude's container is gone"

_RUNNING_SECONDS = 1.5  # how long a running worklet may have no listening relay: it has just started, or is ending


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
        environ: Mapping[str, str] | None = None,
        local_repositories: bool = False,
        file_limit: int = 50 << 20,
    ) -> None:
        """`model` is the CLI's --model, `environ` what git may need (PATH, HOME…), `attach_timeout` in seconds.

        `local_repositories`: a repository may be a directory of this machine. `file_limit`: bytes that Claude may send
        in one file.
        """
        self._runtime, self._gateway, self._identity = runtime, gateway, identity
        self._share_dir, self._model = share_dir, model
        self._attach_timeout, self._environ = attach_timeout, environ
        self._local_repositories, self._file_limit = local_repositories, file_limit
        self._going_on: dict[str, asyncio.Task[Any]] = {}  # what cannot be called back: a container that is being made

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
        permissions: Permissions = _ALL,
        on_step: Callable[[str], None],
    ) -> Agent:
        """The agent of the running worklet, after `position`; or of a new one on the same volume.

        A running worklet of another epoch than `position`'s is told from its first line: nothing of it was stored.
        A new worklet goes on with the conversation that its volume holds; the agent's `earlier` is what its
        predecessor had still written after `position`. `on_step` is told "cloning" (a new volume only), then
        "starting" or, with history, "waking". Whoever cancels this calls `close`. Raises WorkletError.
        """
        await self._settle(name)
        run_dir = worklet_dir(self._share_dir, name) / "run"
        found = await self._runtime.find(name)
        if found is not None and found.running:
            try:
                agent = await self._attach_running(found, position, fence)
                if not agent.exited:
                    return await self._with_put_aside(agent, run_dir, position)
                await agent.close()  # what it said last is in the journal, which is read below
            except Refused:
                raise
            except WorkletError as error:
                log.warning("worklet does not answer, starting it anew", worklet=name, error=str(error))
        ending = await self._runtime.remove(name, grace=0) if found is not None else _GONE
        tail = await asyncio.to_thread(_keep_tail, run_dir, position)
        new_volume = not await self._has_volume(name, repository, has_history)
        if repository is not None and new_volume:
            on_step("cloning")
            await self._bring(name, repository, branch)
        on_step("waking" if has_history else "starting")
        worklet = await self._start(name, claude_session_id, env, permissions)
        await self._open_door(worklet)
        agent = await self._attach_new(worklet, fence)
        agent.earlier, agent.new_volume = tail.batches, new_volume
        agent.ending = exit_clause(tail.exited, ending) if tail.exited else ending
        return agent

    async def _start(
        self, name: str, claude_session_id: str, env: Mapping[str, str], permissions: Permissions
    ) -> Worklet:
        command = claude_command(
            claude_session_id,
            model=self._model,
            sender=self._runtime.sender(name, self._file_limit),
            permissions=permissions,
        )
        spec = WorkletSpec(
            name=name,
            command=command,
            token=self._identity.token("relay", name),
            env=claude_env(self._identity.token("gateway", name), env),
        )
        return await self._to_its_end(name, self._runtime.start(spec))

    async def _to_its_end(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on when we are cancelled: `_settle` waits for it."""
        self._going_on[name] = task = asyncio.create_task(work)
        task.add_done_callback(lambda task: self._went_on(name, task))
        return await asyncio.shield(task)

    def _went_on(self, name: str, task: asyncio.Task[Any]) -> None:
        if self._going_on.get(name) is task:
            del self._going_on[name]
        if not task.cancelled() and (error := task.exception()):  # somebody may be there to hear of it, or not
            log.debug("a start failed", worklet=name, error=str(error))

    async def _settle(self, name: str) -> None:
        if (task := self._going_on.pop(name, None)) is not None:
            await asyncio.wait([task])

    async def close(self, name: str, grace: float = 5.0) -> str | None:
        """Ends the worklet politely and removes its container; the volume stays. Idempotent.

        It has `grace` seconds. Returns why it had ended already: see `Runtime.remove`. Raises WorkletError.
        """
        await self._settle(name)
        ending = await self._runtime.remove(name, grace)
        await self._gateway.close(name)
        try:
            await asyncio.to_thread(clear_remains, worklet_dir(self._share_dir, name) / "run")
        except OSError as error:
            log.warning("what a worklet left could not be removed", worklet=name, error=str(error))
        return ending

    async def copy(self, source: str, name: str) -> None:
        """Gives worklet `name`, which never ran, a copy of `source`'s volume. Idempotent. Raises WorkletError."""
        await self._to_its_end(name, self._runtime.copy(source, name))

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
        return Outgoing(worklet_dir(self._share_dir, name) / "run")

    async def running(self) -> dict[str, Worklet]:
        """The running worklets of this instance by name. Raises RuntimeUnavailable."""
        return {worklet.name: worklet for worklet in await self._runtime.list() if worklet.running}

    async def container_id(self, name: str) -> str | None:
        """The id of the worklet's container, running or stopped."""
        worklet = await self._runtime.find(name)
        return worklet.id if worklet else None

    async def _attach_running(self, worklet: Worklet, position: Position | None, fence: int) -> Agent:
        await self._open_door(worklet)
        token = self._identity.token("relay", worklet.name)

        async def attach(after: Position | None) -> Agent:
            return await Agent.attach(
                worklet.run_dir, token, after, fence, worklet_id=worklet.id, timeout=_RUNNING_SECONDS
            )

        try:
            return await attach(position)
        except OtherEpoch:
            return await attach(None)

    async def _with_put_aside(self, agent: Agent, run_dir: Path, position: Position | None) -> Agent:
        """The agent of a process that we had stored nothing of: before it, others may have said something."""
        if position is None or position.epoch != agent.epoch:
            try:
                agent.earlier = await asyncio.to_thread(read_put_aside, run_dir, position)
            except BaseException:
                await agent.close()
                raise
        return agent

    async def _attach_new(self, worklet: Worklet, fence: int) -> Agent:
        """Waits for the relay, but no longer than its container runs."""
        attaching = asyncio.create_task(
            Agent.attach(
                worklet.run_dir,
                self._identity.token("relay", worklet.name),
                None,
                fence,
                worklet_id=worklet.id,
                timeout=self._attach_timeout,
            )
        )
        try:
            while not (await asyncio.wait({attaching}, timeout=_CHECK_SECONDS))[0]:
                now = await self._runtime.find(worklet.name)
                if now is None or not now.running:
                    raise WorkletStartFailed(await self._last_words(worklet.name))
            return await attaching
        except AgentGone as error:
            raise WorkletStartFailed(str(error)) from error
        except BaseException:
            await _let_go(attaching)
            raise

    async def _last_words(self, name: str) -> str:
        said = (await self._runtime.logs(name, 5)).strip()
        return f"The worklet ended as soon as it had started: {said or 'it said nothing'}."

    async def _open_door(self, worklet: Worklet) -> None:
        try:
            await self._gateway.open(worklet.name, worklet.run_dir)
        except OSError as error:
            raise WorkletStartFailed(
                f"Flow cannot listen in {worklet.run_dir}: {error.strerror or error}.",
                suggestion="Check the rights of FLOW_SHARE_DIR, then write again.",
            ) from error

    async def _has_volume(self, name: str, repository: str | None, has_history: bool) -> bool:
        """Where Claude has not worked yet, a volume for a repository counts only when it is known to be full."""
        if not await self._runtime.has_volume(name):
            return False
        if repository is None or has_history:
            return True
        return await asyncio.to_thread(rundir.is_filled, self._share_dir, name)

    async def _bring(self, name: str, repository: str, branch: str | None) -> None:
        """Clones outside the worklet, which has no network."""
        temporary = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="flow-clone-"))
        try:
            await clone(
                repository, branch, temporary / "repository", local=self._local_repositories, environ=self._environ
            )
        except BaseException:
            await asyncio.shield(_discard(temporary))
            raise
        await self._to_its_end(name, self._fill(name, temporary))

    async def _fill(self, name: str, temporary: Path) -> None:
        """A volume that got half of the repository is not kept."""
        try:
            await self._runtime.put(name, temporary / "repository")
        except BaseException:
            await asyncio.shield(self._runtime.remove_volume(name))
            raise
        finally:
            await asyncio.shield(_discard(temporary))


async def _let_go(attaching: asyncio.Task[Agent]) -> None:
    """Nobody waits for it any more; it may have been attached in this very moment."""
    attaching.cancel()
    await asyncio.wait([attaching])
    if not attaching.cancelled() and attaching.exception() is None:
        await attaching.result().close()


def _keep_tail(run_dir: Path, position: Position | None) -> Tail:
    """What the predecessor said last. The new relay deletes its journal, so it is put aside until all is stored."""
    tail = read_tail(run_dir, position)
    if any(not isinstance(event, PromptTaken | Retrying) for _, events in tail.batches for event in events):
        try:
            rundir.put_journal_aside(run_dir)
        except OSError as error:
            log.warning("a journal could not be put aside", journal=str(run_dir), error=str(error))
    return tail


async def _discard(directory: Path) -> None:
    # In a thread: to remove a large repository takes seconds.
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
