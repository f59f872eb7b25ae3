"""One world in which things die again and again: people who talk, the program with its trap, the law after each run.

Everything random comes from one seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.world import API_KEY, ROOT, Program, World, environment, remove_worklets
from forked import fork
from law import Law
from law_records import SessionRecord, age_pool
from law_shown import Message, asked, of_turns
from program import CAUGHT
from stacks import BEGIN, END
from waiting import until

from simulator.model import ScriptedModel
from simulator.slack import SlackSimulator
from worklets.pooldemand import WINDOW

_TOLD_SECONDS = 30.0  # for a program to print its stacks, on a busy machine
_TAIL = 30  # lines of other logs
_ORPHANED = re.compile("Task was destroyed but it is pending|exception was never retrieved|was never awaited")


class TrappedProgram(Program):
    """The program behind `tests/chaos/program.py`, whose trap can be set while it runs."""

    @property
    def trap(self) -> Path:
        return Path(self.env["CHAOS_TRAP"])

    async def spawn(self, **changes: str) -> None:
        self.url = ""
        self.process = await fork(
            [str(Path(__file__).parent / "program.py"), "serve"], {**self.env, **changes}, self.cwd
        )
        self._reading = asyncio.create_task(self._read(self.process))

    def set_trap(self, point: str, times: int = 1, what: signal.Signals = signal.SIGKILL) -> None:
        """For the next start, and for the running program at once."""
        self.trap.write_text(json.dumps({"point": point, "times": times, "signal": what.name}))
        if self.alive:
            assert self.process
            self.process.send_signal(signal.SIGUSR1)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def dies(self, within: float) -> bool:
        """Waits for its end; False when it still lives."""
        assert self.process
        try:
            await asyncio.wait_for(self.process.wait(), within)
        except TimeoutError:
            return False
        return True

    def disarm(self) -> None:
        """The trap is gone; the running program forgets it."""
        self.trap.unlink(missing_ok=True)
        if self.alive:
            assert self.process
            self.process.send_signal(signal.SIGUSR1)

    def pause(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    async def stacks(self) -> list[str]:
        """What its tasks wait for now, line by line; taken out of its output."""
        if not self.alive or self.stands_still:
            return ["the program stands still\n" if self.alive else "the program is dead\n"]
        assert self.process
        seen = len(self.output)
        self.process.send_signal(signal.SIGUSR2)
        end = asyncio.get_running_loop().time() + _TOLD_SECONDS
        while f"{END}\n" not in self.output[seen:]:
            if asyncio.get_running_loop().time() > end:
                return ["the program does not print its stacks\n", *self.output[seen:]]
            await asyncio.sleep(0.05)
        told, self.output[seen:] = self.output[seen:], []
        return told[told.index(f"{BEGIN}\n") :]

    @property
    def stands_still(self) -> bool:
        """It was sent SIGSTOP, and no SIGCONT since."""
        assert self.process
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(errors="replace")
        return stat.rpartition(")")[2].split()[0] == "T"

    async def kill(self) -> bool:
        """Makes sure that it is dead, and the trap gone. True: the trap had been faster."""
        await self.end(signal.SIGKILL)
        self.trap.unlink(missing_ok=True)
        return any(CAUGHT in line for line in self.output[-5:])


@dataclass
class Storm:
    world: World
    program: TrappedProgram
    law: Law
    random: random.Random
    talking: set[asyncio.Task[object]] = field(default_factory=set)
    said: int = 0
    others: list[TrappedProgram] = field(default_factory=list)  # replicas
    explained: list[str] = field(default_factory=list)  # why it did not come to rest: rows, and what programs wait for
    _judged: dict[int, int] = field(default_factory=dict)  # lines of each program's log that were looked at

    # ---- people ----

    async def talk(self, prompts: int) -> None:
        """People write so many prompts, in new threads and old ones, now and in the next second."""
        for _ in range(prompts):
            how = self.random.choice((self._mention, self.command, self._direct, self._reply, self._reply))
            await how()
            if self.random.random() < 0.5:
                await asyncio.sleep(self.random.uniform(0, 0.5))
            if self.random.random() < 0.25:
                await self.meddle()

    async def _mention(self) -> None:
        await self.world.slack.post(self._someone(), self._channel(), f"@Flow {self._prompt()}")

    async def command(self) -> None:
        self._do(self.world.slack.command(self._someone(), self._channel(), "/flow", self._prompt()))

    async def _direct(self) -> None:
        person = self._someone()
        await self.world.slack.post(person, self.world.slack.dm(person).id, self._prompt())

    async def _reply(self) -> None:
        """In a thread that has a session; more often than not in the newest, which may be at work."""
        threads = [
            (str(session.row["channel"]), str(session.row["thread_ts"]))
            for session in (await self.law.records()).sessions
            if session.row["thread_ts"] is not None
        ]
        if not threads:
            await self._mention()
            return
        channel, thread_ts = threads[-1] if self.random.random() < 0.6 else self.random.choice(threads)
        await self.world.slack.post(self._member(channel), channel, self._prompt(), thread_ts=thread_ts)

    async def meddle(self) -> None:
        """Somebody presses a button of a live message, writes `stop`, or takes a message back or edits it."""
        await asyncio.sleep(self.random.uniform(0, 1))
        how = self.random.choice((self._press, self._press, self._stop, self._delete, self._edit))
        await how()

    async def _press(self) -> None:
        """Stop, Now or Take back; by whoever asked, else by anybody."""
        slack = self.world.slack
        live = [
            (message, button)
            for messages in of_turns(slack).values()
            for message in messages
            for button in message.buttons
            if button in ("stop_turn", "now", "take_back")
        ]
        if live:
            message, button = self.random.choice(live)
            self._do(self._click(message, button))

    async def _click(self, message: Message, button: str) -> None:
        for person in ("maya", "jonas"):
            with contextlib.suppress(KeyError):  # the button is gone meanwhile
                await self.world.slack.click(person, message.ts, button)

    async def _stop(self) -> None:
        if sessions := [s for s in (await self.law.records()).sessions if s.row["thread_ts"] is not None]:
            row = sessions[-1].row
            person = self._member(str(row["channel"]))
            await self.world.slack.post(person, str(row["channel"]), "stop", thread_ts=str(row["thread_ts"]))

    async def _delete(self) -> None:
        if own := self._newest():
            await self.world.slack.delete(*own)

    async def _edit(self) -> None:
        if own := self._newest():
            person, ts = own
            text = str(self.world.slack.record(ts).body["text"])
            await self.world.slack.edit(person, ts, text + "\nSAY edited")

    def _newest(self) -> tuple[str, str] | None:
        """The newest reply that a person wrote for the bot: author and ts."""
        replies = [one for one in asked(self.world.slack) if one.thread_ts is not None]
        if not replies:
            return None
        ts = max(replies, key=lambda one: one.source_id.partition(":")[2]).source_id.partition(":")[2]
        author = self.world.slack.record(ts).body["user"]
        return next(p for p in ("maya", "jonas") if self.world.slack.user(p).id == author), ts

    async def choose(self) -> bool:
        """Somebody decides how turns that were cut off go on. False: there was nothing to decide."""
        open_questions = [
            message
            for messages in of_turns(self.world.slack).values()
            for message in messages
            if "cut_continue" in message.buttons
        ]
        for message in open_questions:
            choice = self.random.choice(("cut_continue", "cut_again", "cut_leave"))
            await self.world.slack.click(self._member(message.channel), message.ts, choice)
        return bool(open_questions)

    def _do(self, what: Coroutine[Any, Any, object]) -> None:
        """What people do waits for an answer; they do not."""
        task: asyncio.Task[object] = asyncio.create_task(what)
        self.talking.add(task)
        task.add_done_callback(self.talking.discard)

    def _member(self, channel: str) -> str:
        members = self.world.slack.channel(channel).members
        return next(p for p in ("maya", "jonas") if self.world.slack.user(p).id in members)

    def _someone(self) -> str:
        return self.random.choice(("maya", "jonas"))

    def _channel(self) -> str:
        return self.random.choice(("general", "engineering"))

    def _prompt(self) -> str:
        """Words that stream, a command that counts its runs, or an answer of several messages."""
        self.said += 1
        tag = f"p{self.said}x"
        count = f"BASH echo x >> {tag}; sleep 0.{self.random.randint(1, 5)}; echo ran=$(wc -l < {tag})"
        return self.random.choice(
            (
                f"SAY {tag} begins\nWORDS {self.random.randint(20, 70)} 25",
                f"SAY {tag} begins\nWORDS {self.random.randint(20, 70)} 25\nTHINK about it\nSAY {tag} ends",
                f"SAY {tag} begins\n{count}\nWORDS 20 20",
                f"{count}\nSAY {tag} counted\n{count.replace(tag, tag + 'b')}\nSAY {tag} ends",
                f"SAY {tag} begins\nWORDS 10 20\nCODE 260" if self.random.random() < 0.3 else f"SAY {tag} only",
            )
        )

    # ---- the law ----

    async def judge(self, timeout: float = 240, mending: float = 0.0) -> list[str]:
        """The law's violations once all has come to rest; a busy machine takes minutes."""
        if self.talking:
            await asyncio.wait(self.talking)
        violations = await self.law.at_rest(timeout, mending)
        if not violations and await self.choose():
            violations = await self.law.at_rest(timeout, mending)
        violations += self._complaints()
        if violations and (unsettled := await self.law.unsettled()):
            await self._explain(unsettled)
        return violations

    async def _explain(self, unsettled: Sequence[SessionRecord]) -> None:
        """Sessions that do not come to rest: their rows, what each program waits for, what gateway and relays said."""
        for session in unsettled:
            rows = (session.row, *(turn.row for turn in session.turns if turn.row["ended_at"] is None))
            self.explained += [f"{session.name}: {dict(row)}\n" for row in rows]
        for program in (self.program, *self.others):
            self.explained += ["\n", *await program.stacks()]
        logs = [self.world.share_dir / "worklets" / str(one.row["worklet"]) / "relay.log" for one in unsettled]
        for path in (self.world.share_dir / "gateway" / "log", *logs):
            if path.exists():
                lines = path.read_text(errors="replace").splitlines(keepends=True)
                self.explained += [f"\n{path}:\n", *lines[-_TAIL:]]

    def _complaints(self) -> Iterator[str]:
        """What the programs' logs say of tasks that nobody owned."""
        for number, program in enumerate((self.program, *self.others)):
            news = program.output[self._judged.get(number, 0) :]
            self._judged[number] = len(program.output)
            yield from (f"a task was left over: {line[:400]}" for line in news if _ORPHANED.search(line))

    async def end(self) -> list[str]:
        """All sessions go to sleep, the program ends: what is left over."""

        async def awake() -> list[SessionRecord]:
            return [s for s in (await self.law.records()).sessions if s.row["status"] not in ("new", "asleep")]

        end = asyncio.get_running_loop().time() + 240
        while found := await awake():
            if asyncio.get_running_loop().time() > end:
                await self._explain(found)
                return [f"{session.name} does not fall asleep: it is {session.row['status']}" for session in found]
            await asyncio.sleep(0.05)
        codes = await asyncio.gather(*(program.end() for program in (self.program, *self.others)))
        if (self.program.env["FLOW_POOL_SIZE"] != "0" or self._forgotten()) and (stuck := await self._clear()):
            return stuck
        left = await self.law.left_over()
        left += [*self._complaints(), *([f"the programs ended with {codes}"] if any(codes) else [])]
        return left

    def _forgotten(self) -> list[Path]:
        """What a killed program was cloning. Nobody can know that it is dead, until a day is over."""
        return list(Path(self.program.env["TMPDIR"]).glob("flow-clone-*"))

    async def _clear(self) -> list[str]:
        """What stands ready is nobody's and stays for the next start; one without a pool removes it. What it left."""

        async def empty() -> bool:
            return not (await self.law.records()).pool and not self._forgotten()

        for path in self._forgotten():
            os.utime(path, (0, 0))
        if self.law.dsn.startswith("postgresql"):
            await age_pool(self.law.dsn, WINDOW)  # so long another replica may want what stands ready
        await self.program.start(FLOW_POOL_SIZE="0")
        try:
            await until(empty, timeout=240, what="the pool, and what was being cloned, to be removed")
        except AssertionError as late:
            await self._explain([])
            return [str(late), *(f"{name} stands ready" for name in (await self.law.records()).pool)]
        await self.program.end()
        return []

    @property
    def log(self) -> list[str]:
        """What the programs logged: the first one's, then the others'; and why sessions did not come to rest."""
        logged = [line for program in (self.program, *self.others) for line in ("\n", *program.output[-150:])]
        return [*logged, *self.explained]


@asynccontextmanager
async def open_storm(
    runtime: str, seed: str, tmp_path: Path, *, retry_delays: Sequence[float] = (0, 1, 2, 4, 8, 16, 32), **env: str
) -> AsyncIterator[Storm]:
    """A world with nothing in it; the program does not run yet. What it leaves behind is removed at the end."""
    share_dir, tmp = tmp_path / "data", tmp_path / "tmp"
    tmp.mkdir(parents=True)
    async with (
        SlackSimulator(manifest=ROOT / "manifest.yml", retry_delays=retry_delays, limit_scale=4) as slack,
        ScriptedModel(api_key=API_KEY) as model,
    ):
        given = {
            **environment(slack, model, tmp_path, runtime),
            "TMPDIR": str(tmp),
            "FLOW_LOG_FORMAT": "json",
            "FLOW_SESSION_TIMEOUT": "4s",
            "FLOW_CLAUDE_IDLE": "1.5s",
            "FLOW_MAX_SESSIONS": "4",
            "FLOW_POOL_SIZE": random.Random(f"pool {seed}").choice(("0", "1")),
            "CHAOS_TRAP": str(tmp_path / "trap.json"),
            **env,
        }
        program = TrappedProgram(given, tmp_path)
        world = World(slack, model, program, runtime, share_dir)
        law = Law(slack, model, share_dir, runtime, given.get("FLOW_DSN", ""), tmp)
        storm = Storm(world, program, law, random.Random(seed))
        try:
            yield storm
        finally:
            for one in (program, *storm.others):
                if one.alive:
                    await one.end(signal.SIGKILL)
            await remove_worklets(world)
