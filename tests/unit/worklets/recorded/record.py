"""Records what the real CLI says to the scripted model: `PYTHONPATH=. python tests/unit/worklets/recorded/record.py`.

With names after it, only those cases. Run it after an upgrade of the CLI; the tests of `worklets/wire.py` and of
whole conversations (tests/unit/bot/golden) read the files. Paths of the recording
machine are replaced by those of a worklet.
"""

import asyncio
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import claude_agent_sdk

from simulator.model import ScriptedModel
from worklets.claude import claude_command, claude_env
from worklets.permissions import Permissions
from worklets.wire import allow_line, deny_line, interrupt_line, prompt_line

HERE = Path(__file__).parent
TOOLS = "BASH echo one; echo two\nBASH exit 3\nWRITE a.txt first line\nREAD a.txt\nWRITE a.txt second line\nSAY done"
SEARCHES = """\
WRITE a.py one
TOOL Edit {"file_path": "a.py", "old_string": "one", "new_string": "two\\nthree"}
TOOL Grep {"pattern": "t"}
TOOL Grep {"pattern": "t", "output_mode": "content"}
TOOL Grep {"pattern": "t", "output_mode": "count"}
TOOL Glob {"pattern": "*.zzz"}"""
CHECKLIST = """\
TOOL TaskCreate {"subject": "First", "description": "do it", "activeForm": "Doing the first"}
TOOL TaskCreate {"subject": "Second", "description": "do it"}
TOOL TaskUpdate {"taskId": "1", "status": "completed"}
TOOL TaskUpdate {"taskId": "9", "status": "completed"}
TOOL TaskList {}"""
AGENT = (
    'TOOL Agent {"description": "Look around", "subagent_type": "general-purpose", '
    '"prompt": "BASH echo inner\\nREAD a.txt\\nSAY sub done"}'
)
LONG = r"""SAY # What the numbers say\n\nThe three services **differ** in what they cost, and in how *fast*.\n\n
SAY | service | calls | p99 |\n|:---|---:|---:|\n| `gateway` | 120 | 14 ms |\n| <b>bot</b> | 7 | 90 ms |\n\n
SAY See [the report](https://example.com/report) or [https://example.com](https://example.org/else).\n\n
SAY > A quote, @channel and <!channel>.\n\n## How to measure it\n\n
SAY 1. Start the server.\n2. Ask it.\n   - [x] once\n   - [ ] twice\n\n
CODE 450
SAY \n\n---\n\n| step | done |\n|---|---|\n| first | yes |\n\nThat is all."""
CASES: dict[str, list[str]] = {
    "long": [LONG],
    "permission": ["SAY I need two commands.\nBASH touch x\nBASH rm -r y\nSAY The second one was not allowed."],
    "question": ["ASK Which database? | SQLite | PostgreSQL\nSAY Then that one."],
    "plan": ["PLAN # The plan\\n\\n1. Read it\\n2. Write it\nSAY Begun."],
    "text": ["SAY Hello there, this is the answer."],
    "thinking_tools": [f"THINK let me see\nSAY Looking.\n{TOOLS}"],
    "searches": [SEARCHES],
    "checklist": [CHECKLIST],
    "agent": [AGENT],
    "two_turns": ["SAY first", "RECALL"],
    "interrupt": ["WORDS 5 20\nHOLD never", "SAY after"],
    "interrupt_tool": ["BASH sleep 60"],
    "overloaded_once": ["ERROR 529 1\nSAY better now"],
    "cut": ["WORDS 30 10\nCUT\nSAY end"],
    "bad_request": ["ERROR 400"],
    "refused": ["ERROR 401"],
    "commands": ["SAY hello", "/context", "/compact focus on x", "/clear", "RECALL"],
}


#: Cases in which Claude must ask, and the CLI's mode of permissions.
MODES = {"permission": "ask", "plan": "plan", "question": "ask"}


async def record(case: str, prompts: list[str]) -> None:
    async with ScriptedModel() as model:
        with tempfile.TemporaryDirectory() as root:
            lines = await _run(case, prompts, model, Path(root))
            text = (
                "\n".join(lines).replace(f"{root}/home", "/work/home").replace(f"{root}/workspace", "/work/workspace")
            )
    (HERE / f"{case}.jsonl").write_text(text + "\n", encoding="utf-8")
    print(f"{case}: {len(lines)} lines")


async def _run(case: str, prompts: list[str], model: ScriptedModel, root: Path) -> list[str]:
    for name in ("home", "workspace"):
        (root / name).mkdir()
    bundled = Path(claude_agent_sdk.__file__).parent / "_bundled"
    env = {"PATH": f"{bundled}:{os.environ['PATH']}", "HOME": str(root / "home"), "ANTHROPIC_BASE_URL": model.url}
    process = await asyncio.create_subprocess_exec(
        *claude_command(
            str(uuid.uuid4()), append_system_prompt="Test.", permissions=Permissions(MODES.get(case, "auto"))
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=root / "workspace",
        env=env | claude_env("token"),
        limit=1 << 26,
    )
    assert process.stdin
    assert process.stdout
    said: list[str] = []

    def write(line: dict[str, Any]) -> None:
        assert process.stdin
        process.stdin.write(json.dumps(line).encode() + b"\n")

    for prompt in prompts:
        write(prompt_line(str(uuid.uuid4()), prompt))
        async for raw in process.stdout:
            said.append(_trimmed(raw))
            line = json.loads(raw)
            if line["type"] == "result":
                break
            if line["type"] == "control_request":
                write(_reply(line))
            elif _is_moment(case, prompt, line):
                if case == "interrupt":
                    await model.held("never")
                write(interrupt_line("stop"))
    process.stdin.close()
    said += [_trimmed(raw) async for raw in process.stdout]
    await process.wait()
    return said


def _reply(line: dict[str, Any]) -> dict[str, Any]:
    """What people say to what Claude asks: no to `rm`, the first choice, and yes to everything else."""
    request, request_id = line["request"], line["request_id"]
    given = request["input"]
    if given.get("command", "").startswith("rm"):
        return deny_line(request_id, "Not that one.")
    if request["tool_name"] == "AskUserQuestion":
        answers = {one["question"]: one["options"][0]["label"] for one in given["questions"]}
        return allow_line(request_id, given | {"answers": answers})
    return allow_line(request_id, mode="default" if request["tool_name"] == "ExitPlanMode" else None)


def _is_moment(case: str, prompt: str, line: dict[str, Any]) -> bool:
    """Whether now is the time to interrupt."""
    if case == "interrupt" and "HOLD" in prompt:
        return line["type"] == "stream_event" and line["event"]["type"] == "content_block_delta"
    if case == "interrupt_tool":
        return line["type"] == "assistant"
    return case == "refused" and line.get("subtype") == "api_retry"


def _trimmed(raw: bytes) -> str:
    line = json.loads(raw)
    if line.get("subtype") == "init":
        line = {k: v for k, v in line.items() if isinstance(v, str | bool)}
    return json.dumps(line, ensure_ascii=False)


async def main() -> None:
    for case in sys.argv[1:] or CASES:
        await record(case, CASES[case])


if __name__ == "__main__":
    asyncio.run(main())
