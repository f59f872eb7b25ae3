"""Sessions fall asleep and wake, the program stops and starts, containers die, the next one waits for a place."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest
from modelrequests import in_conversation
from waiting import until
from world import World, containers


async def test_a_session_sleeps_and_wakes_with_its_whole_context(world: World) -> None:
    await world.program.start(FLOW_SESSION_TIMEOUT="2s")
    ts = await world.slack.post("maya", "general", "@Flow BASH echo kept > kept.txt\nSAY before the sleep")
    await world.settled(ts, "before the sleep")
    await until(lambda: not containers(world), what="the container to be removed")
    assert "asleep" in (await world.program.flow("sessions", "list")).stdout
    await world.slack.post("maya", "general", "BASH cat kept.txt\nRECALL", thread_ts=ts)
    answer = await world.settled(ts, "SAY before the sleep")
    assert "cat kept.txt" in answer
    assert "kept" in str(in_conversation(world.model)[-1].body), "the workspace must have survived"


@pytest.mark.one_runtime
async def test_a_stopped_program_goes_on_in_the_same_message(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow WORDS 150 100")
    await world.see(ts, "word10 ")
    assert await world.program.end(signal.SIGTERM) == 0
    assert containers(world), "the container goes on while the program is away"
    await world.program.start()
    answer = await world.settled(ts, "word150")
    assert all(f"word{n} " in answer for n in range(1, 150))
    assert answer.count("word77 ") == 1
    assert len(world.thread(ts)) == 2, "the answer must stay in one message"


@pytest.mark.one_runtime
async def test_a_killed_program_loses_nothing_and_answers_once(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow HOLD here\nSAY the end of it")
    await world.model.held("here")
    await world.slack.post("jonas", "general", "SAY and the second", thread_ts=ts)
    await world.see(ts, "aiting")
    await world.program.end(signal.SIGKILL)
    await world.slack.post("maya", "general", "SAY written while away", thread_ts=ts)
    world.model.release("here")
    await world.program.start()
    await world.settled(ts, "the end of it")
    await world.settled(ts, "and the second")
    await world.settled(ts, "written while away")
    answers = [m for m in world.slack.messages("general", thread_ts=ts)[1:] if m["user"] == world.slack.bot_user_id]
    shown = [world.slack.visible_text(m) for m in answers]
    for text in ("the end of it", "and the second", "written while away"):
        assert len([x for x in shown if text in x]) == 1, shown
    assert len(shown) == 3


async def test_a_killed_container_is_replaced_and_the_turn_answered(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow SAY first\nHOLD mid\nSAY last words")
    await world.model.held("mid")
    _kill_worklet(world)
    world.model.release("mid")
    await world.settled(ts, "last words")
    await world.slack.post("maya", "general", "RECALL", thread_ts=ts)
    await world.settled(ts, "SAY first")


@pytest.mark.one_runtime
async def test_the_next_session_waits_for_a_place_and_says_so(world: World) -> None:
    await world.program.start(FLOW_MAX_SESSIONS="1")
    first = await world.slack.post("maya", "general", "@Flow HOLD place\nSAY one is done")
    await world.model.held("place")
    second = await world.slack.post("jonas", "general", "@Flow SAY two is done")
    await world.see(second, "aiting")
    world.model.release("place")
    await world.settled(first, "one is done")
    await world.settled(second, "two is done")


@pytest.mark.one_runtime
async def test_a_repository_comes_into_the_workspace_and_a_wrong_one_is_told(world: World) -> None:
    repository = world.share_dir.parent / "origin"
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run([*git, "init", "-q", repository], check=True)
    (repository / "README").write_text("from the repository")
    subprocess.run([*git, "-C", repository, "add", "."], check=True)
    subprocess.run([*git, "-C", repository, "commit", "-qm", "first"], check=True)
    await world.program.start()
    await world.slack.command(
        "maya",
        "general",
        "/flow",
        f"BASH cat README; git log --oneline; env\nSAY read it repo={repository} branch=main",
    )
    root = await world.root("read it")
    await world.settled(root, "read it")
    said = json.dumps(in_conversation(world.model)[-1].body)
    assert "from the repository" in said
    assert "GIT_BRANCH=main" in said
    await world.slack.command("maya", "general", "/flow", f"SAY never repo={repository}/nowhere")
    failed = await world.root("SAY never")
    answer = await world.see(failed, "could not be cloned")
    assert "Traceback" not in answer


@pytest.mark.one_runtime
async def test_health_tells_each_part_and_sigterm_drains(world: World) -> None:
    await world.program.start()
    status, body = await world.program.health()
    assert status == 200
    assert {part: body[part]["state"] for part in ("slack", "database", "runtime", "scheduler")} == {
        "slack": "connected",
        "database": "ok",
        "runtime": "ok",
        "scheduler": "running",
    }
    assert await world.program.end(signal.SIGTERM) == 0


@pytest.mark.one_runtime
async def test_flow_sessions_shows_and_stops(world: World) -> None:
    await world.program.start()
    ts = await world.slack.post("maya", "general", "@Flow HOLD cli\nSAY unreachable")
    await world.model.held("cli")
    listed = await world.program.flow("sessions", "list", "--live")
    assert "working" in listed.stdout, listed.stderr
    session_id = next(
        w for line in listed.stdout.splitlines() if "working" in line for w in line.split() if len(w) >= 8
    )
    assert "HOLD cli" in (await world.program.flow("sessions", "show", session_id)).stdout
    stopped = await world.program.flow("sessions", "stop", session_id)
    assert stopped.returncode == 0, stopped.stderr
    await world.see(ts, "topped")
    await until(lambda: not containers(world))


def _kill_worklet(world: World) -> None:
    if world.runtime == "docker":
        (container,) = containers(world)
        subprocess.run(["docker", "kill", container], check=True, capture_output=True)
        return
    (pid_file,) = world.share_dir.glob("worklets/*/pid*")
    os.killpg(int(json.loads(pid_file.read_text())["pid"]), signal.SIGKILL)
