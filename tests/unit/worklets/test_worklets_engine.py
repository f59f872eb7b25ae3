"""An engine that answers everything but one question, as one that has locked up does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from waiting import until

from worklets.docker import DockerRuntime
from worklets.engine import Engine
from worklets.enginestreams import Stream
from worklets.errors import AgentGone, ImageMissing, RuntimeUnavailable
from worklets.identity import Identity


class LockedUp:
    """Docker's API, as far as a probe and a listing go. `release` lets the question be answered."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.asked = 0
        self.image = True

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes([web.get("/{path:.*}", self._answer)])
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        what = request.path.removeprefix("/v1.41")
        if what == "/networks":
            self.asked += 1
            await self.release.wait()
            return web.json_response([])
        if what.startswith("/containers/flow-"):
            return web.json_response({"message": "No such container"}, status=404)
        if what.startswith("/images/"):
            return web.json_response(
                {"Id": "sha256:1"} if self.image else {"message": "No such image: image"},
                status=200 if self.image else 404,
            )
        answers = {"/version": {"ApiVersion": "1.41"}, "/info": {"NCPU": 2, "Runtimes": {"runc": {}}}}
        return web.json_response(answers.get(what, []))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LockedUp]:
    made = LockedUp()
    runner = web.AppRunner(made.app(), shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "docker.sock")).start()
    yield made
    made.release.set()
    await runner.cleanup()


@pytest.fixture
async def runtime(engine: LockedUp, tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    made = DockerRuntime(
        share_dir=tmp_path, identity=Identity.load(tmp_path), image="image", memory=1 << 30, cpus=1,
        host=f"unix://{tmp_path}/docker.sock",
    )  # fmt: skip
    yield made
    engine.release.set()
    await made.close()


async def test_the_probe_sees_it_and_takes_no_thread_from_sessions(runtime: DockerRuntime, engine: LockedUp) -> None:
    for _ in range(6):  # as /health asks, again and again
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await runtime.check()
    await until(lambda: engine.asked)  # a busy machine's first may take long
    assert engine.asked == 1, "the others wait behind the first"
    async with asyncio.timeout(20):
        assert await runtime.list() == []
        assert await runtime.list() == []
    engine.release.set()
    async with asyncio.timeout(20):
        await runtime.check()
    engine.image = False
    with pytest.raises(ImageMissing):
        await runtime.check()


async def test_calls_and_failures_are_counted_by_kind(runtime: DockerRuntime, engine: LockedUp, tmp_path: Path) -> None:
    own = Engine(f"unix://{tmp_path}/docker.sock")
    await own.call("query", lambda client: client.api.info())
    with pytest.raises(RuntimeUnavailable, match="did not answer within"):
        await own.call("query", lambda client: client.api.networks(), timeout=0.2)
    assert (own.calls, own.failures) == ({"query": 2}, {"query": 1})
    engine.release.set()
    await until(lambda: engine.asked)
    await own.close()


async def test_a_stream_of_an_engine_that_hangs_is_given_up_and_holds_nothing_up(
    engine: LockedUp, tmp_path: Path
) -> None:
    own = Engine(f"unix://{tmp_path}/docker.sock")
    stream = Stream(own)
    with pytest.raises(RuntimeUnavailable, match="did not answer within"):
        await stream.read(lambda client: client.api.networks(), lambda _: None, 0.2)
    with pytest.raises(RuntimeUnavailable, match="says nothing"):
        await stream.read(lambda client: client.api.networks(), lambda _: None, 0.2)
    await until(lambda: engine.asked)  # a busy machine's first may take long
    assert engine.asked == 1, "one thread waits, however often it is tried"
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("docker-long")]
    assert threads
    assert all(thread.daemon for thread in threads), "the program may end"
    engine.release.set()
    told: list[object] = []
    await until(lambda: not stream._reading)
    await stream.read(lambda client: client.api.containers() or ["end"], told.append)
    assert told == ["end"]
    await own.close()


async def test_files_on_their_way_hold_no_start_back(runtime: DockerRuntime, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arrived, go_on = threading.Semaphore(0), threading.Event()

    def copy(_client: object) -> None:
        arrived.release()
        assert go_on.wait(60)

    copying = [asyncio.create_task(runtime.engine.call("copy", copy)) for _ in range(20)]
    try:
        await until(lambda: arrived.acquire(blocking=False), timeout=60, what="a copy")
        assert await runtime.engine.call("start", lambda _: "started") == "started"
    finally:
        go_on.set()
        await asyncio.gather(*copying)
    calls = runtime.engine.calls["copy"]
    with pytest.raises(AgentGone):
        await runtime.place("w", {"attachments/file": tmp_path / "file"})
    assert runtime.engine.calls["copy"] == calls + 1
