"""How the Claude Code CLI is started: its command line and environment. Pure.

The flags are those of CLI 2.1.329, the version inside the pinned `claude-agent-sdk` wheel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from worklets.files import SEND_FILE
from worklets.permissions import Permissions

_ALL = Permissions()

#: Checklist tools, Grep and Glob are off unless they are named.
TOOLS = (
    "Bash,Read,Edit,Write,Grep,Glob,Task,TaskCreate,TaskUpdate,TaskList,TaskGet,"
    "AskUserQuestion,EnterPlanMode,ExitPlanMode"
)

#: The environment variable that names the conversation that a fork goes on from.
FORK_OF = "FLOW_FORK_OF"

SYSTEM_PROMPT = """\
You are talking with people in a Slack thread, through Flow. Your answers are shown there as Slack messages, so keep \
them short and use plain Markdown. You work in a container of your own; /work/workspace is your workspace and outlives \
the container. The container has no network: commands that need one fail, so say so instead of trying again. What \
people attach to their messages lies in attachments/ there; with the tool send_file you show them a file or an image."""

# The transcript decides, not what Flow remembers: a crash can fall between the CLI's writing it and Flow's knowing it.
# The CLI refuses --session-id when the file exists, and --resume when it holds no message yet; a file without
# a message has nothing to lose. A fork goes on from another conversation on its copy of that one's volume.
_START = """\
id=$1; shift
for file in "$HOME"/.claude/projects/*/"$id".jsonl; do
  [ -f "$file" ] || continue
  if grep -q '"type":"user"' "$file"; then exec claude --resume="$id" "$@"; fi
  rm -f "$file"
done
for file in "$HOME"/.claude/projects/*/"${FLOW_FORK_OF:-none}".jsonl; do
  [ -f "$file" ] || continue
  exec claude --resume="$FLOW_FORK_OF" --fork-session --session-id="$id" "$@"
done
exec claude --session-id="$id" "$@"
"""


def claude_command(
    session_id: str,
    *,
    model: str | None = None,
    append_system_prompt: str = SYSTEM_PROMPT,
    sender: Sequence[str] = (),
    permissions: Permissions = _ALL,
) -> tuple[str, ...]:
    """The argv that starts or resumes conversation `session_id` (a uuid): resumes when HOME holds a transcript of it.

    `sender` is the argv of the MCP server with `send_file`; without one there is none.
    The container is the boundary: by default everything is allowed in it, and Claude goes on while Flow is away.
    """
    flags = [
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool=stdio",  # without it the CLI refuses by itself whatever it would ask
        "--allow-dangerously-skip-permissions",  # else the mode cannot become bypassPermissions later
        f"--permission-mode={permissions.cli_mode}",
        f"--settings={json.dumps(permissions.settings())}",
        f"--tools={TOOLS}",
        "--setting-sources=",  # settings in a cloned repository could run commands
        "--strict-mcp-config",
        f"--append-system-prompt={append_system_prompt}",
        "--system-prompt-snapshot=off",  # else the text of the first start stays for ever
    ]
    if sender:
        server = {"command": sender[0], "args": list(sender[1:])}
        flags.append(f"--mcp-config={json.dumps({'mcpServers': {'flow': server}})}")
        flags.append(f"--allowedTools={SEND_FILE}")  # it looks where it may itself
    if model:
        flags.append(f"--model={model}")
    return ("sh", "-c", _START, "claude", session_id, *flags)


def claude_env(gateway_token: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The CLI's environment. `gateway_token` is no Anthropic key: the gateway puts the real one in its place."""
    return {
        **(extra or {}),
        "ANTHROPIC_API_KEY": gateway_token,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # else turns start that nobody asked for
        "CLAUDE_CODE_STREAM_EVENT_HOLD_MS": "100",  # joins text deltas: a tenth of the lines, the same text
        "MCP_PROTOCOL_NEGOTIATION": "legacy",  # else it first asks our server what else it might speak
        "API_TIMEOUT_MS": "120000",  # until the response's headers; the default is six minutes
        "IS_SANDBOX": "1",  # lets root skip permissions (the local runtime)
    }
