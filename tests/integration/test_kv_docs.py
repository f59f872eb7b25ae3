"""Every example of docs/kvstore.md and of README's passage runs, and gives what it says after the arrow."""

from __future__ import annotations

import ast
import http.client
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from urllib.parse import urlsplit

import pytest
from kvserving import Served, Source

from bot.cli import main
from kvstore.client import WorkletKVStore
from kvstore.gateway.functions import FUNCTIONS

ROOT = Path(__file__).parents[2]
ARROW = " → "
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FIRST_JS = 'import { createWorkletKVStore } from "@flow/kvstore";\nconst store = createWorkletKVStore();\n'
_IS_JS = """import { inspect } from "node:util";
const is = (found, told) => {
  if (inspect(found) !== told) throw new Error(`${inspect(found)} is not ${told}`);
};
"""


class World:
    """A worklet of a gateway over SQLite in `data`, as the environment tells it."""

    def __init__(self, served: Served, home: Path) -> None:
        self.served, self.home = served, home
        self.worklet = served.worklet()
        self.token = served.key.mint_worklet(self.worklet)
        self.names: dict[str, object] = {"__name__": "example"}
        (home / "token").write_text(self.token)
        self.environment = {
            "FLOW_KV_URL": served.url,
            "FLOW_WORKLET_ID": self.worklet,
            "FLOW_KV_TOKEN_FILE": str(home / "token"),
        }

    def python(self, text: str) -> None:
        lines = text.split("\n")
        for node in ast.parse(text).body:
            said = lines[(node.end_lineno or node.lineno) - 1].partition("#" + ARROW)[2].strip()
            if isinstance(node, ast.Expr) and said:
                code: CodeType = compile(ast.Expression(node.value), text, "eval")
                assert repr(eval(code, self.names)) == said, ast.unparse(node)
            else:
                assert not said, f"{said}: only of an expression can it be looked at"
                exec(compile(ast.Module([node], []), text, "exec"), self.names)

    def js(self, text: str) -> None:
        checked = re.sub(
            r"^(.*?);? +//" + ARROW + "(.*)$", lambda m: f"is({m[1]}, {json.dumps(m[2])});", text, flags=re.M
        )
        if "import " not in checked:
            checked = _FIRST_JS + checked
        package = self.home / "node_modules/@flow/kvstore"
        if not package.exists():
            package.parent.mkdir(parents=True)
            package.symlink_to(ROOT / "kvstore/typescript")
        (self.home / "example.mjs").write_text(_IS_JS + checked)
        command = ["node", "example.mjs"]
        done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{checked}\n{done.stderr}"

    def sh(self, text: str) -> None:
        for line in text.strip().split("\n"):
            words = shlex.split(line.replace("--worklet 1f0c", f"--worklet {self.worklet}"))
            assert words[0] == "flow"
            assert main(words[1:]) == 0, line

    def http(self, text: str) -> None:
        head, body, *answer = text.strip().split("\n\n")
        (method, path), *headers = (line.split(maxsplit=1) for line in head.split("\n"))
        named = {name.rstrip(":"): value.replace("<token>", self.token) for name, value in headers}
        connection = http.client.HTTPConnection(urlsplit(self.served.url).netloc, timeout=60)
        connection.request(method, path, body, named)
        response = connection.getresponse()
        said = response.read()
        connection.close()
        if answer:
            status, _, told = answer[0].partition(" ")
            assert (str(response.status), json.loads(said)) == (status, json.loads(told))
        else:
            assert response.status == 200, said

    def text(self, text: str) -> None:
        """Settings and other programs' commands."""
        assert not re.search(r"^(flow|from|import) ", text, re.MULTILINE)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    (tmp_path / "data/kv").mkdir(parents=True)
    source = Source("sqlite", str(tmp_path / "data/kv/kv.sqlite"), str(tmp_path / "data/kv/signing-key.pem"))
    monkeypatch.chdir(tmp_path)
    with Served(source) as served:
        made = World(served, tmp_path)
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made
        if store := made.names.get("store"):
            store.close()  # type: ignore[attr-defined]


def run(world: World, text: str) -> list[str]:
    """Runs each block by its language; which languages there were."""
    blocks = _BLOCK.findall(text)
    for language, block in blocks:
        getattr(world, language)(block)
    return [language for language, _ in blocks]


@pytest.mark.node
def test_every_example_of_the_page_does_what_it_says(world: World) -> None:
    ran = run(world, (ROOT / "docs/kvstore.md").read_text())
    assert {language: ran.count(language) >= least for language, least in LEAST.items()} == dict.fromkeys(LEAST, True)


LEAST = {"python": 10, "js": 2, "sh": 2, "http": 3}


def test_the_example_of_the_readme_does_what_it_says(world: World) -> None:
    readme = (ROOT / "README.md").read_text()
    section = readme.split("## Data that stays")[1].split("\n## ")[0]
    assert run(world, section) == ["python", "sh"]


@pytest.mark.parametrize("page", ["docs/README.md", "docs/kvstore.md"])
def test_links_of_the_page_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.split("\n")
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if path:
            assert ((ROOT / page).parent / path).exists(), target
        else:
            assert anchor in headings, target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in index] == []


def test_what_an_example_says_is_looked_at(world: World) -> None:
    with pytest.raises(AssertionError):
        world.python("1 + 1  # → 3")
    with pytest.raises(AssertionError, match="only of an expression"):
        world.python("a = 1  # → 1")
    with pytest.raises(AssertionError):
        world.http("POST /rest/v1/rpc/kv_has\nAuthorization: Bearer <token>\n\n{}\n\n200 true")


def test_every_operation_and_function_of_the_tables_is_there() -> None:
    page = (ROOT / "docs/kvstore.md").read_text()
    rows = [
        line.split(" | ")
        for line in page.split("## Operations")[1].split("\n### ")[0].split("\n")
        if line.startswith("| `")
    ]
    python, typescript = ({name for row in rows for name in re.findall(r"`(\w+)\(", row[column])} for column in (0, 1))
    public = {name for name in dir(WorkletKVStore) if not name.startswith("_")} - {"close"}
    assert python == public
    source = (ROOT / "kvstore/typescript/src/store.ts").read_text()
    assert [name for name in typescript if not re.search(rf"^  (async )?\*?{name}[<(]", source, re.MULTILINE)] == []
    assert len(typescript) == len(python)
    functions = page.split("| function | arguments")[1].split("\n\n")[0]
    told = {
        name: set(re.findall(r"`(p_\w+)=?`", row))
        for name, row in re.findall(r"^\| `(kv_\w+)` \|(.*)$", functions, re.M)
    }
    wanted = {n: {a.name for a in f.arguments} - {"p_worklet_id"} for n, f in FUNCTIONS.items()}
    assert told == wanted
