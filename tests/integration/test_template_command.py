"""`flow templates`: kept as files, beside a running Flow; what is wrong is told before anything is stored."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from bot.cli import main
from sessions.db import open_database
from sessions.templates import drafted
from sessions.templatestore import TemplateStore

REVIEW: dict[str, Any] = {
    "name": "review",
    "description": "looks at code",
    "public": True,
    "config": {"mode": "plan", "resources": {"memory": 1 << 30}},
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path / "share"))


def flow(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["templates", *words])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_files_go_in_and_come_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert flow(capsys, "list") == (0, "no templates\n")
    (tmp_path / "review.json").write_text(json.dumps(REVIEW))
    (tmp_path / "more.json").write_text(json.dumps([{"name": "b", "owner": "U1"}, {"name": "review", "owner": "U2"}]))
    assert flow(capsys, "import", "--check", "review.json", "more.json") == (0, "3 templates are right\n")
    assert flow(capsys, "list")[1] == "no templates\n"
    code, said = flow(capsys, "import", "review.json", "more.json")
    assert (code, said) == (0, "made review (admins)\nmade b (U1)\nmade review (U2)\n")
    assert flow(capsys, "import", "review.json")[1] == "unchanged review (admins)\n"
    (tmp_path / "review.json").write_text(json.dumps({**REVIEW, "description": "reads code"}))
    assert flow(capsys, "import", "review.json")[1] == "changed review (admins)\n"
    (tmp_path / "review.json").write_text(json.dumps(REVIEW))
    flow(capsys, "import", "review.json")
    listed = flow(capsys, "list", "CODE")[1]
    assert "looks at code" in listed
    assert "U1" not in listed
    assert json.loads(flow(capsys, "list", "--json")[1])[0] == {"name": "b", "description": "", "public": False,
                                                                "owner": "U1", "config": {}}  # fmt: skip
    code, said = flow(capsys, "show", "review")
    assert code == 1
    assert "Say whose it is with --owner: admins, U2." in said
    assert json.loads(flow(capsys, "show", "review", "--owner", "admins")[1]) == REVIEW
    assert flow(capsys, "export", "--directory", "out")[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b@U1.json", "review.json", "review@U2.json"]
    exported = flow(capsys, "export", "review")[1]
    assert flow(capsys, "rm", "review", "--owner", "U2") == (0, "deleted review (U2)\n")
    assert flow(capsys, "rm", "review", "--owner", "U2")[0] == 1
    (tmp_path / "all.json").write_text(exported)
    assert flow(capsys, "import", "all.json")[1] == "unchanged review (admins)\nmade review (U2)\n"


def test_a_server_that_there_is_not_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"name": "a", "config": {"mcp_servers": ["playwrigth", "fetch"]}}))
    code, said = flow(capsys, "import", "--check", "one.json")
    assert code == 0
    assert said.startswith("1 template is right\nflow: a: there is no MCP server playwrigth; there are github, ")
    assert said.count("flow:") == 1
    code, said = flow(capsys, "import", "one.json")
    assert code == 0
    assert said.startswith("made a (admins)\nflow: a: there is no MCP server playwrigth; ")
    assert flow(capsys, "export", "--directory", "out") == (0, "wrote 1 template to out\n")


def test_no_terminal_obeys_what_a_template_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"name": "sly", "config": {"env": {"A": "\x9b2J\u202e\x1b[2J", "B": "Größe"}}}
    (tmp_path / "sly.json").write_text(json.dumps(said))
    assert flow(capsys, "import", "sly.json")[0] == 0
    shown = flow(capsys, "show", "sly")[1]
    assert shown.isascii()
    assert "\x1b" not in shown
    assert json.loads(shown)["config"] == said["config"]
    assert flow(capsys, "export", "--directory", "out")[0] == 0
    assert "Größe" in (tmp_path / "out" / "sly.json").read_text(), "people read the files"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is no JSON"),
        ("[5]", "one JSON object"),
        ('{"name": "A b"}', "wrong.json, template 1: The name must"),
        ('[{"name": "a"}, {"name": "b", "config": {"colour": 1}}]', "template 2: colour: is nothing"),
        ('[{"name": "a"}, {"name": "a"}]', "is in the files twice"),
        ('{"name": "a", "owner": "maya"}', "owner must be the id"),
    ],
)
def test_nothing_is_stored_where_one_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, words: str
) -> None:
    (tmp_path / "wrong.json").write_text(content)
    code, said = flow(capsys, "import", "wrong.json")
    assert code == 1
    assert words in said
    assert flow(capsys, "list")[1] == "no templates\n"
    assert "cannot be read" in flow(capsys, "import", "nowhere.json")[1]
    assert "is nobody's id" in flow(capsys, "import", "wrong.json", "--owner", "maya")[1]


async def test_it_works_beside_a_running_flow_and_reads_stdin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    assert await asyncio.to_thread(flow, capsys, "list") == (0, "no templates\n")
    database = open_database(f"sqlite://{tmp_path}/share/db.sqlite")  # exclusive, as a running Flow has it
    try:
        store = TemplateStore(database)
        await store.add(drafted("mine", "", {}), "U1")
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(REVIEW)))
        assert (await asyncio.to_thread(flow, capsys, "import", "-", "--owner", "U1"))[0] == 0
        assert [one.name for one in await store.list("U1")] == ["mine", "review"]
    finally:
        await database.close()
