"""What the process before had still said when it ended: kept for the session until all of it is stored."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from worklets import rundir
from worklets.agent import Agent, Tail, read_put_aside, read_tail
from worklets.events import Position, PromptTaken, Retrying

log = structlog.get_logger(__name__)


def keep_tail(run_dir: Path, position: Position | None) -> Tail:
    """What the predecessor said last. The new relay deletes its journal, so it is put aside until all is stored."""
    tail = read_tail(run_dir, position)
    if any(not isinstance(event, PromptTaken | Retrying) for _, events in tail.batches for event in events):
        try:
            rundir.put_journal_aside(run_dir)
        except OSError as error:
            log.warning("a journal could not be put aside", journal=str(run_dir), error=str(error))
    return tail


async def with_put_aside(agent: Agent, run_dir: Path, position: Position | None) -> Agent:
    """The agent of a process that we had stored nothing of: before it, others may have said something."""
    if position is None or position.epoch != agent.epoch:
        try:
            agent.earlier = await asyncio.to_thread(read_put_aside, run_dir, position)
        except BaseException:
            await agent.close()
            raise
    return agent
