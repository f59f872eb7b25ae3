"""A real container as a session's template says: smaller, on another base, with its variables and instructions."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schema
from images import worklet_image

from bot.profiles import Composed
from bot.templateprofile import narrowed, template_part
from sessions.db import open_database
from sessions.store import Store
from sessions.templates import TemplateConfig, checked_config, drafted
from sessions.templatestore import TemplateStore
from sessions.types import Prompt, Session, ThreadId
from worklets.baseimages import OWN_BASE, base_part
from worklets.containerprofile import Allowed, ContainerProfiles
from worklets.docker import DockerRuntime
from worklets.egress import EgressPolicy
from worklets.errors import WorkletStartFailed
from worklets.host import WorkletHost
from worklets.identity import Identity
from worklets.imagebuild import Recipe
from worklets.prebuilt import Prebuilt
from worklets.profile import Origin, Profile
from worklets.profileimages import ProfileImages

SAYS: dict[str, Any] = {
    "resources": {"memory": "300m", "cpus": 0.5, "pids": 100},
    "egress": {"mode": "allow-list", "hosts": ["example.org"]},
    "mcp_servers": ["memory", "nothing"],
    "env": {"COLOUR": "blue"},
    "instructions": "Always answer in verse.",
}


class Doors:
    """The gateway's, of which only what it is told is looked at."""

    def __init__(self) -> None:
        self.grants: dict[str, Any] = {}

    async def open(self, _name: str, _run_dir: Path, _worklet_id: str | None, grants: Any = None) -> None:
        self.grants = dict(grants or {})

    async def close(self, _name: str) -> None: ...


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    dsn = f"sqlite://{tmp_path}/db.sqlite"
    await schema.migrated(dsn)
    database = open_database(dsn)
    yield Store(database)
    await database.close()


async def begun(store: Store, config: dict[str, Any]) -> tuple[Session, Origin]:
    template = await TemplateStore(store.db).add(drafted("verse", "", config), "U1")
    thread = ThreadId("T1", "C1", "1.000000")
    stored = await store.submit(Prompt(thread, "C1:1", "1.000000", "U1", "hello", template=template.id))
    assert stored is not None
    session = stored.submitted.session
    await TemplateStore(store.db).remove(template.id)  # a session keeps what it began with
    return session, Origin(session.id, "U1", "C1", template=session.template)


@pytest.mark.docker
async def test_a_container_is_what_its_template_says(store: Store, tmp_path: Path) -> None:
    base = await worklet_image()
    session, origin = await begun(store, {**SAYS, "image": base})
    share_dir = tmp_path / "share"
    identity, doors = Identity.load(share_dir), Doors()
    small = Recipe({"Dockerfile": b"ARG BASE\nFROM ${BASE}\nRUN touch /on-base\nUSER 1000:1000\n"}, {})
    images = Prebuilt(share_dir, identity.instance, made_of=lambda: small)
    runtime = DockerRuntime(share_dir=share_dir, identity=identity, image=base, memory=1 << 30, cpus=2, pids=512)
    parts = [base_part((base,), template_part(TemplateStore(store.db), lambda: None))]
    made = ProfileImages(base, images, images)
    host = WorkletHost(runtime, doors, identity, share_dir, profiles=Composed(parts), images=made)  # type: ignore[arg-type]
    steps: list[str] = []
    try:
        agent = await host.open(
            "w", claude_session_id=str(uuid.uuid4()), has_history=False, position=None, fence=1, env={},
            repository=None, branch=None, worklet_id=session.id, origin=origin, on_step=steps.append,
        )  # fmt: skip
        await agent.close()
        container = f"flow-{identity.instance}-w"
        (found,) = json.loads(docker("inspect", container))
        assert found["Config"]["Image"].startswith("flow-prebuilt:")
        limits = found["HostConfig"]
        assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (300 << 20, 500_000_000, 100)
        assert docker("exec", container, "ls", "/on-base") == "/on-base"
        told = docker(
            "exec", container, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>&1 | tr '\\0' '\\n'"
        )
        assert "Always answer in verse." in told
        assert '"memory"' in told
        assert "COLOUR=blue" in told
        assert doors.grants["egress"] == {"within": [["example.org"]]}
        assert steps[0] == "image"
        assert steps[-1] == "starting"
        assert any(step.startswith("image 3/") for step in steps), steps
        assert agent.profile is not None
        assert "There is no MCP server nothing" in agent.profile.notes[0]
    finally:
        await host.destroy("w")
        for one in await images.prune(0):
            assert one.base == base
        await images.aclose()
        await runtime.close()


async def test_without_what_it_says_nothing_starts(store: Store) -> None:
    _, origin = await begun(store, SAYS)
    part = template_part(TemplateStore(store.db), lambda: None)
    assert (await part("w", origin, Profile())).memory == 300 << 20
    assert await part("w", replace(origin, template=None), Profile()) == Profile()
    await store.db.close()
    broken = open_database(f"sqlite://{store.db.dsn.path}", exclusive=False)
    async with broken.transaction() as connection:
        await connection.exec_driver_sql("update session_templates set config = '{\"later\": 1}'")
    with pytest.raises(WorkletStartFailed, match="cannot be read"):
        await template_part(TemplateStore(broken), lambda: None)("w", origin, Profile())
    await broken.close()


def test_the_lower_limit_counts_and_no_way_out_stays_none() -> None:
    lower = Profile(memory=1 << 27, env={"A": "mine"})
    config = TemplateConfig.model_validate(
        {"resources": {"memory": "1g", "cpus": 1}, "env": {"A": "its", "B": "2"}, "egress": {"mode": "none"}}
    )
    profile = narrowed(lower, config)
    assert (profile.memory, profile.cpus, profile.pids) == (1 << 27, 1, None)
    assert profile.env == {"A": "mine", "B": "2"}
    assert profile.grants == {"egress": {"within": [[]]}}


async def test_a_repositorys_base_goes_before_its_templates(tmp_path: Path) -> None:
    checkout, origin = tmp_path / "checkout", Origin("s", "U1", "C1")
    (checkout / ".claude").mkdir(parents=True)
    (checkout / ".claude" / "container.yaml").write_text("baseImage: node:22\n")
    allowed = Allowed(1 << 30, 2, None, EgressPolicy())
    container = ContainerProfiles(tmp_path / "share", allowed, lambda: None)
    await container.learn("w", origin, checkout)
    template = narrowed(Profile(), TemplateConfig.model_validate({"image": "python:3.12"}))
    assert template.base == "python:3.12"
    assert (await container.part("w", origin, template)).base == "node:22"


async def test_a_base_that_is_not_allowed_leaves_the_one_before_and_is_told() -> None:
    origin, before = Origin("s", "U1", "C1"), Profile(base="python:3.12")

    async def asking(_name: str, _origin: Origin, profile: Profile) -> Profile:
        return replace(profile, base="node:22")

    async def silent(_name: str, _origin: Origin, profile: Profile) -> Profile:
        return profile

    async def usual(_name: str, _origin: Origin, profile: Profile) -> Profile:
        return replace(profile, base=OWN_BASE)

    refused = await base_part((), asking)("w", origin, Profile())
    assert refused.base is None
    assert "node:22 is not among those" in refused.notes[0]
    kept = await base_part(("python:*",), asking)("w", origin, before)
    assert kept.base == "python:3.12"
    assert kept.notes[0].endswith("so python:3.12 is used.")
    assert await base_part(("node:*",), asking)("w", origin, before) == replace(before, base="node:22")
    assert await base_part((), silent)("w", origin, before) == before
    assert await base_part((), usual)("w", origin, before) == Profile()


def test_what_an_older_flow_stored_runs_nothing_and_starves_nothing() -> None:
    old = {"env": {"BUN_OPTIONS": "--preload=x", "B": "2"}, "resources": {"memory": 128 << 20, "cpus": 1e-10}}
    profile = narrowed(Profile(), checked_config(old, stored=True))
    assert profile.env == {"B": "2"}
    assert profile.notes == ("The template: BUN_OPTIONS is not for templates to set.",)
    assert (profile.memory, profile.cpus) == (256 << 20, 0.01)
