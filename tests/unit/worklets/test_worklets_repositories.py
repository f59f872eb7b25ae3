"""Repositories by name: what the settings say, whose login counts, and what a worklet is told and granted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.slices.repositories import RepositorySettings
from worklets.errors import CloneFailed
from worklets.git import Git, Login, Source
from worklets.gitgrants import Decided, GitGrants, author_config
from worklets.identity import Identity
from worklets.mirrors import Mirrors
from worklets.profile import Origin, Profile
from worklets.repositories import Repositories, is_protected
from worklets.secrets import SecretMissing


class Secrets:
    def __init__(self, **known: dict[str, str]) -> None:
        self.known = known

    async def get(self, path: str, /) -> Mapping[str, str]:
        if path.removeprefix("git/") not in self.known:
            raise SecretMissing
        return self.known[path.removeprefix("git/")]


def settings(
    repositories: Any = "app=https://h.example/o/app.git#dev,web=https://me:pw@h.example/o/web", **more: Any
) -> Any:
    return RepositorySettings(repositories=repositories, **more)


# ---- the settings


def test_names_are_read_from_text_and_from_json() -> None:
    expected = (("app", "https://h.example/o/app.git", "dev"), ("web", "git@h.example:o/web.git", None))
    assert settings("app=https://h.example/o/app.git#dev, web=git@h.example:o/web.git").repositories == expected
    given = {"app": "https://h.example/o/app.git#dev", "web": "git@h.example:o/web.git"}
    assert settings(given).repositories == expected
    assert settings("app=https://h.example/o/app#me@work").repositories[0][2] == "me@work"
    assert settings(protected="none").protected == ()
    assert settings().protected == ("@default",)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("https://me:hunter22@h/o/app", "no name"), ("App=https://h/o/a", "cannot name"),
        ("a=https://h/a,a=https://h/b", "twice"),
        ("app=nothing", "no address"), ("app=", "no address"), (7, "not a list"),
        ("app=https://me:hun/ter22@h/o/app", "%2F"), ({"app": "https://me:hun#ter22@h/o/app"}, "%2F"),
        ("app=https://me:hun/x#ter22@h/o/app", "%2F"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_repositories_is_refused_without_its_passwords(given: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why) as told:
        settings(given)
    assert "ter22" not in str(told.value).split("input_value")[0]


# ---- whose login


async def test_a_name_and_its_address_lead_to_the_login_in_the_secret_store() -> None:
    repositories = Repositories(settings(), Secrets(app={"token": "t1"}, web={"token": "unused"}))
    expected = Source("https://h.example/o/app.git", Login("x-access-token", "t1"), "app", "dev")
    assert await repositories.source("app") == expected
    assert await repositories.source("https://h.example/o/app") == expected
    assert await repositories.source("web") == Source("https://h.example/o/web", Login("me", "pw"), "web")
    # Somebody's own goes before Flow's, and is not the configured one's.
    own = await repositories.source("https://ann:hers@h.example/o/app.git")
    assert own == Source("https://h.example/o/app.git", Login("ann", "hers"), None, "dev")
    assert await repositories.source("https://h.example/o/else") == Source("https://h.example/o/else")


async def test_what_cannot_be_used_is_told() -> None:
    with pytest.raises(CloneFailed, match="no repository named nope") as told:
        await Repositories(settings()).source("nope")
    assert "app, web" in told.value.sentence()
    with pytest.raises(CloneFailed, match="neither a token nor a password"):
        await Repositories(settings(), Secrets(app={"x": "y"})).source("app")
    assert (await Repositories(settings(), Secrets()).source("app")).login is None


def test_protected_branches_are_named_by_patterns() -> None:
    assert is_protected("main", ("@default",), "main")
    assert not is_protected("main", ("@default",), "trunk")
    assert is_protected("master", ("@default",), None)
    assert is_protected("release-2", ("release-*",), "main")
    assert not is_protected("main", (), "main")


# ---- what a worklet gets


@pytest.fixture
def grants(tmp_path: Path) -> GitGrants:
    identity = Identity.load(tmp_path)

    async def decided(session_id: str, own: str) -> Decided:
        assert session_id == "1"
        return Decided(frozenset({own}), frozenset(), {"r": True}, None)

    repositories = Repositories(settings(push="allow"), Secrets(app={"token": "t1"}))
    return GitGrants(repositories, Mirrors(tmp_path, identity), identity, decided)


def origin(repository: str | None) -> Origin:
    return Origin("1", "U1", "C1", repository, work_branch="flow/x-1")


async def test_a_named_repository_is_reached_by_the_gateway_and_its_login_stays_there(grants: GitGrants) -> None:
    profile = await grants.part("w", origin("app"), Profile())
    grant = profile.grants["git"]
    assert (grant["name"], grant["url"]) == ("app", "https://h.example/o/app.git")
    assert (grant["password"], grant["granted"], grant["own"]) == ("t1", ["flow/x-1"], "flow/x-1")
    assert (grant["base"], grant["default"], grant["answers"]) == ("dev", None, {"r": True})
    assert "t1" not in str(profile.env) + profile.instructions
    assert "flow/x-1" in profile.instructions
    env = {key: value.replace("@flow-gateway@", "http://127.0.0.1:1") for key, value in profile.env.items()}
    said = subprocess.run(
        ["git", "ls-remote", "--get-url", "https://h.example/o/app.git"],
        env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "http://127.0.0.1:1/flow/git/app"


async def test_a_fork_is_told_to_begin_its_branch(grants: GitGrants) -> None:
    forked = await grants.part("w", replace(origin("app"), forked=True), Profile())
    assert "`git switch -c flow/x-1`" in forked.instructions
    assert "git switch" not in (await grants.part("w", origin("app"), Profile())).instructions


@pytest.mark.parametrize("repository", ["https://anywhere.example/o/a", "https://ann:hers@h.example/o/app.git"])
async def test_what_somebody_wrote_is_no_way_out(grants: GitGrants, repository: str) -> None:
    profile = await grants.part("w", origin(repository), Profile())
    assert "git" not in profile.grants
    assert "insteadOf" not in str(profile.env)
    assert "cannot be fetched or pushed" in profile.instructions
    assert await grants.part("w", origin(None), Profile()) == Profile()


async def test_a_repository_that_lost_its_name_is_out_of_reach_and_no_more(grants: GitGrants) -> None:
    profile = await grants.part("w", origin("renamed"), Profile(instructions="Be brief."))
    assert "git" not in profile.grants
    assert profile.instructions.startswith("Be brief.")
    assert "no repository named renamed" in profile.instructions
    assert "no repository named renamed" in profile.notes[0]


@pytest.mark.parametrize(
    "name", ["Ada Lovelace", 'Ada "the first" \\ Lovelace', "Ada\n[core]\n\tsshCommand = touch owned", "# ; Ada", "愛"]
)
def test_a_name_in_gits_configuration_is_a_name_and_nothing_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "gitconfig").write_text(author_config(name, "ada@example.org"))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_SYSTEM": str(tmp_path / "gitconfig")}
    said = subprocess.run(
        ["git", "config", "--list"], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    expected = "".join(letter for letter in name if letter.isprintable())
    assert said.stdout == f"user.name={expected}\nuser.email=ada@example.org\n"


async def test_addresses_of_this_machine_need_a_setting(tmp_path: Path) -> None:
    for address in ("http://127.0.0.1:1/a", "/etc", "file:///etc"):
        Git({}, local=True).check(address)
        with pytest.raises(CloneFailed):
            Git({}).check(address)
    with pytest.raises(CloneFailed):
        Git({}, local=True).check("http://10.0.0.1:80/a")
