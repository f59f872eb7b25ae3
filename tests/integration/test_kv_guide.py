"""The guide that Claude reads in a worklet: its examples run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from kvserving import Served, Source

from kvstore.client import WorkletKVStore
from worklets.local import GUIDE, show_clients

_CODE = re.compile(r"^## (\w+).*?\n\n((?:    .*\n|\n)+)", re.MULTILINE)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A local worklet's environment, of a gateway over SQLite."""
    (tmp_path / "kv").mkdir()
    with Served(Source("sqlite", str(tmp_path / "kv" / "kv.sqlite"), str(tmp_path / "kv" / "key.pem"))) as served:
        worklet = served.worklet()
        (tmp_path / "token").write_text(served.key.mint_worklet(worklet))
        yield {
            "PATH": "/usr/local/bin:/usr/bin:/bin", "FLOW_KV_URL": served.url, "FLOW_WORKLET_ID": worklet,
            "FLOW_KV_TOKEN_FILE": str(tmp_path / "token"), "PYTHONPATH": str(show_clients(tmp_path)),
        }  # fmt: skip


def examples() -> dict[str, str]:
    return {language: textwrap.dedent(code) for language, code in _CODE.findall(GUIDE.read_text())}


def run(command: list[str], env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_of_the_guide_runs(env: dict[str, str], tmp_path: Path) -> None:
    lines = examples()["Python"].splitlines()
    (endless,) = [line for line in lines if "store.watch(" in line]
    assert hasattr(WorkletKVStore, "watch")
    code = "\n".join(line for line in lines if line != endless)
    assert "kvstore" in code
    (tmp_path / "example.py").write_text(code)
    run([sys.executable, "example.py"], env, tmp_path)


def test_the_javascript_of_the_guide_runs(env: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / "worklets" / "w" / "work" / "workspace" / "example.mjs"
    program.parent.mkdir(parents=True)
    program.write_text(examples()["JavaScript"])
    assert "Ada" in run(["node", str(program)], env, program.parent)


def test_links_follow_flow_when_it_moves(tmp_path: Path) -> None:
    python = show_clients(tmp_path)
    (python / "kvstore").unlink()
    (python / "kvstore").symlink_to(tmp_path / "an older place")
    assert show_clients(tmp_path) == python
    assert (python / "kvstore" / "client.py").is_file()
    assert sorted(path.name for path in python.iterdir()) == ["kvstore"], "nothing else of Flow can be imported there"
