"""The agent over a real relay and a small child program that speaks the CLI's protocol."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from relay_process import TOKEN, order, running_relay
from waiting import until

from worklets import rundir
from worklets.agent import Agent, Tail, read_put_aside, read_tail
from worklets.errors import AgentGone, AgentRefused, WorkletStartFailed
from worklets.events import AgentEvent, AgentExited, Asked, Position, PromptTaken, Retrying, Text
from worklets.relay.journal import records


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    async with running_relay(tmp_path) as process:
        yield process


@pytest.fixture
async def agents() -> AsyncIterator[list[Agent]]:
    made: list[Agent] = []
    yield made
    for agent in made:
        await agent.close()


async def attach(agents: list[Agent], root: Path, position: Position | None = None, **other: Any) -> Agent:
    agent = await Agent.attach(
        root / "run", TOKEN, position, 1, worklet_id="c1", rng=random.Random(3), **({"timeout": 60} | other)
    )
    agents.append(agent)
    return agent


async def say(agent: Agent, key: str, line: dict[str, Any]) -> None:
    """Makes the child say this line."""
    await agent._link.put(key, order(f"say {json.dumps(line)}"))


def text(value: str) -> dict[str, Any]:
    return {"type": "assistant", "message": {"id": "m", "model": "x", "content": [{"type": "text", "text": value}]}}


async def take(agent: Agent, count: int) -> list[tuple[int, list[AgentEvent]]]:
    found: list[tuple[int, list[AgentEvent]]] = []
    async for position, events in agent.events():
        assert position.epoch == agent.epoch
        found.append((position.seq, events))
        if len(found) == count:
            break
    return found


def inputs(root: Path) -> list[dict[str, Any]]:
    """The lines that the relay wrote to the child, from its journal."""
    found = []
    for path in sorted((root / "run" / "journal").glob("*.log")):
        for line in path.read_bytes().splitlines():
            if line.startswith(b"i "):
                found.append(json.loads(line.split(b" ", 2)[2]))
    return found


async def test_lines_become_events_with_positions_and_noise_has_one_too(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    assert agent.worklet_id == "c1"
    await say(agent, "a", text("one"))
    await say(agent, "b", {"type": "unknown"})
    await say(agent, "c", {"type": "command_lifecycle", "command_uuid": "u", "state": "queued"})
    assert await take(agent, 3) == [(1, [Text("one")]), (2, []), (3, [PromptTaken("u", "queued")])]


async def test_a_prompt_goes_out_as_written(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    await agent.send("u-1", "hello @you")
    (line,) = inputs(tmp_path)
    assert (line["uuid"], line["message"]["content"], line["client_composed"]) == ("u-1", "hello @you", True)


async def test_a_successor_goes_on_after_the_stored_position(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    for n in range(4):
        await say(agent, f"k{n}", text(str(n)))
    await take(agent, 2)
    epoch = agent.epoch
    await agent.close()
    again = await attach(agents, tmp_path, Position(epoch, 2))
    assert again.epoch == epoch
    assert again.behind
    assert await take(again, 2) == [(3, [Text("2")]), (4, [Text("3")])]
    assert not again.behind
    await again.close()
    assert not (await attach(agents, tmp_path, Position(epoch, 4))).behind


async def test_another_epoch_is_another_process(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    with pytest.raises(AgentGone, match="anew"):
        await attach(agents, tmp_path, Position("other", 7))


async def test_an_interrupt_returns_when_the_cli_said_yes(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    await agent.interrupt(60)
    assert inputs(tmp_path)[0]["request"]["subtype"] == "interrupt"


async def test_an_interrupt_that_is_not_answered_times_out(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    (tmp_path / "work" / "workspace" / "deaf").touch()
    with pytest.raises(TimeoutError):
        await agent.interrupt(0.1)


async def test_a_request_gets_its_reply_or_the_words_of_the_refusal(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    assert await agent.request("get_usage", detail=1) == {"asked": {"subtype": "get_usage", "detail": 1}}
    with pytest.raises(AgentRefused, match="no such model"):
        await agent.request("set_model", model="x")


async def test_a_request_outlives_a_lost_connection_and_is_made_once(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    asking = asyncio.create_task(agent.request("get_plan", timeout=60))
    (asked,) = await until(lambda: inputs(tmp_path))
    assert agent._link._ws is not None
    await agent._link._ws.close()
    await until(lambda: agent._link._ws is not None)
    reply = {"subtype": "success", "request_id": asked["request_id"], "response": {"plan": "p"}}
    await say(agent, "reply", {"type": "control_response", "response": reply})
    assert await asking == {"plan": "p"}
    assert [line["request"]["subtype"] for line in inputs(tmp_path) if line["type"] == "control_request"] == [
        "get_plan"
    ]


@pytest.mark.parametrize("end", ["exit", "close"])
async def test_a_request_that_nobody_will_answer_fails_at_once(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent], end: str
) -> None:
    agent = await attach(agents, tmp_path)
    asking = asyncio.create_task(agent.request("get_plan", timeout=600))
    await until(lambda: inputs(tmp_path))
    if end == "exit":
        await agent._link.put("end", order("exit 0"))
    else:
        await agent.close()
    with pytest.raises(AgentGone):
        await asking


async def test_an_ask_waits_for_its_answer_and_gets_it_once(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    await agent._link.put("a", order("ask r1"))
    assert (await take(agent, 1))[0][1] == [Asked("r1", "Bash", {}, "t1")]
    await agent.allow("r1")
    await agent.close()
    again = await attach(agents, tmp_path)
    await again.allow("r1")  # whoever does not know whether it arrived says it again
    await again.send("u", "after")
    lines = await until(lambda: found if len(found := inputs(tmp_path)) >= 3 else None)
    assert [line["type"] for line in lines] == ["user", "control_response", "user"]
    assert lines[1]["response"] == {"subtype": "success", "request_id": "r1", "response": {"behavior": "allow"}}


async def test_an_ask_is_answered_with_other_input_and_mode_or_with_no(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    await agent.allow("r1", {"answers": {}}, "plan")
    await agent.deny("r2", "not now")
    answers = [line["response"]["response"] for line in await until(lambda: inputs(tmp_path)[1:] and inputs(tmp_path))]
    mode = {"type": "setMode", "mode": "plan", "destination": "session"}
    assert answers[0] == {"behavior": "allow", "updatedInput": {"answers": {}}, "updatedPermissions": [mode]}
    assert answers[1] == {"behavior": "deny", "message": "not now"}


async def test_a_refused_credential_is_not_tried_for_three_minutes(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    retry = {"type": "system", "subtype": "api_retry", "attempt": 1, "max_retries": 10, "retry_delay_ms": 500,
             "error_status": 401, "error": "authentication_failed", "uuid": "l1"}  # fmt: skip
    await say(agent, "a", retry)
    await until(lambda: [line for line in inputs(tmp_path) if line["type"] == "control_request"])
    assert (await take(agent, 1))[0][1] == [Retrying(1, 10, 0.5, 401, "authentication_failed")]
    await agent.close()
    again = await attach(agents, tmp_path)  # the same line again must not interrupt a later turn
    await again.send("u", "after")
    assert len([line for line in inputs(tmp_path) if line["type"] == "control_request"]) == 1


async def test_the_exit_ends_the_events(relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]) -> None:
    agent = await attach(agents, tmp_path)
    await agent._link.put("a", order("exit 2"))
    batches = [batch async for batch in agent.events()]
    assert batches == [(Position(agent.epoch, 1), [AgentExited(2, "last words\n")])]
    with pytest.raises(AgentGone):
        await agent.send("u", "too late")
    await agent.ack(batches[-1][0])
    await asyncio.wait_for(relay.wait(), 60)


async def test_a_process_that_ignores_the_interrupt_is_told_to_end(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    await agent._link.put("a", order("env"))  # it runs
    await take(agent, 1)
    await agent.terminate()
    batches = [batch async for batch in agent.events()]
    assert [event for _, events in batches for event in events] == [AgentExited(-signal.SIGTERM, "")]


async def test_context_comes_before_the_prompt_in_one_message(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    await agent.send("u-1", "the prompt", ["first", "second"])
    (line,) = inputs(tmp_path)
    assert [block["text"] for block in line["message"]["content"]] == ["first", "second", "the prompt"]
    assert "shouldQuery" not in line


async def test_a_killed_relay_is_told_to_its_last_line_then_gone(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path, patience=0.1)
    await say(agent, "a", text("one"))
    (first,) = await take(agent, 1)
    assert first == (1, [Text("one")])
    agent._link._ws.ws.transport.pause_reading()  # type: ignore[union-attr]
    sending = asyncio.create_task(say(agent, "b", text("two")))
    await until(lambda: len(list(records(tmp_path / "run" / "journal", agent.epoch, 0))) == 2)
    relay.kill()
    agent._link._ws.abort()  # type: ignore[union-attr]
    told: list[Any] = []

    async def read() -> None:
        async for position, events in agent.events():
            told.append((position.seq, events))

    with pytest.raises(AgentGone):
        await read()
    assert told == [(2, [Text("two")])]
    with pytest.raises(AgentGone):
        await sending
    tail = read_tail(tmp_path / "run", Position(agent.epoch, 1))
    assert (tail.batches, tail.exited) == ([(Position(agent.epoch, 2), [Text("two")])], None)


async def test_the_tail_of_a_later_process_is_told_from_its_start(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    await say(agent, "a", text("one"))
    await agent._link.put("b", order("exit 0"))
    assert len(await take(agent, 2)) == 2
    for position in (None, Position("older", 99)):
        tail = read_tail(tmp_path / "run", position)
        assert tail.batches == [(Position(agent.epoch, 1), [Text("one")])]
        assert tail.exited == AgentExited(0, "last words\n")
    assert read_tail(tmp_path / "nothing here", None) == Tail([], None)


AA, BB, CC = "a" * 16, "b" * 16, "c" * 16


def journal(directory: Path, epoch: str, *said: str) -> None:
    directory.mkdir(parents=True)
    lines = [f"o {number} {json.dumps(text(one))}\n" for number, one in enumerate(said, 1)]
    (directory / f"{epoch}-000000000001.log").write_text("".join(lines))


def test_journals_that_were_put_aside_are_told_until_they_are_forgotten(tmp_path: Path) -> None:
    """Flow died twice before it had stored what lost processes had said."""
    run = rundir.prepare(tmp_path, "w", None)
    for epoch in (BB, AA):
        journal(run / "journal", epoch, f"{epoch[:2]} one", f"{epoch[:2]} two")
        rundir.put_journal_aside(run)
    journal(run / "journal", CC, "cc one")

    def told(position: Position | None) -> list[AgentEvent]:
        return [event for _, events in read_tail(run, position).batches for event in events]

    assert told(Position(BB, 1)) == [Text("bb two"), Text("aa one"), Text("aa two"), Text("cc one")]
    assert told(Position(AA, 2)) == [Text("cc one")], "what is older than the position is stored"
    assert [position for position, _ in read_put_aside(run, Position(AA, 1))] == [Position(AA, 2)]
    rundir.forget_journals(run)
    assert told(Position(BB, 1)) == [Text("cc one")]
    assert read_put_aside(run, None) == []


async def test_no_relay_is_a_failed_start(tmp_path: Path, agents: list[Agent]) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(WorkletStartFailed, match="did not answer"):
        await attach(agents, tmp_path, timeout=0.1)


async def test_closing_ends_the_events_and_refuses_prompts(
    relay: asyncio.subprocess.Process, tmp_path: Path, agents: list[Agent]
) -> None:
    agent = await attach(agents, tmp_path)
    reading = asyncio.create_task(take(agent, 1))
    await asyncio.sleep(0)
    await agent.close()
    assert await asyncio.wait_for(reading, 60) == []
    with pytest.raises(AgentGone):
        await agent.send("u", "x")
    assert relay.returncode is None
