"""Programs that Claude writes in a worklet, on the key-value store: the real CLI, a scripted model, a bot that goes."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import schema
from images import worklet_image
from waiting import until

from config.slices.kv import KVSettings
from kvstore.gateway.opening import open_admin
from sessions.db import open_database
from sessions.events import Settled
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.store import Store
from sessions.types import Done, Prompt, Session, Submitted, ThreadId, Turn
from simulator.model import ScriptedModel
from worklets.docker import DockerRuntime
from worklets.events import ToolFinished
from worklets.gatewayclient import GatewayClient
from worklets.gatewaycontrol import holder
from worklets.gatewaymodel import Credential
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.kvregistry import Registry, owner_of
from worklets.local import LocalRuntime
from worklets.runtime import Runtime

HERE = ThreadId("T1", "C1", "1700000000.000100")
THERE = ThreadId("T1", "C1", "1700000000.000200")

NOTE = (
    "from kvstore import create_worklet_kv_store as c; s = c(); s.set('note', {'by': 'python'}); "
    "print('python has', s.get('note'), s.increment('hits'))"
)
NODE = (
    'import { createWorkletKVStore } from "@flow/kvstore"; const s = createWorkletKVStore(); '
    "console.log('node has', JSON.stringify(await s.get('note')), await s.increment('hits'))"
)
OTHERS = (
    "import os; from kvstore import create_worklet_kv_store as c; print('own', c().get('note')); "
    "print('the other has', c(os.environ['OTHER']).get('note'))"
)


@dataclass
class Flow:
    """One run of the program."""

    sessions: Sessions
    host: WorkletHost
    reaper: Reaper
    told: list[tuple[Session, Turn, Any]] = field(default_factory=list)

    async def ask(self, text: str, thread: ThreadId = HERE) -> Submitted:
        ts = f"17000001{len(self.told):04}.000000"
        submitted = await self.sessions.submit(Prompt(thread, f"C1:{thread.thread_ts}:{ts}", ts, "U1", text))
        assert submitted is not None
        return submitted

    async def outputs(self, asked: Submitted) -> str:
        """What the turn's tools printed, once it has ended well."""

        def found(kind: type[Any]) -> list[Any]:
            return [event for _, turn, event in self.told if turn.id == asked.turn.id and isinstance(event, kind)]

        (settled,) = await until(lambda: found(Settled), 120)
        printed = "\n".join(event.output for event in found(ToolFinished))
        assert settled.outcome == Done(), (settled.outcome, printed)
        return printed


Start = Callable[..., AbstractAsyncContextManager[Flow]]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def start(request: pytest.FixtureRequest, model: ScriptedModel, tmp_path: Path) -> AsyncIterator[Start]:
    identity = Identity.load(tmp_path)
    image = await worklet_image() if request.param == "docker" else ""

    def runtime() -> Runtime:
        if request.param == "local":
            return LocalRuntime(share_dir=tmp_path, identity=identity)
        return DockerRuntime(share_dir=tmp_path, identity=identity, image=image, memory=1 << 30, cpus=2)

    @asynccontextmanager
    async def run() -> AsyncIterator[Flow]:
        dsn, settings = f"sqlite://{tmp_path}/db.sqlite", KVSettings()
        await schema.migrated(dsn)
        made, database = runtime(), open_database(dsn)
        gateway = GatewayClient(
            tmp_path, identity, model.url, Credential(api_key="sk-real"), store=settings, environ=dict(os.environ)
        )
        registry = Registry(lambda: open_admin(settings, tmp_path), max_keys=1000, max_bytes=1 << 20)
        host, store = WorkletHost(made, gateway, identity, tmp_path), Store(database)
        try:
            async with Sessions(store, host, max_sessions=3, data=registry) as sessions:
                flow = Flow(sessions, host, Reaper(sessions, store, host, session_timeout=timedelta(hours=1)))
                sessions.observe(lambda *told: flow.told.append(told))
                yield flow
        finally:
            await gateway.aclose()
            await registry.aclose()
            await database.close()
            await made.close()

    yield run
    last = runtime()
    for worklet in await last.list():
        await last.remove(worklet.name, grace=0)
    for name in await last.volumes():
        await last.remove_volume(name)
    await last.close()
    if pid := holder(tmp_path):
        os.kill(pid, signal.SIGKILL)
        await until(lambda: holder(tmp_path) is None)


async def test_programs_keep_data_while_the_bot_and_the_worklet_come_and_go(
    start: Start, model: ScriptedModel, tmp_path: Path
) -> None:
    async with start() as first:
        asked = await first.ask(
            f"WRITE note.py {NOTE}\nWRITE note.mjs {NODE}\nBASH python3 note.py\nHOLD away\n"
            "BASH python3 note.py; python3 -m venv /tmp/v$$ && /tmp/v$$/bin/python note.py\nBASH node note.mjs\nSAY end"
        )
        await model.held("away")
        await first.sessions.drain(0)
    requests = len(model.requests)
    model.release("away")
    # The bot is away, and the programs work.
    await until(lambda: len(model.requests) >= requests + 2, 60)
    async with start() as second:
        await second.reaper.recover()
        printed = await second.outputs(asked)
        for line in (
            "python has {'by': 'python'} 1",
            "python has {'by': 'python'} 2",
            "python has {'by': 'python'} 3",
            'node has {"by":"python"} 4',
        ):
            assert line in printed, printed
        # Another session's worklet sees nothing of it, with its own token as well as by the other's name.
        other = await second.ask(
            f"WRITE other.py {OTHERS}\nBASH OTHER={asked.session.id} python3 other.py 2>&1 || true\nSAY end", THERE
        )
        said = await second.outputs(other)
        assert "own None" in said
        assert "the other has {" not in said
        assert "KVPermissionError" in said
        # The worklet ends; its token does, and its data do not.
        assert await second.sessions.sleep(asked.session.id)
        assert not (tmp_path / "worklets" / asked.session.worklet / "run" / "kv.token").exists()
        awake = await second.ask("BASH python3 note.py\nSAY end")
        assert "python has {'by': 'python'} 5" in await second.outputs(awake)
    admin = open_admin(KVSettings(), tmp_path)
    found = await admin.worklets()
    assert {one["id"]: one["owner_id"] for one in found} == {
        asked.session.id: owner_of("U1"),
        other.session.id: owner_of("U1"),
    }
    await admin.close()
