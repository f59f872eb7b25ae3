"""A repository by name, with the real CLI: cloned once, pushed when people say so; the login stays outside."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from certificates import make_certificate
from githost import TOKEN, USER, GitHost, git_host
from modelrequests import in_conversation
from world import World, containers

_SETUP = "echo made >> made; echo no package index >&2; exit 3\n"


@pytest.fixture
async def host(tmp_path: Path, world: World) -> AsyncIterator[GitHost]:
    """By https, and no address may lead to this machine: as it is where nothing is set."""
    certificate, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with git_host(tmp_path / "host", tls) as made:
        made.make("acme/app.git", files={".claude/startup/setup.sh": _SETUP})
        with_login = made.url.replace("https://", f"https://{USER}:{TOKEN}@")
        world.program.env |= {
            "FLOW_REPOSITORIES": f"app={with_login}/acme/app.git", "FLOW_MIRROR_FRESH": "1h",
            "FLOW_LOCAL_REPOSITORIES": "false", "GIT_SSL_CAINFO": str(certificate), "SSL_CERT_FILE": str(certificate),
        }  # fmt: skip
        yield made


def asked(world: World, root: str) -> dict[str, Any]:
    shown = world.slack.messages("general", thread_ts=root)
    return [m for m in shown if "[Allow once]" in world.slack.visible_text(m)][-1]


def results(world: World) -> str:
    """What Claude was told of its commands."""
    return str(in_conversation(world.model)[-1].body["messages"])


async def test_a_session_pushes_its_branch_when_people_say_so(world: World, host: GitHost, tmp_path: Path) -> None:
    await world.program.start()
    look = "git log --format=%s:%an && cat file && git branch --show-current && git status --porcelain"
    root = await world.slack.post("maya", "general", f"@Flow repo=app BASH {look}\nSAY Seen.")
    await world.settled(root, "Seen.", timeout=90)
    told = results(world)
    assert "one:a@b" in told
    assert "flow/bash-git-log-format" in told
    branch = next(word for word in told.replace("\\n", " ").split() if word.startswith("flow/bash-git-log-format"))

    push = "echo two > file && git commit -qam two && git push 2>&1"
    await world.slack.post("maya", "general", f"BASH {push}\nSAY Pushed.", thread_ts=root)
    await world.see(root, "to push to")
    question = asked(world, root)
    assert branch in world.slack.visible_text(question)
    assert "app" in world.slack.visible_text(question)
    assert set(host.branches("acme/app.git")) == {"main"}
    await world.slack.click("jonas", question, "ask_allow_session")
    assert set(host.branches("acme/app.git")) == {"main"}, "he has asked nothing in this thread"
    await world.slack.click("maya", question, "ask_allow_session")
    await world.settled(root, "Pushed.")
    assert host.branches("acme/app.git")[branch].startswith("two|maya"), host.branches("acme/app.git")

    again = (
        "echo three > file && git commit -qam three && git push 2>&1; git push origin HEAD:main 2>&1; git fetch && true"
    )
    await world.slack.post("jonas", "general", f"BASH {again}\nSAY Again.", thread_ts=root)
    await world.settled(root, "Again.")
    assert host.branches("acme/app.git")[branch].startswith("three|jonas")
    assert host.branches("acme/app.git")["main"].startswith("one|")
    assert "the branch is protected" in results(world)

    await world.slack.post(
        "jonas", "general", "BASH git pull-request 'Two & more' 'Why' 2>&1\nSAY Asked.", thread_ts=root
    )
    await world.see(root, "to open a pull request of")
    question = asked(world, root)
    assert "Two & more" in world.slack.visible_text(question)
    await world.slack.click("jonas", question, "ask_allow_once")
    await world.settled(root, "Asked.")
    assert [one["title"] for one in host.pulls] == ["Two & more"]
    thread = "\n".join(world.thread(root))
    assert "Pull request 1: Two & more (+1 −1 in 1 file)" in thread
    assert f"{host.url}/acme/app/pull/1" in thread

    fetched = [one for one in host.requests if one.startswith("POST /acme/app.git/git-upload-pack")]
    other = await world.slack.post("jonas", "general", "@Flow repo=app BASH cat file\nSAY Second.")
    await world.settled(other, "Second.", timeout=90)
    assert [one for one in host.requests if one.startswith("POST /acme/app.git/git-upload-pack")] == fetched
    _nowhere(world)


def _nowhere(world: World) -> None:
    """The login is in nothing that a worklet can see: its files, its environment, what Claude was told."""
    for request in world.model.requests:
        assert TOKEN not in str(request.body)
    if world.runtime == "docker":
        listed = containers(world)
        assert len(listed) == 2
        look = f"cat /proc/*/environ /proc/*/cmdline 2>/dev/null; grep -rs {TOKEN} /work /run /opt /etc || true"
        for container in listed:
            said = subprocess.run(["docker", "exec", container, "sh", "-c", look], capture_output=True, check=True)
            # Our own command line names it.
            assert TOKEN.encode() not in said.stdout.replace(look.encode(), b"").replace(f"-rs {TOKEN}".encode(), b"")
        written = "touch /run/mirror/x || rm -rf /run/mirror/pack || echo kept"
        tried = subprocess.run(["docker", "exec", listed[0], "sh", "-c", written], capture_output=True, text=True)
        assert "kept" in tried.stdout
        assert "Read-only file system" in tried.stderr
    else:
        files = [path for path in world.share_dir.glob("worklets/*/**/*") if path.is_file()]
        assert files
        assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("runtime", ["local"], indirect=True)
async def test_a_startup_script_that_fails_is_told_and_the_session_goes_on(world: World, host: GitHost) -> None:
    await world.program.start()
    await world.slack.command("maya", "general", "/flow", "repos")
    listed = str(await world.slack.wait_for(lambda: world.slack.ephemerals("maya")))
    assert "`app`" in listed
    assert TOKEN not in listed
    root = await world.slack.post("maya", "general", "@Flow repo=app SAY Mirrored.")
    await world.settled(root, "Mirrored.", timeout=90)
    await world.slack.command("maya", "general", "/flow", "new")
    await world.slack.wait_for(lambda: world.slack.views("maya"))
    wanted = {"text": "BASH cat made\nSAY Done.", "known": "app", "script": "setup"}
    await world.slack.submit("maya", wanted)
    started = await world.root("cat made")
    await world.settled(started, "Done.", timeout=90)
    thread = "\n".join(world.thread(started))
    assert "The startup script setup failed: exit status 3." in thread
    assert "no package index" in thread
    assert "startup script setup failed" in str(in_conversation(world.model)[-1].body["system"])
    await world.slack.post("maya", "general", "BASH cat made\nSAY Once.", thread_ts=started)
    await world.settled(started, "Once.")
    assert "made\\nmade" not in results(world)
