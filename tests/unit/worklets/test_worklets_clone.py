"""Cloning with the real git, from repositories on disk."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from waiting import until

from worklets.clone import clone, masked
from worklets.errors import CloneFailed


def git(*words: str, cwd: Path) -> str:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), **identity}
    return subprocess.run(["git", *words], cwd=cwd, env=env, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with two branches: main says one, other says two."""
    path = tmp_path / "origin"
    path.mkdir()
    git("init", "-q", "-b", "main", cwd=path)
    for branch, text in (("main", "one"), ("other", "two")):
        git("checkout", "-q", "-B", branch, cwd=path)
        (path / "file").write_text(text)
        git("add", ".", cwd=path)
        git("commit", "-q", "-m", text, cwd=path)
    git("checkout", "-q", "main", cwd=path)
    return path


async def test_the_default_branch_comes_with_its_history(origin: Path, tmp_path: Path) -> None:
    await clone(str(origin), None, tmp_path / "to", local=True)
    assert (tmp_path / "to" / "file").read_text() == "one"
    assert git("log", "--format=%s", cwd=tmp_path / "to").split() == ["one"]


async def test_a_branch_is_checked_out_into_an_empty_directory(origin: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    await clone(f"file://{origin}", "other", tmp_path / "to", local=True)
    assert (tmp_path / "to" / "file").read_text() == "two"


async def test_a_missing_branch_is_told_and_leaves_nothing(origin: Path, tmp_path: Path) -> None:
    with pytest.raises(CloneFailed, match=r"Remote branch nope not found in upstream origin\.") as told:
        await clone(str(origin), "nope", tmp_path / "to", local=True)
    assert "\n" not in told.value.sentence()
    assert not (tmp_path / "to").exists()


async def test_a_missing_repository_is_told(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    with pytest.raises(CloneFailed, match="does not exist"):
        await clone(str(tmp_path / "nothing"), None, tmp_path / "to", local=True)
    assert list((tmp_path / "to").iterdir()) == []


async def test_an_unreachable_host_is_told_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(CloneFailed) as told:
        await clone("https://user:hunter2@127.0.0.1:1/a/b", None, tmp_path / "to")
    assert "hunter2" not in told.value.sentence()
    assert "127.0.0.1:1/a/b" in told.value.sentence()


@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c touch% /tmp/owned", "--upload-pack=touch /tmp/owned", "-u", "file:///etc", "/etc", "../x", "http://a/b",
        "git://a/b", "https://", "ssh://-oProxyCommand=x/a", "git@-oProxyCommand=x:a", "git@host:-x", "https://a/b c",
        "https://a/b\n", "fd::17", "",
    ],
)  # fmt: skip
async def test_what_is_no_plain_address_is_refused_before_git_sees_it(repository: str, tmp_path: Path) -> None:
    with pytest.raises(CloneFailed, match="no repository address"):
        await clone(repository, None, tmp_path / "to")


@pytest.mark.parametrize("branch", ["--upload-pack=x", "-b", "a b", "a:b", "", "a\nb"])
async def test_what_is_no_branch_name_is_refused(branch: str, tmp_path: Path) -> None:
    with pytest.raises(CloneFailed, match="no branch name"):
        await clone("https://127.0.0.1:1/a/b", branch, tmp_path / "to")


async def test_hooks_of_this_machine_do_not_run(origin: Path, tmp_path: Path) -> None:
    hooks = tmp_path / "home" / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    (tmp_path / "home" / ".gitconfig").write_text(
        f"[init]\n\ttemplateDir = {hooks.parent}\n[core]\n\thooksPath = {hooks}\n"
    )
    home = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    subprocess.run(
        ["git", "clone", "-q", str(origin), str(tmp_path / "plain")], env=home, check=True, capture_output=True
    )
    assert (tmp_path / "ran").exists(), "the hook does run in a plain clone"
    (tmp_path / "ran").unlink()
    await clone(str(origin), None, tmp_path / "to", local=True, environ=home)
    assert not (tmp_path / "ran").exists()


async def test_git_sees_none_of_flows_secrets(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\n")
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:/usr/bin:/bin", "HOME": "/nowhere", "SLACK_BOT_TOKEN": "xoxb-1"}
    await clone("https://127.0.0.1:1/a/b", None, tmp_path / "to", environ=environ)
    seen = (tmp_path / "env").read_text()
    assert "GIT_TERMINAL_PROMPT=0" in seen
    assert "HOME=/nowhere" in seen
    assert "SLACK_BOT_TOKEN" not in seen


async def test_a_slow_clone_is_ended_with_its_helpers(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"; sleep 1000 & echo $! > {tmp_path}/helper\nwait\n'
    )
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    with pytest.raises(CloneFailed, match="longer than"):
        await clone("https://127.0.0.1:1/a/b", None, tmp_path / "to", timeout=0.5, environ=environ)
    assert not (tmp_path / "to").exists()
    helper = int((tmp_path / "helper").read_text())
    await until(
        lambda: not Path(f"/proc/{helper}").exists() or "\nState:\tZ" in Path(f"/proc/{helper}/status").read_text()
    )


async def test_a_cancelled_clone_leaves_nothing(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nfor last; do :; done\nmkdir -p "$last"; touch {tmp_path}/started; exec sleep 1000\n')
    fake.chmod(0o755)
    environ = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    task = asyncio.create_task(clone("https://127.0.0.1:1/a/b", None, tmp_path / "to", environ=environ))
    await until(lambda: (tmp_path / "started").exists())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not (tmp_path / "to").exists()


async def test_a_machine_without_git_is_told(tmp_path: Path) -> None:
    with pytest.raises(CloneFailed, match="needs git"):
        await clone("https://127.0.0.1:1/a/b", None, tmp_path / "to", environ={"PATH": str(tmp_path)})


async def test_a_password_in_the_address_stays_out_of_the_clone(origin: Path, tmp_path: Path) -> None:
    (tmp_path / ".gitconfig").write_text(f'[url "file://{origin}"]\n\tinsteadOf = https://me:hunter2@127.0.0.1:1/a\n')
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    with pytest.raises(CloneFailed, match="not allowed"):
        await clone("https://me:hunter2@127.0.0.1:1/a", None, tmp_path / "to", environ=environ)
    await clone("https://me:hunter2@127.0.0.1:1/a", None, tmp_path / "to", local=True, environ=environ)
    config = (tmp_path / "to" / ".git" / "config").read_text()
    assert "hunter2" not in config
    assert "https://127.0.0.1:1/a" in config


def test_masked_hides_every_user_and_password() -> None:
    text = "fatal: https://me:pw@host/a and ssh://git@host/b but git@host:c"
    assert masked(text) == "fatal: https://***@host/a and ssh://***@host/b but git@host:c"
