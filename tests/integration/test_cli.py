"""The real Claude CLI behind the relay, through gateway and host, against the scripted model."""

import asyncio
import contextlib
import os
import signal
import subprocess
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from images import worklet_image
from waiting import until

from simulator.model import ScriptedModel
from worklets.agent import Agent
from worklets.docker import DockerRuntime
from worklets.errors import AgentGone, CloneFailed
from worklets.events import (
    AgentEvent,
    AgentExited,
    Position,
    Retrying,
    Text,
    TextDelta,
    Thinking,
    ToolFinished,
    ToolStarted,
    TurnEnded,
)
from worklets.gateway import ModelGateway
from worklets.gatewaymodel import Credential
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.rundir import worklet_dir
from worklets.runtime import Runtime

KEY = "sk-real-key"
NAME = "w-1"
#: Claude Code says the same in a container.
ONE_RUNTIME = pytest.mark.parametrize("flow", ["local"], indirect=True)


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    async with ScriptedModel(api_key=KEY) as model:
        yield model


Flow = Callable[[], AbstractAsyncContextManager[WorkletHost]]


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def flow(request: pytest.FixtureRequest, model: ScriptedModel, tmp_path: Path) -> AsyncIterator[Flow]:
    """Runs of the program, one after the other, on one data directory; worklets survive them."""
    identity = Identity.load(tmp_path)

    async def make_runtime() -> Runtime:
        if request.param == "local":
            return LocalRuntime(share_dir=tmp_path, identity=identity)
        image = await worklet_image()
        return DockerRuntime(share_dir=tmp_path, identity=identity, image=image, memory=1 << 30, cpus=2)

    @asynccontextmanager
    async def run() -> AsyncIterator[WorkletHost]:
        runtime = await make_runtime()
        gateway = ModelGateway(model.url, Credential(api_key=KEY), identity)
        try:
            yield WorkletHost(runtime, gateway, identity, tmp_path)
        finally:
            await gateway.aclose()
            await runtime.close()

    yield run
    async with run() as last:
        await last.destroy(NAME)


@pytest.fixture
async def host(flow: Flow) -> AsyncIterator[WorkletHost]:
    async with flow() as host:
        yield host


@dataclass
class Conversation:
    """One session's view: its agent, and what it has stored."""

    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    position: Position | None = None
    events: list[AgentEvent] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    fence: int = 1
    earlier: deque[tuple[Position, Sequence[AgentEvent]]] = field(default_factory=deque)

    async def open(self, host: WorkletHost, **other: Any) -> Agent:
        arguments: dict[str, Any] = {
            "claude_session_id": self.id,
            "has_history": self.position is not None,
            "position": self.position,
            "fence": self.fence,
            "env": {},
            "repository": None,
            "branch": None,
            "on_step": self.steps.append,
        }
        agent = await host.open(NAME, **(arguments | other))
        self.earlier = deque(agent.earlier)
        return agent

    async def read(self, agent: Agent, until: Callable[[AgentEvent], bool]) -> None:
        async for position, events in self._batches(agent):
            self.position = position
            self.events += events
            await agent.ack(position)
            if any(until(event) for event in events):
                return

    async def _batches(self, agent: Agent) -> AsyncIterator[tuple[Position, Sequence[AgentEvent]]]:
        """What a lost predecessor said last comes first."""
        while self.earlier:
            yield self.earlier.popleft()
        await agent.forget_earlier()
        async for batch in agent.events():
            yield batch

    async def turn(self, agent: Agent, text: str) -> list[AgentEvent]:
        before = len(self.events)
        await agent.send(str(uuid.uuid4()), text)
        await asyncio.wait_for(self.read(agent, lambda event: isinstance(event, TurnEnded)), 60)
        return self.events[before:]


def texts(events: list[AgentEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Text)]


def only(events: list[AgentEvent], kind: type[Any]) -> Any:
    (event,) = [event for event in events if isinstance(event, kind)]
    return event


async def test_an_answer(host: WorkletHost, model: ScriptedModel) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    events = await talk.turn(agent, "SAY Hello, world.")
    assert texts(events) == ["Hello, world."]
    ended = only(events, TurnEnded)
    assert ended.outcome == "done"
    assert ended.usage.cost > 0
    assert talk.steps == ["starting"]
    assert {request.headers["x-api-key"] for request in model.requests} == {KEY}
    assert list(await host.running()) == [NAME]
    await agent.close()


@ONE_RUNTIME
async def test_thinking_and_tools(host: WorkletHost) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    events = await talk.turn(agent, "THINK hm\nBASH pwd; exit 4\nWRITE notes.txt one\nBASH cat notes.txt\nSAY done")
    assert Thinking("hm") in events
    assert [e.name for e in events if isinstance(e, ToolStarted)] == ["Bash", "Write", "Bash"]
    finished = [e for e in events if isinstance(e, ToolFinished)]
    assert [e.ok for e in finished] == [False, True, True]
    written = {"added": 1, "removed": 0, "path": "notes.txt", "patch": "@@ -0,0 +1,1 @@\n+one"}
    assert [e.details for e in finished] == [{"exit_code": 4}, written, {"exit_code": 0}]
    assert "/work/workspace\n" in finished[0].output + "\n"
    assert finished[2].output == "one"
    await agent.close()


async def test_the_agents_shell_finds_neither_key_nor_token(host: WorkletHost) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    events = await talk.turn(agent, "BASH env; cat ../../run/spec.json")
    output = only(events, ToolFinished).output
    assert "HOME=" in output
    assert KEY not in output
    await agent.close()


async def test_an_interrupt_ends_the_turn_and_the_next_one_works(host: WorkletHost, model: ScriptedModel) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    await agent.send(str(uuid.uuid4()), "SAY half a\nHOLD it")
    reading = asyncio.create_task(talk.read(agent, lambda event: isinstance(event, TurnEnded)))
    await until(lambda: any(isinstance(event, TextDelta) for event in talk.events))
    await agent.interrupt()
    await reading
    assert texts(talk.events) == ["half a"]
    assert only(talk.events, TurnEnded).outcome == "interrupted"
    assert texts(await talk.turn(agent, "SAY again")) == ["again"]
    await agent.close()


async def test_an_interrupt_of_a_tool(host: WorkletHost) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    await agent.send(str(uuid.uuid4()), "BASH sleep 60")
    reading = asyncio.create_task(talk.read(agent, lambda event: isinstance(event, TurnEnded)))
    await until(lambda: any(isinstance(event, ToolStarted) for event in talk.events))
    await agent.interrupt()
    await asyncio.wait_for(reading, 60)
    assert only(talk.events, ToolFinished).details == {"interrupted": True}
    assert only(talk.events, TurnEnded).outcome == "interrupted"
    await agent.close()


async def test_a_new_program_goes_on_in_mid_answer(flow: Flow) -> None:
    talk = Conversation()
    async with flow() as first:
        agent = await talk.open(first)
        await agent.send(str(uuid.uuid4()), "WORDS 10\nTHINK hm\nWORDS 40 20\nBASH sleep 0.5\nSAY end")
        await talk.read(agent, lambda event: isinstance(event, TextDelta) and "word20" in event.text)
        await agent.close()
    talk.fence += 1
    async with flow() as second:
        agent = await talk.open(second)
        await asyncio.wait_for(talk.read(agent, lambda event: isinstance(event, TurnEnded)), 60)
        words = [" ".join(f"word{i}" for i in range(1, n + 1)) for n in (10, 40)]
        assert texts(talk.events) == [*words, "end"]
        assert only(talk.events, TurnEnded).outcome == "done"
        assert talk.steps == ["starting"]
        await agent.close()


async def test_the_conversation_comes_back_after_sleep(host: WorkletHost) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    await talk.turn(agent, "SAY nice to meet you, Ada")
    await agent.close()
    await host.close(NAME)
    assert await host.running() == {}
    again = await talk.open(host)
    events = await talk.turn(again, "RECALL")
    assert texts(events) == ["I remember:\n1. SAY nice to meet you, Ada"]
    assert talk.steps == ["starting", "waking"]
    await again.close()


async def test_a_killed_worklet_loses_no_word_that_was_said(host: WorkletHost) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    await talk.turn(agent, "SAY one")
    stored = talk.position
    await talk.turn(agent, "SAY two")
    await agent.send(str(uuid.uuid4()), "SAY three\nHOLD ever")
    await talk.read(agent, lambda event: isinstance(event, TextDelta))
    await host._runtime.remove(NAME, grace=0)
    # The relay may still have seen the CLI die, or died with it.
    with contextlib.suppress(AgentGone):
        await asyncio.wait_for(talk.read(agent, lambda event: isinstance(event, AgentExited)), 60)
    await agent.close()
    talk.position, talk.events = stored, []
    again = await talk.open(host)
    await talk.read(again, lambda event: isinstance(event, TurnEnded))
    assert texts(talk.events) == ["two"]
    events = await talk.turn(again, "RECALL")
    assert "SAY one" in texts(events)[-1]
    await again.close()


@ONE_RUNTIME
async def test_a_prompt_sent_again_is_run_once(host: WorkletHost, model: ScriptedModel) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    prompt_id = str(uuid.uuid4())
    for _ in range(2):
        await agent.send(prompt_id, "SAY once")
    await talk.read(agent, lambda event: isinstance(event, TurnEnded))
    await agent.close()
    await host.close(NAME)
    again = await talk.open(host)
    await again.send(prompt_id, "SAY once")
    await talk.turn(again, "SAY next")
    assert model.prompts() == ["SAY once", "SAY next"]
    await again.close()


@ONE_RUNTIME
async def test_errors_of_the_api_are_worded(host: WorkletHost) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    events = await talk.turn(agent, "ERROR 529 1\nSAY after all")
    assert only(events, Retrying).status == 529
    assert texts(events) == ["after all"]
    refused = only(await talk.turn(agent, "ERROR 401"), TurnEnded)
    assert (refused.outcome, "ANTHROPIC_API_KEY" in refused.error) == ("failed", True)
    cut = await talk.turn(agent, "WORDS 5\nCUT\nSAY end")
    assert texts(cut) == ["word1 word2 word3 word4 word5\nend"]
    await agent.close()


async def test_a_worklet_whose_claude_has_ended_is_started_anew(host: WorkletHost) -> None:
    talk = Conversation()
    agent = await talk.open(host)
    await talk.turn(agent, "SAY one")
    await agent.send(str(uuid.uuid4()), "SAY two\nBASH kill -9 $PPID")
    reading = asyncio.create_task(talk.read(agent, lambda event: isinstance(event, Text)))
    await asyncio.wait_for(reading, 60)
    stored = talk.position
    await asyncio.wait_for(talk.read(agent, lambda event: isinstance(event, AgentExited)), 60)
    assert talk.events[-1] == AgentExited(-9, "")
    await agent.close()
    talk.position, talk.events = stored, []
    again = await talk.open(host)
    events = await talk.turn(again, "RECALL")
    assert "SAY one" in texts(events)[-1]
    assert [e for e in events if isinstance(e, ToolStarted)]  # what the dead one said last is told too
    await again.close()


async def test_a_clone_that_fails_leaves_no_volume(host: WorkletHost) -> None:
    talk = Conversation()
    with pytest.raises(CloneFailed):
        await talk.open(host, repository="https://127.0.0.1:1/no/repository.git")
    assert talk.steps == ["cloning"]
    assert await host._runtime.volumes() == []


async def test_a_session_killed_before_its_first_message_starts_anew(host: WorkletHost) -> None:
    talk, other = Conversation(), Conversation()
    agent = await talk.open(host)
    line = '{"type":"queue-operation","operation":"enqueue"}'
    await talk.turn(agent, f"BASH echo '{line}' > $(dirname ~/.claude/projects/*/{talk.id}.jsonl)/{other.id}.jsonl")
    await agent.close()
    await host.close(NAME)
    other.position = talk.position
    again = await other.open(host)
    assert texts(await other.turn(again, "SAY fresh")) == ["fresh"]
    await again.close()


async def test_no_secret_and_no_socket_is_left_when_the_relay_was_killed(host: WorkletHost, tmp_path: Path) -> None:
    agent = await Conversation().open(host)
    await agent.close()
    run = worklet_dir(tmp_path, NAME) / "run"
    (run / "spec.json").write_text("{}")  # as if the relay had been killed before it read it
    found = (await host.running())[NAME]
    if found.id.isdigit():
        os.kill(int(found.id), signal.SIGKILL)
    else:
        subprocess.run(["docker", "kill", found.id], check=True, capture_output=True)
    await host.close(NAME)
    assert [path.name for path in run.iterdir() if path.suffix in (".json", ".sock")] == []
