"""Turns on the real Claude CLI and the scripted model, while worklets are lost and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import schema
from images import worklet_image
from modelrequests import in_conversation
from waiting import until

from sessions.db import open_database
from sessions.events import Settled
from sessions.manager import Sessions
from sessions.reaper import Reaper
from sessions.shared import Patience
from sessions.store import Store
from sessions.types import Aside, Cut, Done, Interrupted, Outcome, Prompt, Session, Submitted, ThreadId, Turn
from simulator.model import Request, ScriptedModel
from worklets.docker import DockerRuntime
from worklets.events import Restarted, Text, TextDelta, ToolStarted
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.runtime import Runtime, Worklet

FILL = "head -c 70M /dev/zero | tee /tmp/a /dev/shm/a > /run/a; sleep 60"
HOUR = timedelta(hours=1)
THREAD = ThreadId("T1", "C1", "1700000000.000100")


@dataclass
class Flow:
    """One run of the program."""

    sessions: Sessions
    host: WorkletHost
    reaper: Reaper
    instance: str
    told: list[tuple[Session, Turn, Any]] = field(default_factory=list)

    async def ask(self, text: str) -> Submitted:
        ts = f"17000001{len(self.told):04}.000000"
        submitted = await self.sessions.submit(Prompt(THREAD, f"C1:{ts}", ts, "U1", text))
        assert submitted is not None
        return submitted

    def events(self, asked: Submitted, kind: type[Any] = object) -> list[Any]:
        return [event for _, turn, event in self.told if turn.id == asked.turn.id and isinstance(event, kind)]

    async def told_of(self, asked: Submitted, kind: type[Any]) -> None:
        await until(lambda: self.events(asked, kind), 60, kind.__name__)

    async def outcome(self, asked: Submitted) -> Outcome:
        (settled,) = await until(lambda: self.events(asked, Settled), 90, f"the end: {self.events(asked)}")
        return settled.outcome  # type: ignore[no-any-return]

    def text(self, asked: Submitted) -> str:
        return "|".join(event.text for event in self.events(asked, Text))

    async def worklet(self) -> Worklet:
        (worklet,) = (await self.host.running()).values()
        return worklet

    async def kill(self) -> None:
        """The whole worklet at once, as a power cut would."""
        worklet = await self.worklet()
        if worklet.id.isdigit():
            mark = f"WORKLET_ID={self.instance}-{worklet.name}".encode()
            for path in Path("/proc").glob("[0-9]*/environ"):
                with contextlib.suppress(OSError):
                    if mark in path.read_bytes().split(b"\0"):
                        os.kill(int(path.parent.name), signal.SIGKILL)
        else:
            subprocess.run(["docker", "kill", worklet.id], check=True, capture_output=True)


Start = Callable[..., AbstractAsyncContextManager[Flow]]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel() as model:
        yield model


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def start(request: pytest.FixtureRequest, model: ScriptedModel, tmp_path: Path) -> AsyncIterator[Start]:
    identity = Identity.load(tmp_path)
    image = await worklet_image() if request.param == "docker" else ""

    def runtime(memory: int) -> Runtime:
        if request.param == "local":
            return LocalRuntime(share_dir=tmp_path, identity=identity)
        return DockerRuntime(share_dir=tmp_path, identity=identity, image=image, memory=memory, cpus=2)

    @asynccontextmanager
    async def run(memory: int = 1 << 30, **patience: Any) -> AsyncIterator[Flow]:
        dsn = f"sqlite://{tmp_path}/db.sqlite"
        await schema.migrated(dsn)
        made, database = runtime(memory), open_database(dsn)
        gateway = ModelGateway(model.url, Credential(api_key="sk-real"), identity)
        host, store = WorkletHost(made, gateway, identity, tmp_path), Store(database)
        try:
            async with Sessions(store, host, max_sessions=3, patience=Patience(**patience)) as sessions:
                flow = Flow(sessions, host, Reaper(sessions, store, host, session_timeout=HOUR), identity.instance)
                sessions.observe(lambda *told: flow.told.append(told))
                yield flow
        finally:
            await gateway.aclose()
            await database.close()
            await made.close()

    yield run
    last = runtime(1 << 30)
    for worklet in await last.list():
        await last.remove(worklet.name, grace=0)
    for name in await last.volumes():
        await last.remove_volume(name)
    await last.close()


def said_to(request: Request) -> str:
    """Everything of people and Flow that stands in a request, without what the CLI adds."""
    blocks = []
    for message in request.body["messages"]:
        content = message["content"]
        blocks += [content] if isinstance(content, str) else [block.get("text", "") for block in content]
    return "\n".join(block for block in blocks if "<system-reminder>" not in block)


async def test_a_worklet_that_is_killed_in_mid_text_is_replaced(start: Start, model: ScriptedModel) -> None:
    async with start() as flow:
        asked = await flow.ask("WORDS 5 20\nHOLD a\nSAY end")
        await model.held("a")
        await flow.told_of(asked, TextDelta)
        await flow.kill()
        await until(lambda: flow.events(asked, Restarted), 60)
        model.release("a")
        assert await flow.outcome(asked) == Done()
        (restarted,) = flow.events(asked, Restarted)
        assert restarted.reason.endswith("; a new one goes on.")
        half, whole = flow.text(asked).split("|")
        assert half.startswith("word1")
        assert whole.endswith("end")
        last = said_to(in_conversation(model)[-1])
        assert f"-----\n{half}\n-----" in last, "Claude knows what people have seen"
        assert last.count("SAY end") in (1, 2), "the CLI may have written down the prompt that was cut off"
        assert await flow.outcome(await flow.ask("SAY the next one")) == Done()


async def test_a_turn_that_had_read_a_file_goes_on(start: Start, model: ScriptedModel) -> None:
    """A resumed CLI calls such a prompt completed: under its own uuid it would never be run again."""
    async with start() as flow:
        asked = await flow.ask("SAY looking\nREAD /etc/hostname\nHOLD b\nSAY found it")
        await model.held("b")
        await flow.told_of(asked, ToolStarted)
        model.release("b")
        await asyncio.sleep(0)
        await flow.kill()
        assert await flow.outcome(asked) == Done()
        assert flow.text(asked).endswith("found it")


async def test_a_turn_whose_command_was_running_is_not_run_again(start: Start, model: ScriptedModel) -> None:
    async with start() as flow:
        asked = await flow.ask("BASH echo once >> ran; sleep 600\nSAY end")
        await flow.told_of(asked, ToolStarted)
        await flow.kill()
        outcome = await flow.outcome(asked)
        assert isinstance(outcome, Cut)
        assert outcome.reason.startswith("Claude's ")
        assert outcome.reason.endswith("while it ran `echo once >> ran; sleep 600`.")
        assert not await flow.host.running()
        again = await flow.sessions.resume(asked.turn.id, "U2", "continue", "1700000900.000000")
        assert again is not None
        assert await flow.outcome(again) == Done()
        last = said_to(in_conversation(model)[-1])
        assert "(tools you called: Bash (echo once >> ran; sleep 600))" in last
        assert last.count("SAY end") in (1, 2), "the CLI may not have written the prompt down"


async def test_the_program_and_the_worklet_die_together(start: Start, model: ScriptedModel) -> None:
    async with start() as flow:
        asked = await flow.ask("SAY first\nREAD /etc/hostname\nHOLD c\nSAY end")
        await model.held("c")
        await flow.told_of(asked, ToolStarted)
        await flow.sessions.drain(0)
        await flow.kill()
    model.release("c")
    async with start() as flow:
        await flow.reaper.recover()
        assert await flow.outcome(asked) == Done()
        assert len(flow.events(asked, Restarted)) == 1
        assert flow.text(asked).endswith("end")


async def test_an_interrupt_ends_the_turn_within_a_second(start: Start, model: ScriptedModel) -> None:
    async with start() as flow:
        asked = await flow.ask("WORDS 5 20\nHOLD d")
        await model.held("d")
        await flow.told_of(asked, TextDelta)
        before = time.monotonic()
        await flow.sessions.interrupt(asked.session.id, "U2")
        assert await flow.outcome(asked) == Interrupted("U2")
        print(f"interrupted after {time.monotonic() - before:.3f} s")
        assert flow.text(asked).startswith("word1")
        assert await flow.outcome(await flow.ask("SAY next")) == Done()
        assert len(flow.events(asked, Restarted)) == 0


async def test_a_cli_that_does_not_answer_is_ended(start: Start, model: ScriptedModel) -> None:
    """It is stopped dead (SIGSTOP): neither the interrupt nor SIGTERM reaches it."""
    async with start(interrupt=0.5, terminate=0.5) as flow:
        asked = await flow.ask("WORDS 5 20\nHOLD e\nSAY late")
        await model.held("e")
        await flow.told_of(asked, TextDelta)
        freeze(await flow.worklet())
        await flow.sessions.interrupt(asked.session.id, "U2")
        assert await flow.outcome(asked) == Interrupted("U2")
        assert flow.text(asked).startswith("word1"), "what people have seen is kept"
        assert not await flow.host.running()
        model.release("e")
        reply = await flow.ask("SAY awake again")
        assert await flow.outcome(reply) == Done()
        assert flow.text(reply) == "awake again"


def freeze(worklet: Worklet) -> None:
    if worklet.id.isdigit():
        children = Path(f"/proc/{worklet.id}/task/{worklet.id}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGSTOP)
    else:
        seen = subprocess.run(
            ["docker", "top", worklet.id, "-eo", "pid,comm"], capture_output=True, text=True, check=True
        )
        for line in seen.stdout.splitlines()[1:]:
            pid, _, name = line.strip().partition(" ")
            if "claude" in name:
                os.kill(int(pid), signal.SIGSTOP)


async def test_a_start_that_is_stopped_leaves_nothing_running(start: Start) -> None:
    async with start() as flow:
        asked = await flow.ask("SAY never")
        await until(lambda: [event for event in flow.events(asked) if getattr(event, "step", "") == "starting"])
        await flow.sessions.interrupt(asked.session.id, "U2")
        assert await flow.outcome(asked) == Interrupted("U2")
        assert not await flow.host.running()
        reply = await flow.ask("SAY then")
        assert await flow.outcome(reply) == Done()
        assert len(await flow.host.running()) == 1


async def test_claude_knows_what_was_said_aside_and_before_its_volume_was_lost(
    start: Start, model: ScriptedModel
) -> None:
    async with start() as flow:
        first = await flow.ask("SAY the whale is called Ada")
        assert await flow.outcome(first) == Done()
        await flow.sessions.sleep(first.session.id)
        await flow.host.destroy(first.session.worklet)
        aside = Aside(THREAD, "C1:x", "1700000100.500000", "U3", "Jonas", "I thought it was Bob")
        await flow.sessions.overheard([aside])
        reply = await flow.ask("SAY so it is")
        assert await flow.outcome(reply) == Done()
        last = said_to(in_conversation(model)[-1])
        assert "<@U1>: SAY the whale is called Ada\nYou: the whale is called Ada" in last
        assert "Jonas: I thought it was Bob" in last
        assert last.index("Ada") < last.index("Jonas") < last.index("SAY so it is")
        assert flow.text(reply) == "so it is", "one answer, to the prompt"


@pytest.mark.docker
@pytest.mark.parametrize("start", ["docker"], indirect=True)
async def test_a_worklet_that_runs_out_of_memory_says_so(start: Start, model: ScriptedModel) -> None:
    """What lies in /tmp counts as the container's memory and cannot be killed: the victim is the largest process."""
    async with start(memory=200 << 20) as flow:
        asked = await flow.ask(f"BASH {FILL}\nSAY end")
        outcome = await flow.outcome(asked)
        assert outcome == Cut(f"Claude's container ran out of memory (limit 200 MiB) while it ran `{FILL}`.")
