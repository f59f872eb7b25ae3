"""What the thread says when a worklet has used up what it may."""

from __future__ import annotations

import pytest
from world import World


@pytest.mark.timeout(400)
@pytest.mark.parametrize("runtime", [pytest.param("docker", marks=pytest.mark.docker)], indirect=True)
async def test_a_disk_that_fills_is_told_and_ends_the_turn_and_the_next_one_tidies_up(world: World) -> None:
    await world.program.start(FLOW_WORKLET_DISK="64m", FLOW_WORKLET_PIDS="400")
    fill = (
        "BASH head -c 58000000 /dev/zero > big\nHOLD near\nBASH head -c 20000000 /dev/zero > more; sleep 100\nSAY never"
    )
    ts = await world.slack.post("maya", "general", f"@Flow {fill}")
    await world.model.held("near")
    await world.see(ts, "of 64 MiB are used in this thread's workspace. At 64 MiB I have to stop.", timeout=100)
    world.model.release("near")
    ended = await world.see(ts, "disk is full", timeout=100)
    assert "have Claude delete what is not needed" in ended
    assert "FLOW_WORKLET_DISK" in ended
    await world.slack.post("maya", "general", "BASH rm big more && ls -A\nSAY tidy again", thread_ts=ts)
    await world.settled(ts, "tidy again", timeout=100)
    assert not any("never" in one for one in world.thread(ts)[1:])


@pytest.mark.parametrize("runtime", ["local"], indirect=True)
async def test_a_turn_that_takes_too_long_is_ended_and_the_thread_goes_on(world: World) -> None:
    await world.program.start(FLOW_TURN_TIMEOUT="20s")  # the next turn has to do with as much
    ts = await world.slack.post("maya", "general", "@Flow SAY a beginning\nBASH sleep 600\nSAY never")
    ended = await world.see(ts, "This took longer than 20s, so I had to stop here.")
    assert "Write again to go on" in ended
    assert any("a beginning" in one for one in world.thread(ts)[1:])
    await world.slack.post("maya", "general", "SAY on it goes", thread_ts=ts)
    await world.see(ts, "on it goes")
