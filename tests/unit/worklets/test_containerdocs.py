"""docs/container-yaml.md: its example is in order, and its table knows every key and every built-in server."""

from __future__ import annotations

import re
from pathlib import Path

from worklets.containerkeys import KEYS
from worklets.containeryaml import parse
from worklets.mcpservers import BUILT_IN

PAGE = (Path(__file__).parents[3] / "docs" / "container-yaml.md").read_text()


def test_the_example_says_all_that_a_file_can_say() -> None:
    example = re.findall(r"```yaml\n(# \.claude/container\.yaml\n.*?)```", PAGE, re.DOTALL)
    config, faults = parse(example[0].encode())
    assert faults == []
    assert set(config.lines) == {key.path for key in KEYS}
    assert {server.name: server.builtin for server in config.mcp_servers} == {
        "github": "github", "database": "postgres", "tracker": None, "issues": None, "lint": None,
    }  # fmt: skip


def test_the_tables_know_every_key_and_server() -> None:
    keys = re.findall(r"^\| `([a-zA-Z.]+)` \|", PAGE, re.MULTILINE)
    assert keys == [key.path for key in sorted(KEYS, key=lambda key: keys.index(key.path))] + list(BUILT_IN)
