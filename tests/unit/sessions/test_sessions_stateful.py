"""Anything may happen at any moment: people write, edit and stop, worklets and databases fail, the program is killed.

Hypothesis chooses what happens and how many rounds of the event loop lie between; what is against the law ends the
run, and is shortened to the fewest steps. After each run everything is mended, and every message must come to one end.
`make chaos` runs many more.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from scripted import Process
from statefulpeople import PICK, THEN, People, one_of
from statefulworld import SWEEP, Asked

from sessions.types import Prompt, ThreadId
from worklets.errors import AgentGone, RuntimeUnavailable, WorkletStartFailed
from worklets.events import Text, TextDelta, ToolFinished, ToolStarted

CHAOS = settings.get_current_profile_name() == "chaos"


class Machine(People):
    # -- Claude ---------------------------------------------------------

    def working(self) -> list[Process]:
        return [process for process in self.world.host.processes.values() if process.running and not process.dead]

    @precondition(lambda self: self.working())
    @rule(pick=PICK, what=st.sampled_from(["preview", "text", "read", "bash", "bash begins"]), then=THEN)
    def say(self, pick: int, what: str, then: int | None) -> None:
        process, number = one_of(self.working(), pick), str(self.world.moment())
        match what:
            case "preview":
                process.say(TextDelta(f"so far {number}"))
            case "text":
                process.say(Text(f"said {number}"))
            case "read":
                process.say(ToolStarted(number, "Read", {"file_path": "a"}), ToolFinished(number, ok=True))
            case "bash":
                process.say(ToolStarted(number, "Bash", {"command": "make"}))
                process.say(ToolFinished(number, ok=True))
            case "bash begins":
                process.say(ToolStarted(number, "Bash", {"command": "make"}))
        if what.startswith("bash"):
            self.world.changed(process)
        self.go_on(then)

    @precondition(lambda self: self.working())
    @rule(pick=PICK, how=st.sampled_from(["done", "done", "failed"]), then=THEN)
    def finish(self, pick: int, how: str, then: int | None) -> None:
        process = one_of(self.working(), pick)
        if how == "done":
            process.answer("answered")
        else:
            self.world.may_fail(process)
            process.end("failed", "The model refused.")
        self.go_on(then)

    @precondition(lambda self: self.working())
    @rule(pick=PICK, then=THEN)
    def be_stubborn(self, pick: int, then: int | None) -> None:
        one_of(self.working(), pick).stubborn = True
        self.go_on(then)

    # -- faults ---------------------------------------------------------

    @precondition(lambda self: self.alive())
    @rule(pick=PICK, how=st.sampled_from(["die", "cut", "exit"]), then=THEN)
    def lose(self, pick: int, how: str, then: int | None) -> None:
        process = one_of(self.alive(), pick)
        self.world.lost(process)
        if how == "exit":
            process.exit(1, "out of memory")
        else:
            getattr(process, how)()
        self.go_on(then)

    def alive(self) -> list[Process]:
        return [process for process in self.world.host.processes.values() if not process.dead]

    @rule(error=st.sampled_from([RuntimeUnavailable, WorkletStartFailed, AgentGone]), then=THEN)
    def refuse_to_open(self, error: Any, then: int | None) -> None:
        self.world.host.refusals.append(error())
        self.world.everybody_may_fail()
        self.go_on(then)

    @rule(what=st.sampled_from(["opening", "engine", "database", "commit"]), then=THEN)
    def trouble(self, what: str, then: int | None) -> None:
        """It begins, or ends."""
        match what:
            case "opening":  # hangs
                (self.world.gate.clear if self.world.gate.is_set() else self.world.gate.set)()
            case "engine":
                self.world.turn_the_engine()
            case "database":
                self.world.program.db.down = not self.world.program.db.down
                self.world.over_limit_excused = True
            case "commit":
                self.world.program.db.unheard += 1
        self.go_on(then)

    @rule(how=st.sampled_from(["killed", "at once", "gently"]), then=THEN)
    def restart(self, how: str, then: int | None) -> None:
        if how == "killed":
            self.world.kill()
        else:
            self.world.restart(5.0 if how == "gently" else 0.0)
        self.go_on(then)

    # -- time ---------------------------------------------------------

    @rule(seconds=st.sampled_from([0.1, 0.6, 3.0, 11.0, 60.0, 1900.0]))
    def wait(self, seconds: float) -> None:
        self.world.loop.advance(seconds)

    @rule(then=THEN)
    def sweep(self, then: int | None) -> None:
        if self.world.program.ready:
            self.world.spawn(self.world.program.reaper.sweep())
        self.go_on(then)

    # -- the end ---------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.failed:
                self.world.mend()
                self._finish_all()
                self.world.check()
                self._probe()
                self.world.check()
        finally:
            self.world.end()

    def _finish_all(self) -> None:
        """Everything works again, Slack sends again what was not acknowledged, and Claude answers everything."""
        for _ in range(10 + len(self.world.asked)):
            for asked in self.world.asked:
                if asked.acknowledged is None:
                    self.submit(asked)
            self.sweep(None)
            self.world.loop.advance(SWEEP)
            for process in self.working():
                process.stubborn = False
                process.answer("answered at last")
            self.world.loop.advance(1)
            self.world.show()
            self.world.loop.settle()
        self.world.all_ended()

    def _probe(self) -> None:
        """Every thread still answers."""
        for thread in {asked.prompt.thread.thread_ts for asked in self.world.asked if asked.turn_id}:
            number = len(self.world.asked) + 1
            ts = f"{1_700_000_000 + number * 10}.000000"
            prompt = Prompt(ThreadId("T1", "C1", thread), f"C1:{ts}", ts, "U1", f"probe {number}")
            asked = Asked(prompt, self.world.moment())
            self.world.asked.append(asked)
            self.submit(asked)
            self.world.loop.advance(5)
            assert asked.turn_id, f"nobody took {prompt.text}"
            state = self.world.row(asked.turn_id)["state"]
            assert state == "done", f"the thread is stuck: a message that came last is {state}"
        self.world.show()
        self.world.loop.advance(1)
        self.world.all_shown()
        self.world.all_given()
        self.world.all_sleep()


Machine.TestCase.settings = settings(
    max_examples=settings().max_examples if CHAOS else 30,
    stateful_step_count=50 if CHAOS else 30,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestAnythingMayHappen = Machine.TestCase
