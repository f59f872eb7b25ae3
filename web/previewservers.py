"""Whether a preview's server is there; where it is not, the worklet is woken and the server's command is started."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from config.errors import FlowError
from config.logging import get_logger
from sessions.previews import Preview
from sessions.types import SessionId
from web.previewpages import Visit, notice
from worklets.errors import WorkletError
from worklets.inside import SOCKET, NotRunning, PortClosed, dial, start

log = get_logger(__name__)

REACHED_SECONDS = 15.0  # for the way into a container that runs
_WAKING_SECONDS = 150.0  # for a container to run: it may wait for a place first
_BEGUN = 10_000  # previews of which it is known that their command was started
_STARTING_SECONDS = 60.0  # what a server has to listen after its command was started
_DIALLED_SECONDS = 2.0  # how long a server that was there counts as there


class Servers:
    """`run_dir` is a session's worklet's; `wake` returns when the worklet runs. Close it with `aclose`.

    `reached`: seconds for the way into a worklet that runs.
    """

    def __init__(
        self,
        run_dir: Callable[[SessionId], Awaitable[Path]],
        wake: Callable[[SessionId], Awaitable[None]],
        reached: float = REACHED_SECONDS,
    ) -> None:
        self._run_dir, self._wake, self._reached = run_dir, wake, reached
        self._waking: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}  # why it could not be woken, until the next try
        self._there: dict[str, float] = {}  # loop time until which a server counts as there
        self._begun: dict[str, tuple[str, object]] = {}  # the command that was started, and in which container

    async def aclose(self) -> None:
        for task in self._waking.values():
            task.cancel()
        await asyncio.gather(*self._waking.values(), return_exceptions=True)

    def is_waking(self, preview_id: str) -> bool:
        return preview_id in self._waking

    def lost(self, preview_id: str) -> None:
        """It did not answer: the next request looks anew."""
        self._there.pop(preview_id, None)

    def forget(self, preview_id: str) -> None:
        """Nobody has asked for it for a while."""
        self._there.pop(preview_id, None)
        self._failed.pop(preview_id, None)

    async def missing(self, visit: Visit, run_dir: Path) -> web.Response | None:
        """The page to show while its server is not there; None: it is.

        Only a page that is opened has anything begin: one that is left open, and asks on, would never let it sleep.
        """
        preview, now = visit.preview, asyncio.get_running_loop().time()
        if self._there.get(preview.id, 0.0) > now:
            return None
        try:
            (await dial(run_dir, preview.port)).close()
        except NotRunning:
            if not visit.is_opened:
                return notice(503, "The thread's container sleeps", "Open this page anew to wake it.")
            return self._wait(preview, self._woken, "The thread's container is waking up")
        except PortClosed:
            if preview.command is None:
                return self._silent(preview, "Ask Claude in the thread to start the server.")
            if preview.id in self._waking or preview.id in self._failed:
                return self._wait(preview, self._started, "The server is starting")
            if self._begun.get(preview.id) == (preview.command, _incarnation(run_dir)):
                return self._silent(
                    preview,
                    "Its command was started in this container, and is not started twice. Its output is in "
                    "~/.flow/started.log inside; ask Claude in the thread to look.",
                )
            if not visit.is_opened:
                return notice(503, f"Nothing listens at port {preview.port}", "Open this page anew to start it.")
            return self._wait(preview, self._started, "The server is starting")
        self._there[preview.id] = now + _DIALLED_SECONDS
        self._failed.pop(preview.id, None)
        return None

    def _silent(self, preview: Preview, more: str) -> web.Response:
        return notice(502, f"Nothing listens at port {preview.port}", more)

    def _wait(self, preview: Preview, work: Callable[[Preview], Awaitable[None]], what: str) -> web.Response:
        """One of these for each preview, however many ask."""
        if (why := self._failed.pop(preview.id, None)) is not None:
            return notice(502, "The preview could not be started", why)
        if preview.id not in self._waking:
            self._waking[preview.id] = task = asyncio.create_task(self._guarded(preview, work))
            task.add_done_callback(lambda _: self._waking.pop(preview.id, None))
        return notice(503, what, "This page shows the preview as soon as it is there.", again=2)

    async def _guarded(self, preview: Preview, work: Callable[[Preview], Awaitable[None]]) -> None:
        try:
            await work(preview)
        except FlowError as error:
            self._failed[preview.id] = error.sentence()
        except Exception:
            log.exception("a preview could not be started", preview=preview.id)
            self._failed[preview.id] = "Flow's log has the details."

    async def _woken(self, preview: Preview) -> None:
        """The worklet runs, and its ports can be reached."""
        try:
            async with asyncio.timeout(_WAKING_SECONDS):
                await self._wake(preview.session_id)
        except TimeoutError:
            raise WorkletError(
                f"The thread's container did not start within {_WAKING_SECONDS:.0f} seconds.",
                suggestion="Look in the thread what it waits for.",
            ) from None
        run_dir, end = await self._run_dir(preview.session_id), asyncio.get_running_loop().time() + self._reached
        while True:
            try:
                (await dial(run_dir, preview.port)).close()
            except PortClosed:
                return
            except NotRunning:
                if asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(0.3)
                    continue
                raise WorkletError(
                    "The thread's container runs, but nothing in it takes Flow's connections.",
                    suggestion="Put the thread to sleep (`/flow sessions`), then open this page again.",
                ) from None
            return

    async def _started(self, preview: Preview) -> None:
        assert preview.command is not None
        run_dir, end = await self._run_dir(preview.session_id), asyncio.get_running_loop().time() + _STARTING_SECONDS
        while len(self._begun) >= _BEGUN:
            del self._begun[next(iter(self._begun))]
        self._begun[preview.id] = preview.command, _incarnation(run_dir)
        try:
            await start(run_dir, preview.command, env={"FLOW_WORKLET_ID": preview.session_id})
        except WorkletError:
            self._begun.pop(preview.id, None)
            raise
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.3)
            try:
                (await dial(run_dir, preview.port)).close()
            except PortClosed:
                continue
            return
        raise WorkletError(
            f"The server does not listen at port {preview.port} {_STARTING_SECONDS:.0f} seconds after its command.",
            suggestion="Its output is in ~/.flow/started.log inside; ask Claude in the thread to look.",
        )


def _incarnation(run_dir: Path) -> object:
    """Another one for each process that serves there."""
    try:
        found = os.lstat(run_dir / SOCKET)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns
