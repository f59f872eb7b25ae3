"""How the Claude Code CLI is started: its command line and environment. Pure.

The flags are those of CLI 2.1.329, the version inside the pinned `claude-agent-sdk` wheel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from worklets.files import OPEN_PREVIEW, SEND_FILE
from worklets.permissions import Permissions

if TYPE_CHECKING:
    from worklets.egress import EgressPolicy

_ALL = Permissions()

#: Checklist tools, Grep and Glob are off unless they are named.
TOOLS = (
    "Bash,Read,Edit,Write,Grep,Glob,Task,TaskCreate,TaskUpdate,TaskList,TaskGet,"
    "AskUserQuestion,EnterPlanMode,ExitPlanMode"
)

#: The environment variable that names the conversation that a fork goes on from.
FORK_OF = "FLOW_FORK_OF"

_SYSTEM_PROMPT = """\
You are talking with people in a Slack thread, through Flow. Your answers are shown there as Slack messages, so keep \
them short and use plain Markdown. You work in a container of your own; /work/workspace is your workspace and outlives \
the container. {reach} What \
people attach to their messages lies in attachments/ there; with the tool send_file you show them a file or an image. \
Programs that you write can keep data in this worklet's key-value store, in Python with \
`from kvstore import create_worklet_kv_store`, in JavaScript with \
`import {{createWorkletKVStore}} from "@flow/kvstore"`; it needs no set-up. `cat $FLOW_KV_GUIDE` tells how to use it."""
_NO_NETWORK = "The container has no network: commands that need one fail, so say so instead of trying again."
_PROXY = """\
The container's only way out is Flow's proxy, which HTTP_PROXY and HTTPS_PROXY name: it reaches {reached}. All else it \
refuses with status 403 and a sentence: pass that on, with the host that Flow's administrator would have to allow, \
instead of trying again.{asked} There is no DNS and no protocol but HTTP and HTTPS, so clone with https."""
_ASKED = """ \
For {hosts} people in the thread are asked when you connect, and the connection waits for their answer, up to \
{seconds:.0f} seconds: so try it once, with no shorter time limit."""

# The transcript decides, not what Flow remembers: a crash can fall between the CLI's writing it and Flow's knowing it.
# The CLI refuses --session-id when the file exists, and --resume when it holds no message yet; a file without
# a message has nothing to lose. A fork goes on from another conversation on its copy of that one's volume.
_START = """\
id=$1; shift
[ -z "$VAULT_TOKEN" ] || export VAULT_ADDR="$ANTHROPIC_BASE_URL/flow/vault"
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


def system_prompt(egress: EgressPolicy | None = None) -> str:
    """What Claude is told about where it is. `egress` is what it may reach; None: nothing."""
    if egress is None or egress.mode == "none":
        return _SYSTEM_PROMPT.format(reach=_NO_NETWORK)
    asked = _ASKED.format(hosts=egress.askable(), seconds=egress.ask_wait) if egress.asks else ""
    return _SYSTEM_PROMPT.format(reach=_PROXY.format(reached=egress.described(), asked=asked))


def claude_command(
    session_id: str,
    *,
    model: str | None = None,
    append_system_prompt: str | None = None,
    sender: Sequence[str] = (),
    permissions: Permissions = _ALL,
    mcp_servers: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[str, ...]:
    """The argv that starts or resumes conversation `session_id` (a uuid): resumes when HOME holds a transcript of it.

    `sender` is the argv of the MCP server with `send_file`; without one there is none. `mcp_servers` are further ones,
    as --mcp-config has them.
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
        # What is allowed here could never be taken back from the process; it is applied before the first prompt.
        f"--settings={json.dumps(replace(permissions, allow=()).settings())}",
        f"--tools={TOOLS}",
        "--setting-sources=",  # settings in a cloned repository could run commands
        "--strict-mcp-config",
        f"--append-system-prompt={append_system_prompt or system_prompt()}",
        "--system-prompt-snapshot=off",  # else the text of the first start stays for ever
    ]
    servers: dict[str, Mapping[str, Any]] = dict(mcp_servers or {})
    if sender:
        servers["flow"] = {"command": sender[0], "args": list(sender[1:])}
        flags.append(f"--allowedTools={SEND_FILE},{OPEN_PREVIEW}")  # they look where they may themselves
    if servers:
        flags.append(f"--mcp-config={json.dumps({'mcpServers': servers})}")
    if model:
        flags.append(f"--model={model}")
    return ("sh", "-c", _START, "claude", session_id, *flags)


def claude_env(gateway_token: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The CLI's environment. `gateway_token` is no Anthropic key: the gateway puts the real one in its place."""
    return {
        **(extra or {}),
        "ANTHROPIC_API_KEY": gateway_token,
        "FLOW_GATEWAY_TOKEN": gateway_token,  # the same under a name that the configuration of MCP servers may use
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # else turns start that nobody asked for
        "CLAUDE_CODE_STREAM_EVENT_HOLD_MS": "100",  # joins text deltas: a tenth of the lines, the same text
        "MCP_PROTOCOL_NEGOTIATION": "legacy",  # else it first asks our server what else it might speak
        "API_TIMEOUT_MS": "120000",  # until the response's headers; the default is six minutes
        "IS_SANDBOX": "1",  # lets root skip permissions (the local runtime)
    }
