"""Anything may happen at any moment: people write, edit and stop, worklets and databases fail, the program is killed.

Hypothesis chooses what happens and how many rounds of the event loop lie between; what is against the law ends the
run, and is shortened to the fewest steps. After each run everything is mended, and every message must come to one end.
`make chaos` runs many more.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scripted import Process
from statefulpeople import PEOPLE, People, one_of
from statefulworld import SWEEP, World

from sessions.types import Prompt, ThreadId
from worklets.errors import AgentGone, RuntimeUnavailable, WorkletStartFailed
from worklets.events import Text, TextDelta, ToolFinished, ToolStarted

CHAOS = settings.get_current_profile_name() == "chaos"


class Claude:
    world: World

    def _working(self) -> list[Process]:
        return [process for process in self.world.host.processes.values() if process.running and not process.dead]

    def preview(self, pick: int) -> None:
        if working := self._working():
            one_of(working, pick).say(TextDelta(f"so far {self.world.moment()}"))

    def text(self, pick: int) -> None:
        if working := self._working():
            one_of(working, pick).say(Text(f"said {self.world.moment()}"))

    def read(self, pick: int) -> None:
        """A tool that changes nothing."""
        if working := self._working():
            number = str(self.world.moment())
            one_of(working, pick).say(ToolStarted(number, "Read", {"file_path": "a"}), ToolFinished(number, ok=True))

    def begin_bash(self, pick: int) -> None:
        if working := self._working():
            process, number = one_of(working, pick), str(self.world.moment())
            process.say(ToolStarted(number, "Bash", {"command": "make"}))
            self.world.changed(process)

    def bash(self, pick: int) -> None:
        if working := self._working():
            process = one_of(working, pick)
            self.begin_bash(pick)
            process.say(ToolFinished(str(self.world.moments), ok=True))

    def ask_people(self, pick: int) -> None:
        """Now and then in the very words of before."""
        if working := self._free():
            one_of(working, pick).ask("Bash", {"command": f"touch {pick}"})

    def answer(self, pick: int) -> None:
        if working := self._free():
            one_of(working, pick).answer("answered")

    def _free(self) -> list[Process]:
        """Those that wait for nobody."""
        return [process for process in self._working() if not process.asks]

    def fail(self, pick: int) -> None:
        if working := self._working():
            process = one_of(working, pick)
            self.world.may_fail(process)
            process.end("failed", "The model refused.")

    def be_stubborn(self, pick: int) -> None:
        """Ignores interrupts; every second one SIGTERM, too."""
        if working := self._working():
            process = one_of(working, pick)
            process.stubborn, process.deaf = True, bool(pick % 2)


CLAUDE = {
    "preview": 1, "text": 3, "read": 1, "bash": 3, "begin_bash": 2, "answer": 6, "fail": 1, "be_stubborn": 1,
    "ask_people": 3,
}  # fmt: skip


class Faults:
    world: World

    def _alive(self) -> list[Process]:
        return [process for process in self.world.host.processes.values() if not process.dead]

    def die(self, pick: int) -> None:
        if alive := self._alive():
            self.world.lost(one_of(alive, pick)).die()

    def cut_off(self, pick: int) -> None:
        """What is said from now on is found in the journal only."""
        if alive := self._alive():
            self.world.lost(one_of(alive, pick)).cut()

    def exit(self, pick: int) -> None:
        if alive := self._alive():
            self.world.lost(one_of(alive, pick)).exit(1, "out of memory")

    def refuse_to_open(self, pick: int) -> None:
        self.world.host.refusals.append((RuntimeUnavailable, WorkletStartFailed, AgentGone)[pick % 3]())
        self.world.everybody_may_fail()

    def hang(self, _pick: int) -> None:
        """Worklets do not get up."""
        self.world.gate.clear()

    def lose_engine(self, _pick: int) -> None:
        self.world.host.unavailable = RuntimeUnavailable()
        self.world.more_may_live = True
        self.world.everybody_may_fail()

    def lose_database(self, _pick: int) -> None:
        self.world.program.db.down = True
        self.world.more_may_live = True

    def lose_commit(self, _pick: int) -> None:
        """It succeeds, and nobody hears of it."""
        self.world.program.db.unheard += 1

    def mend(self, _pick: int) -> None:
        self.world.mend()

    def kill(self, _pick: int) -> None:
        self.world.kill()

    def restart(self, pick: int) -> None:
        self.world.restart(grace=(0.0, 5.0)[pick % 2])


FAULTS = {
    "die": 3, "cut_off": 2, "exit": 2, "refuse_to_open": 1, "hang": 1, "lose_engine": 1, "lose_database": 1,
    "lose_commit": 1, "mend": 4, "kill": 4, "restart": 2,
}  # fmt: skip


class Time:
    world: World

    def pass_moment(self, _pick: int) -> None:
        self.world.loop.advance(0.6)

    def pass_seconds(self, _pick: int) -> None:
        self.world.loop.advance(11)

    def pass_minutes(self, _pick: int) -> None:
        self.world.loop.advance(120)

    def pass_half_an_hour(self, _pick: int) -> None:
        self.world.loop.advance(1900)

    def wait_in_vain(self, pick: int) -> None:
        """Whoever waits for people is put to sleep."""
        self.world.loop.advance(1900)
        self.sweep(pick)

    def sweep(self, _pick: int) -> None:
        if self.world.program.ready:
            self.world.spawn(self.world.program.reaper.ring())


TIME = {"pass_moment": 4, "pass_seconds": 2, "pass_minutes": 1, "pass_half_an_hour": 1, "wait_in_vain": 2, "sweep": 3}

ACTS = st.sampled_from([act for acts in (PEOPLE, CLAUDE, TIME, FAULTS) for act, n in acts.items() for _ in range(n)])
#: Rounds of the event loop after an act; None: until nothing moves.
THEN = st.sampled_from([None, None, None, 0, 1, 2, 3, 5, 8, 13, 21])


class Machine(People, Claude, Faults, Time, RuleBasedStateMachine):
    failed = False

    @initialize(places=st.integers(1, 3))
    def begin(self, places: int) -> None:
        self.world = World(places)
        self.world.loop.settle()

    @rule(act=ACTS, pick=st.integers(0, 5), then=THEN)
    def happens(self, act: str, pick: int, then: int | None) -> None:
        getattr(self, act)(pick)
        if then is None:
            self.world.loop.settle()
        for _ in range(then or 0):
            self.world.loop.step()

    @invariant()
    def lawful(self) -> None:
        if hasattr(self, "world"):
            try:
                self.world.check()
            except AssertionError:
                self.failed = True
                raise

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.failed:
                self._finish_all()
                self._probe()
                self.world.all_asleep()
        finally:
            self.world.end()

    def _finish_all(self) -> None:
        """Everything works again, Slack sends again what was not acknowledged, and Claude answers everything."""
        self.world.mend()
        self.world.loop.advance(20)
        assert self.world.program.ready, "the program does not start"
        for number in range(10 + len(self.world.asked)):
            if number > 1 and not self.world.is_busy():
                break
            for asked in self.world.asked:
                if asked.acknowledged is None and not asked.prompt.source_id.startswith("resume"):
                    self.submit(asked)
            self.sweep(0)
            self.world.loop.advance(SWEEP)
            for process in self._working():
                process.stubborn = process.deaf = False
                if not process.asks:
                    process.answer("answered at last")
            for pick in range(6):
                self.decide(pick)
                self.world.loop.settle()
            self.world.loop.advance(1)
            self.world.show()
            self.world.loop.settle()
        self.world.all_ended()

    def _probe(self) -> None:
        """Every thread still answers."""
        for thread in sorted({str(asked.prompt.thread.thread_ts) for asked in self.world.asked if asked.turn_id}):
            number = len(self.world.asked) + 1
            ts = f"{1_700_000_000 + number * 10}.000000"
            asked = self.world.writes(Prompt(ThreadId("T1", "C1", thread), f"C1:{ts}", ts, "U1", f"probe {number}"))
            self.submit(asked)
            self.world.loop.advance(5)
            assert asked.turn_id, f"nobody took {asked.prompt.text}"
            state = self.world.row(asked.turn_id)["state"]
            assert state == "done", f"the thread is stuck: a message that came last is {state}"
        self.world.show()
        self.world.loop.advance(1)
        self.world.all_shown()


Machine.TestCase.settings = settings(
    max_examples=settings().max_examples if CHAOS else 15,
    stateful_step_count=50 if CHAOS else 40,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
# What it finds, it shortens. In a run that is cut off by its time a session's task dies, which looks like a stuck turn.
TestAnythingMayHappen = pytest.mark.timeout(4 * 3600 if CHAOS else 600)(Machine.TestCase)
