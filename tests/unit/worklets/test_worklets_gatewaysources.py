"""A gateway's process is replaced when its code has changed: no file of it may be forgotten."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from worklets.gatewaycontrol import PROGRAM, sources

ROOT = Path(__file__).parents[3]
OURS = ("bot", "config", "kvstore", "migrations", "sessions", "web", "worklets")
LOADED = f"""
import json, sys
import {PROGRAM} as program
program.routes()
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in {OURS} and m.__file__]))
"""


def file_of(module: str) -> Path | None:
    base = ROOT / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imported(tree: ast.AST) -> Iterator[str]:
    """Also within functions; not what only type checkers read."""
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        return
    if isinstance(tree, ast.Import):
        yield from (one.name for one in tree.names)
    if isinstance(tree, ast.ImportFrom) and tree.module:
        yield from (tree.module, *(f"{tree.module}.{one.name}" for one in tree.names))
    for child in ast.iter_child_nodes(tree):
        yield from imported(child)


def needed(module: str) -> set[Path]:
    """The module's file, and those of all that it may ever import."""
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if path is not None and path not in found and name.partition(".")[0] in OURS:
            found.add(path)
            waiting += [name.rpartition(".")[0], *imported(ast.parse(path.read_text()))]
    return found


def test_all_that_a_process_may_load_decides_its_version() -> None:
    known, wanted = set(sources()), needed(PROGRAM)
    assert wanted <= known, sorted(str(path.relative_to(ROOT)) for path in wanted - known)


def test_so_does_all_that_one_has_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, check=True)
    loaded = {Path(path) for path in json.loads(done.stdout)}
    assert ROOT / "worklets" / "gitdoor.py" in loaded
    assert loaded <= set(sources())
