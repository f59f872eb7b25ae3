"""What people see of repositories with names: `/flow repos`, the modal, `flow repos`, `flow doctor`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from githost import git

from bot import cli
from bot.branchsearch import NOTE, found, parted
from bot.newmodal import Start, read_start, start_modal
from bot.parts import fallback
from bot.repodoctor import repositories as doctor
from bot.repositories import repositories_blocks, script_choices
from config.settings import load
from sessions.templates import Template, TemplateConfig, TemplateId
from simulator.elements import check_suggestions
from worklets.repositories import Repository
from worklets.startup import Script

KNOWN = [
    Repository("app", "https://me:hunter22@h.example/o/app.git", "dev"),
    Repository("web", "git@h:o/web.git", None),
]
SCRIPTS = [Script("setup"), Script("seed", "app"), Script("seed", "web"), Script("only", "app")]


def test_repositories_are_listed_without_their_passwords() -> None:
    said = fallback(repositories_blocks(KNOWN, SCRIPTS))
    assert "hunter22" not in said
    assert "• `app`: https://h.example/o/app.git at `dev`, startup scripts `seed`, `only`" in said
    assert "for all of them, in `/flow new`: `setup`" in said
    assert "FLOW_REPOSITORIES" in fallback(repositories_blocks([], []))
    many = [Repository(f"r{n}", "https://h/o/r", None) for n in range(200)]
    blocks = repositories_blocks(many, [])
    assert all(len(block["text"]["text"]) <= 3000 for block in blocks if block["type"] == "section")
    assert "And 150 more" in fallback(blocks)


def test_scripts_of_one_name_are_one_choice() -> None:
    assert script_choices(SCRIPTS) == {"setup": "setup", "seed": "seed (app, web)", "only": "only (app)"}


def test_repositories_and_branches_are_found_by_parts_of_their_names() -> None:
    long = "x" * 160
    known = [("app", ["feature/new-login", "main", "fix/login", "login", long]), ("web", ["main", "\u202egnp.exe"])]

    def values(typed: str) -> list[str]:
        return [one["value"] for one in found(typed, known)]

    assert values("") == ["app", "web", "app feature/new-login", "app main", "app fix/login", "app login", "web main",
                          "web \u202egnp.exe", "!0"]  # fmt: skip
    assert "1 with names too long" in found("", known)[-1]["text"]["text"]
    assert values("LOGIN") == ["app login", "app feature/new-login", "app fix/login"], (
        "whole names first, then the newest"
    )
    assert values("web ma") == ["web main"]
    assert values("nothing") == []
    assert parted("app feature/x") == ("app", "feature/x")
    assert (parted("app"), parted("")) == (("app", None), (None, None))
    many = found("", [("app", [f"b{n}" for n in range(500)]), ("w" * 64, ["y" * 80])])
    assert len(many) == 100
    assert many[-1]["text"]["text"] == "… and more, 503 in all: type more of the name"
    assert not list(check_suggestions({"options": many}))
    (shown,) = found("yyy", [("w" * 64, ["y" * 80])])
    assert shown["text"]["text"].endswith("yyyyyyyyyy")
    assert not list(check_suggestions({"options": [shown]}))
    assert "\u202e" not in found("gnp", known)[0]["text"]["text"], "what is shown reads as it stands"


def test_scripts_that_could_not_be_listed_are_told() -> None:
    told = "The startup scripts of 12 repositories are not listed: reading them took too long."
    assert told in fallback(repositories_blocks(KNOWN, SCRIPTS, 12))
    assert told in str(start_modal(None, "C1", repositories=True, unlisted=12))
    assert "not listed" not in str(start_modal(None, "C1", repositories=True))


def test_what_a_search_leaves_out_is_told_after_all_that_fits() -> None:
    gaps = ["… not searched so far: the branches of 3 repositories"]
    told = found("nothing", [("app", ["main"])], gaps)
    assert [(one["value"], one["text"]["text"]) for one in told] == [(f"{NOTE}0", gaps[0])]
    full = found("b", [("app", [f"b{n}" for n in range(99)])], gaps)
    assert [one["value"] for one in full[-2:]] == ["app b98", f"{NOTE}0"], "it fits exactly"
    many = found("", [(f"r{n}", []) for n in range(300)], gaps)
    assert [one["value"] for one in many[-3:]] == ["r97", f"{NOTE}0", f"{NOTE}1"]
    assert not list(check_suggestions({"options": many}))


def state(**values: str) -> dict[str, Any]:
    blocks = {}
    for name, value in values.items():
        chosen = {"selected_option": {"value": value}} if name in ("known", "script") else {"value": value}
        blocks[name] = {name: {"selected_conversation": value} if name == "where" else chosen}
    return {"id": "V1", "private_metadata": "", "state": {"values": blocks}}


def test_the_modal_offers_names_and_scripts_where_there_are_some() -> None:
    shown = start_modal(None, "C1", repositories=True, scripts=script_choices(SCRIPTS))
    offered = {block["block_id"]: block["element"] for block in shown["blocks"]}
    assert (offered["known"]["type"], offered["known"]["min_query_length"]) == ("external_select", 0)
    assert [one["value"] for one in offered["script"]["options"]] == ["setup", "seed", "only"]
    assert offered["known"]["placeholder"]["text"] == "None"
    template = Template(TemplateId("t"), "shop", "", TemplateConfig(), "", True, datetime.now(UTC), datetime.now(UTC))
    with_templates = start_modal(None, "C1", [template], repositories=True)["blocks"]
    (known,) = (block["element"] for block in with_templates if block["block_id"] == "known")
    assert known["placeholder"]["text"] == "The template's, or none"
    assert not {"known", "script"} & {block["block_id"] for block in start_modal(None, "C1")["blocks"]}
    wanted = read_start(state(text="hi", where="C1", known="app", script="setup", branch="b"))
    assert isinstance(wanted, Start)
    assert (wanted.repository, wanted.branch, wanted.startup_script) == ("app", "b", "setup")
    chosen = read_start(state(text="hi", where="C1", known="app feature/x"))
    assert isinstance(chosen, Start)
    assert (chosen.repository, chosen.branch) == ("app", "feature/x")
    two = read_start(state(text="hi", where="C1", known="app feature/x", branch="other"))
    assert isinstance(two, dict)
    assert "leave this empty" in two["branch"]
    assert isinstance(read_start(state(text="hi", where="C1", known="app feature/x", branch="feature/x")), Start)
    both = read_start(state(text="hi", where="C1", known="app", repository="https://h/o/a"))
    assert isinstance(both, dict)
    assert "not both" in both["repository"]


def test_a_line_that_only_says_what_is_left_out_needs_no_other_choice_beside_what_is_written() -> None:
    written = read_start(state(text="hi", where="C1", known=f"{NOTE}0", repository="https://h/o/n.git", branch="b"))
    assert isinstance(written, Start)
    assert (written.repository, written.branch) == ("https://h/o/n.git", "b")
    alone = read_start(state(text="hi", where="C1", known=f"{NOTE}0"))
    assert isinstance(alone, dict)
    assert list(alone) == ["known"]


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "app"
    git("init", "-q", "-b", "main", str(path))
    git("-C", str(path), "commit", "-q", "--allow-empty", "-m", "one")
    git("-C", str(path), "branch", "dev")
    monkeypatch.chdir(tmp_path)
    given = {"FLOW_SHARE_DIR": "data", "FLOW_LOCAL_REPOSITORIES": "true", "FLOW_REPOSITORIES": f"app={path}#dev"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return path


def test_the_command_lists_names_and_branches(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["repos", "list"]) == 0
    assert capsys.readouterr().out == f"app  {origin}  at dev\nMirrors: 0, 0 B of 20 GiB.\n"
    assert cli.main(["repos", "branches", "app"]) == 0
    assert capsys.readouterr().out == "dev  (sessions begin here)\nmain\n"
    assert cli.main(["repos", "branches", "app", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"default": "main", "branches": ["dev", "main"]}
    assert cli.main(["repos", "branches", "app", "d*"]) == 0
    assert capsys.readouterr().out == "dev  (sessions begin here)\n"
    assert cli.main(["repos", "branches", "app", "[m]*", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"default": "main", "branches": ["main"]}
    assert cli.main(["repos", "branches", "app", "v9"]) == 1
    assert "no branch like v9" in capsys.readouterr().err
    assert cli.main(["repos", "branches", "nope"]) == 1
    assert "no repository named nope" in capsys.readouterr().err


async def test_the_doctor_asks_each_of_them(origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await doctor(load())).state == "ok"
    monkeypatch.setenv("FLOW_REPOSITORIES", f"app={origin}#nope,web=/nowhere")
    found = await doctor(load())
    assert found.state == "fail"
    assert "app has no branch nope; web: /nowhere could not be cloned" in found.text
    monkeypatch.delenv("FLOW_REPOSITORIES")
    assert "none has a name" in (await doctor(load())).text
