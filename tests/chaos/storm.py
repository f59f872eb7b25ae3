"""One world in which things die again and again: people who talk, the program with its trap, the law after each run.

Everything random comes from one seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from e2e.world import API_KEY, ROOT, Program, World, remove_worklets
from law import Law
from program import CAUGHT
from waiting import until

from simulator.model import ScriptedModel
from simulator.slack import SlackSimulator


class TrappedProgram(Program):
    """The program behind `tests/chaos/program.py`, whose trap can be set while it runs."""

    @property
    def trap(self) -> Path:
        return Path(self.env["CHAOS_TRAP"])

    async def spawn(self, **changes: str) -> None:
        self.url = ""
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).parent / "program.py"), "serve", env={**self.env, **changes},
            cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read(self.process))

    def set_trap(self, point: str, times: int = 1) -> None:
        """For the next start, and for the running program at once."""
        self.trap.write_text(json.dumps({"point": point, "times": times}))
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

    # ---- people ----

    async def talk(self, prompts: int) -> None:
        """People write so many prompts, in new threads and old ones, now and in the next second."""
        for _ in range(prompts):
            how = self.random.choice((self._mention, self._command, self._direct, self._reply, self._reply))
            await how()
            if self.random.random() < 0.5:
                await asyncio.sleep(self.random.uniform(0, 0.5))

    async def _mention(self) -> None:
        await self.world.slack.post(self._someone(), self._channel(), f"@Flow {self._prompt()}")

    async def _command(self) -> None:
        command = self.world.slack.command(self._someone(), self._channel(), "/flow", self._prompt())
        task: asyncio.Task[object] = asyncio.create_task(command)  # waits for its acknowledgement
        self.talking.add(task)
        task.add_done_callback(self.talking.discard)

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
        members = self.world.slack.channel(channel).members
        person = next(p for p in ("maya", "jonas") if self.world.slack.user(p).id in members)
        await self.world.slack.post(person, channel, self._prompt(), thread_ts=thread_ts)

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

    async def judge(self, timeout: float = 90) -> list[str]:
        """The law's violations once all has come to rest."""
        if self.talking:
            await asyncio.wait(self.talking)
        return await self.law.at_rest(timeout)

    async def end(self) -> list[str]:
        """All sessions go to sleep, the program ends: what is left over."""

        async def asleep() -> bool:
            return all(s.row["status"] in ("new", "asleep") for s in (await self.law.records()).sessions)

        await until(asleep, timeout=60, what="the sessions to sleep")
        code = await self.program.end()
        left = await self.law.left_over()
        return [*left, f"the program ended with {code}"] if code else left


@asynccontextmanager
async def open_storm(runtime: str, seed: str, tmp_path: Path, **env: str) -> AsyncIterator[Storm]:
    """A world with nothing in it; the program does not run yet. What it leaves behind is removed at the end."""
    share_dir, tmp = tmp_path / "data", tmp_path / "tmp"
    tmp.mkdir()
    async with (
        SlackSimulator(manifest=ROOT / "manifest.yml", retry_delays=(0, 1, 2, 4, 8), limit_scale=4) as slack,
        ScriptedModel(api_key=API_KEY) as model,
    ):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "SLACK_APP_TOKEN": slack.app_token,
            "SLACK_BOT_TOKEN": slack.bot_token,
            "SLACK_API_URL": slack.api_url,
            "SLACK_BOT_DEBUG": "true",
            "ANTHROPIC_API_KEY": API_KEY,
            "ANTHROPIC_BASE_URL": model.url,
            "FLOW_SHARE_DIR": str(share_dir),
            "FLOW_HTTP_PORT": "0",
            "FLOW_RUNTIME": runtime,
            "FLOW_SESSION_TIMEOUT": "4s",
            "FLOW_MAX_SESSIONS": "4",
            "FLOW_GRACE": "1s",
            "CHAOS_TRAP": str(tmp_path / "trap.json"),
            **env,
        }
        program = TrappedProgram(environment, tmp_path)
        world = World(slack, model, program, runtime, share_dir)
        law = Law(slack, model, share_dir, runtime, environment.get("FLOW_DSN", ""), tmp)
        try:
            yield Storm(world, program, law, random.Random(seed))
        finally:
            if program.alive:
                await program.end(signal.SIGKILL)
            await remove_worklets(world)
