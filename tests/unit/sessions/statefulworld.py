"""A disk, a host and people who write, that outlive the program; and the laws that hold whatever happens to it.

`World` is moved by the state machine (test_sessions_stateful.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from incarnation import TIMEOUT, Program
from lockstep import Disk, Loop
from scripted import Process, ScriptedHost

from sessions.errors import StoreUnavailable
from sessions.events import Settled
from sessions.loss import again_id
from sessions.types import (
    Cut,
    Done,
    Failed,
    Interrupted,
    Outcome,
    Prompt,
    SessionId,
    ThreadId,
    TurnId,
    TurnState,
    Withdrawn,
)
from worklets.errors import RuntimeUnavailable
from worklets.events import ToolFinished, ToolStarted, TurnEnded

_BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
_STATES: dict[type[Outcome], TurnState] = {
    Done: TurnState.DONE,
    Failed: TurnState.FAILED,
    Interrupted: TurnState.INTERRUPTED,
    Withdrawn: TurnState.WITHDRAWN,
    Cut: TurnState.CUT,
}
SWEEP = 30.0  # seconds between two passes of the reaper


@dataclass
class Asked:
    """A message that somebody wrote, as its door knows it."""

    prompt: Prompt
    first_tried: int  # in the order of all that happens
    acknowledged: int | None = None
    turn_id: TurnId | None = None
    session_id: SessionId | None = None
    deleted: bool = False
    may_be: set[type[Outcome]] = field(default_factory=set)  # besides Done


class Laws:
    def __init__(self) -> None:
        self.broken: list[str] = []
        self.outcomes: dict[TurnId, Outcome] = {}  # what was told, by any run of the program

    def broke(self, text: str) -> None:
        self.broken.append(text)

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.broke(text)


class World:
    def __init__(self, max_sessions: int) -> None:
        self.max_sessions = max_sessions
        self.loop = Loop()
        self.disk = Disk()
        self.laws = Laws()
        self.host = ScriptedHost()
        self.host.on_start = self._on_start
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[Asked] = []
        self.processes: list[Process] = []
        self.effects: set[tuple[str, str]] = set()  # process and prompt for which it has changed something
        self.moments = 0
        self.faults = 0  # of worklets and their engine
        self.tasks: set[asyncio.Task[Any]] = set()
        self.dead: list[Program] = []
        self.asides: list[str] = []  # said in threads of sessions, and acknowledged
        self.stopping: Counter[ThreadId] = Counter()  # stops that have not returned, by thread
        self.given: dict[str, str] = {}  # with which turn Claude was given them
        self.began: list[str] = []  # prompts in the order in which Claude first got them
        self.more_may_live = False
        self._logs = structlog.testing.capture_logs(processors=[structlog.processors.format_exc_info])
        self.logs = self._logs.__enter__()
        self.program = self._start()

    # -- time ---------------------------------------------------------

    def clock(self) -> datetime:
        return _BEGIN + timedelta(seconds=self.loop.now)

    def moment(self) -> int:
        self.moments += 1
        return self.moments

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if (
            not task.cancelled()
            and (error := task.exception())
            and not isinstance(error, (StoreUnavailable, RuntimeUnavailable))
        ):
            self.laws.broke(f"{task.get_coro()} raised {error!r}")

    def check(self) -> None:
        """Raises AssertionError about the first law that was broken."""
        for entry in self.logs:
            if entry["log_level"] in ("error", "critical"):
                self.laws.broke(f"an error in the log: {entry}")
        assert not self.laws.broken, "\n".join(self.laws.broken)

    # -- the program ---------------------------------------------------------

    def _start(self) -> Program:
        program = Program(self)
        self.spawn(program.start())
        return program

    def kill(self) -> None:
        """SIGKILL, and a new start."""
        self.program.power.cut()
        self.dead.append(self.program)
        self.program = self._start()

    def restart(self, grace: float) -> None:
        self.loop.settle()
        if not self.program.ready:
            return self.kill()
        self.loop.finish(self.program.end(grace))
        self.dead.append(self.program)
        self.program = self._start()
        return None

    def end(self) -> None:
        """Lets go of everything, also after a failure."""
        self.gate.set()
        for program in (*self.dead, self.program):
            program.power.cut()
            program.power.over = True
        for _ in range(20):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            for _ in range(10):
                self.loop.step()
        for program in (*self.dead, self.program):
            program.power.close()
        self._logs.__exit__(None, None, None)
        self.loop.close()
        self.disk.remove()

    def mend(self) -> None:
        """Nothing fails any more."""
        self.gate.set()
        self.host.refusals.clear()
        self.host.unavailable = None
        self.program.db.down, self.program.db.unheard = False, 0

    def writes(self, prompt: Prompt) -> Asked:
        asked = Asked(prompt, self.moment())
        if self.host.refusals or self.host.unavailable:
            asked.may_be.add(Failed)
        if self.stopping[prompt.thread]:
            asked.may_be.add(Interrupted)
        self.asked.append(asked)
        return asked

    def may_be_interrupted(self, asked: Asked, besides: Asked | None = None) -> None:
        for other in self.asked:
            if other.prompt.thread == asked.prompt.thread and other is not besides:
                other.may_be.add(Interrupted)

    def changed(self, process: Process) -> None:
        assert process.running
        self.effects.add((process.epoch, self.turn_of(process, process.running)))

    def may_fail(self, process: Process) -> None:
        if process.running and (asked := self.of(self.turn_of(process, process.running))):
            asked.may_be.add(Failed)

    def lost(self, process: Process) -> Process:
        self.everybody_may_fail()
        return process

    def everybody_may_fail(self) -> None:
        self.faults += 1
        for asked in self.asked:
            asked.may_be.add(Failed)

    # -- what must be true at the end ---------------------------------------------------------

    def show(self) -> None:
        """The door has shown all ends that it was told."""
        program = self.program
        for turn_id, told in program.told.items():
            if turn_id not in program.delivered and any(isinstance(event, Settled) for event in told):
                self.spawn(program.deliver(turn_id))

    def is_busy(self) -> bool:
        unheard = any(asked.acknowledged is None for asked in self.asked)
        return unheard or bool(self.disk.look("select id from turns where ended_at is null or not delivered limit 1"))

    def all_ended(self) -> None:
        for row in self.disk.look("select * from turns"):
            name, state = self.name(row["id"]), TurnState(row["state"])
            asked = self.of(row["id"])
            self.laws.expect(asked is not None, f"nobody asked for {name}")
            self.laws.expect(state.settled, f"{name} is stuck: {state}")
            lawful = {_STATES[Done], *(_STATES[kind] for kind in asked.may_be)} if asked else set()
            allowed = self.disk.look("select id from asks where state = 'allowed' and turn_id = ?", row["id"])
            if self.faults and (allowed or any(row["id"] == turn_id for _, turn_id in self.effects)):
                lawful.add(TurnState.CUT)
            self.laws.expect(state in lawful, f"{name} must not be {state}: {row['error']}")
            left = self.disk.look("select id from asks where state = 'open' and turn_id = ?", row["id"])
            self.laws.expect(not left, f"{name} has ended, and people are asked still")
            if told := self.laws.outcomes.get(row["id"]):
                self.laws.expect(_STATES[type(told)] is state, f"{name} is {state}, and {told} was told")
        for asked in self.asked:
            if not asked.prompt.source_id.startswith("resume"):  # nobody presses a button again by himself
                self.laws.expect(bool(asked.turn_id) or asked.deleted, f"{asked.prompt.source_id} was lost")
        self.check()

    def all_shown(self) -> None:
        """By the door to people, and what was said aside to Claude."""
        left = self.disk.look("select id from turns where not delivered")
        self.laws.expect(not left, f"never told of: {[self.name(row['id']) for row in left]}")
        unheard = [aside for aside in self.asides if aside not in self.given]
        self.laws.expect(not unheard, f"Claude never heard of {unheard}")
        self.check()

    def all_asleep(self) -> None:
        self.loop.advance(TIMEOUT.total_seconds() + 1)
        self.loop.finish(self.program.reaper.sweep())
        awake = self.disk.look("select id, status from sessions where status not in ('asleep', 'new')")
        self.laws.expect(not awake, f"awake: {[tuple(row) for row in awake]}")
        alive = [process.name for process in self.host.processes.values() if not process.dead]
        self.laws.expect(not alive, f"worklets left over: {alive}")
        self.check()
        self.loop.finish(self.program.end(0))
        left = [task for task in asyncio.all_tasks(self.loop) if task.get_loop() is self.loop]
        hanging = [task for task in left if not self.dead]
        self.laws.expect(not hanging, f"tasks left over: {hanging}")

    # -- what is noted ---------------------------------------------------------

    def _on_start(self, process: Process) -> None:
        process.on_allowed = lambda: self.changed(process)
        self.processes.append(process)
        alive = [one for one in self.host.processes.values() if not one.dead]
        if not self.more_may_live:
            self.laws.expect(len(alive) <= self.max_sessions, f"{len(alive)} worklets at once")

    def of(self, turn_id: str) -> Asked | None:
        """Also of a turn whose door has not heard that it was stored."""
        source = self.row(turn_id)["source_id"]
        return next((asked for asked in self.asked if source == asked.prompt.source_id), None)

    def name(self, turn_id: str) -> str:
        asked = self.of(turn_id)
        return asked.prompt.source_id if asked else turn_id

    def row(self, turn_id: str) -> Any:
        return self.disk.look("select * from turns where id = ?", turn_id)[0]

    def settled(self, turn_id: TurnId, outcome: Outcome) -> None:
        known = self.laws.outcomes.setdefault(turn_id, outcome)
        self.laws.expect(type(known) is type(outcome), f"{self.name(turn_id)} ended as {known}, then as {outcome}")

    def sent(self, program: Program, process: Process, prompt_id: str, text: str, context: Sequence[str]) -> None:
        turn_id = self.turn_of(process, prompt_id)
        expect, row, name = self.laws.expect, self.row(turn_id), self.name(turn_id)
        expect(row["state"] == "running", f"{name} was put to Claude though it is {row['state']}")
        expect(row["text"] == text, f"{name} was put to Claude as {text!r}, and says {row['text']!r}")
        program.sent[process.epoch, turn_id] += 1
        expect(program.sent[process.epoch, turn_id] == 1, f"{name} was put twice to one process")
        for other in self.processes:
            given = [known for known, _ in other.prompts if self.turn_of(other, known) == turn_id]
            if given and other is not process:
                expect(other.dead, f"{name} was put to two processes that live")
                again = _slept_well(other) or (other.epoch, turn_id) not in self.effects
                expect(again, f"{name} was run again after a side effect")
                expect(not _ended(other, given), f"{name} was put to Claude again after its end")
        for aside in self.asides:
            if aside in "".join(context):
                given_with = self.given.setdefault(aside, turn_id)
                expect(given_with == turn_id, f"{aside} was given with {self.name(given_with)} and with {name}")
        if turn_id not in self.began:
            self._in_order(turn_id, row)
            self.began.append(turn_id)

    def turn_of(self, process: Process, prompt_id: str) -> str:
        """The turn of a prompt, which goes to a process in the place of a lost one under a name of its own."""
        for row in self.disk.look("select id from turns"):
            if prompt_id in (row["id"], again_id(row["id"], process.epoch)):
                return str(row["id"])
        raise AssertionError(f"a prompt of no turn: {prompt_id}")

    def _in_order(self, prompt_id: str, row: Any) -> None:
        mine = self.of(prompt_id)
        if row["hurried"] or mine is None:
            return
        for other in self.asked:
            if (
                other.session_id == mine.session_id
                and other.prompt.ts < mine.prompt.ts
                and other.acknowledged is not None
                and other.acknowledged < mine.first_tried
                and other.turn_id is not None
                and other.turn_id not in self.began
                and self.row(other.turn_id)["ended_at"] is None
            ):
                self.laws.broke(f"{mine.prompt.source_id} went before {other.prompt.source_id}")


def _slept_well(process: Process) -> bool:
    """It was ended while it waited for people, and nothing ran beside."""
    said = [event for batch in process.journal for event in batch]
    finished = {event.tool_id for event in said if isinstance(event, ToolFinished)} | set(process.asks.values())
    return process.slept and all(event.tool_id in finished for event in said if isinstance(event, ToolStarted))


def _ended(process: Process, prompt_ids: list[str]) -> bool:
    """Its end stands in the process' journal."""
    said = [event for batch in process.journal for event in batch]
    return any(isinstance(event, TurnEnded) and set(prompt_ids) & set(event.prompt_ids) for event in said)
