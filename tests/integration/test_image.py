"""The worklet image: what is in it, how it is built, and what is told when it cannot be."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from images import worklet_image

from worklets.errors import ImageMissing, RuntimeUnavailable, WorkletError
from worklets.imagebuild import LABEL, build, fingerprint, needs_build
from worklets.local import bundled_claude

pytestmark = pytest.mark.docker
OTHER, BUILT = (f"flow-test-{what}-{os.getpid()}:latest" for what in ("other", "build"))


def docker(*words: str, stdin: str = "") -> str:
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
async def image() -> str:
    return await worklet_image()


def inside(image: str, script: str) -> str:
    """The output of a shell script in a container as sealed as a worklet."""
    sealed = ("--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL")
    return docker("run", "--rm", "-i", *sealed, image, "bash", "-e", stdin=script)


def test_the_cli_is_the_one_that_flow_was_tested_with(image: str) -> None:
    ours = subprocess.run([bundled_claude(), "--version"], capture_output=True, text=True, timeout=60).stdout
    assert "Claude Code" in ours
    assert inside(image, "claude --version") == ours


def test_it_holds_the_tools_that_agents_need(image: str) -> None:
    tools = (
        "git --version",
        "rg --version",
        "python3 --version",
        "node --version",
        "npm --version",
        "ps",
        "pip --version",
    )
    said = inside(image, "; ".join([*tools, "python3 -m venv /tmp/v", "node -p 40+2"]))
    for word in ("git version", "ripgrep", "Python 3", "CMD", "pip", "42"):
        assert word in said


def test_the_relay_starts_from_compiled_code_and_pinned_libraries(image: str) -> None:
    script = """
        python3 -I -c 'import websockets.version as w; print(w.version)'
        for file in /opt/relay/*.py; do
            name=$(basename $file .py); ls /opt/relay/__pycache__/$name.cpython-*.pyc
        done
        python3 -I -v -c 'import asyncio, websockets.asyncio.server' 2>&1 |
            grep -Ec "code object from .*[.]py'?$" || true
    """
    lines = inside(image, script).split()
    assert lines[0] == version("websockets")
    assert "relay.cpython" in " ".join(lines)
    assert lines[-1] == "0", "modules compiled at start, because their bytecode is missing or stale"


def test_the_stores_clients_are_found_by_every_program(image: str) -> None:
    """The system's Python, an isolated one, one of a virtual environment; Node.js from the workspace and from /tmp."""
    script = """
        say='import kvstore; print(kvstore.__file__, kvstore.WorkletKVStore.__name__)'
        python3 -c "$say"; python3 -I -c "$say"
        python3 -m venv --without-pip /tmp/v && /tmp/v/bin/python -c "$say"
        echo 'import { createWorkletKVStore as c } from "@flow/kvstore"; console.log(typeof c)' > /tmp/a.mjs
        node /tmp/a.mjs; cd /work/workspace; node --input-type=module < /tmp/a.mjs
        echo 'import("@flow/kvstore").then(m => console.log(typeof m.createWorkletKVStore))' > /tmp/a.cjs
        node /tmp/a.cjs
        python3 -v -c 'import kvstore' 2>&1 | grep -Ec "code object from .*kvstore/.*[.]py'?$" || true
        grep -c create_worklet_kv_store $FLOW_KV_GUIDE
        for name in kvstore.client kvstore.aio kvstore.typed; do python3 -c "import $name"; done
    """
    lines = inside(image, script).splitlines()
    assert lines[:3] == ["/opt/flow/lib/kvstore/__init__.py WorkletKVStore"] * 3
    assert lines[3:6] == ["function"] * 3
    assert lines[6] == "0", "modules compiled at each start"
    assert int(lines[7]) > 0


def test_the_agent_owns_its_places_and_no_caches_are_left(image: str) -> None:
    script = """
        id -u; pwd; echo $HOME; stat -c %u:%g /work /work/home /work/workspace
        find /var/lib/apt/lists /var/cache/apt /root/.cache /root/.claude* /tmp -type f 2>/dev/null | wc -l
    """
    assert inside(image, script).split() == ["1000", "/work/workspace", "/work/home", *["1000:1000"] * 3, "0"]


def test_the_dockerfile_names_no_registry_or_certificate() -> None:
    text = (Path(__file__).parents[2] / "worklets" / "image" / "Dockerfile").read_text()
    for word in ("http:", "https:", "index-url", "proxy", ".pem", ".crt"):
        assert word not in text


async def test_a_fresh_image_needs_no_build(image: str) -> None:
    assert not await needs_build(image)
    labels = json.loads(docker("image", "inspect", image))[0]["Config"]["Labels"]
    assert labels[LABEL] == fingerprint()


async def test_a_missing_and_a_stale_image_need_one_and_somebody_elses_does_not(image: str) -> None:
    assert await needs_build("flow-test-no-such:latest")
    for label, wanted in ((f"LABEL {LABEL}=000000000000", True), ("LABEL other=1", False)):
        docker("build", "-q", "-t", OTHER, "-", stdin=f"FROM scratch\n{label}\nCMD x\n")
        try:
            assert await needs_build(OTHER) is wanted
        finally:
            docker("rmi", OTHER)


async def test_a_build_tells_its_steps(image: str) -> None:
    lines: list[str] = []
    await build(BUILT, lines.append)
    try:
        assert lines[0].startswith("Step 1/")
        assert any("Successfully tagged" in line for line in lines)
        assert not await needs_build(BUILT)
    finally:
        docker("rmi", BUILT)


async def test_a_base_that_cannot_be_had_is_told_with_what_to_do() -> None:
    with pytest.raises(ImageMissing, match="base image") as told:
        await build(BUILT, base="flow-test-no-such-base:latest")
    assert "make provision" in told.value.sentence()
    assert "\n" not in told.value.sentence()


async def test_a_step_that_fails_is_told_with_its_last_words(image: str) -> None:
    with pytest.raises(ImageMissing, match=r"code 100 after: .*Permission denied"):
        await build(BUILT, base=image)  # its user may not install packages


async def test_a_name_that_no_image_can_have_is_told() -> None:
    with pytest.raises(WorkletError, match="No Such Tag!"):
        await build("No Such Tag!")


async def test_no_engine_is_told(tmp_path: Path) -> None:
    for call in (build("x", docker_host=f"unix://{tmp_path}/x"), needs_build("x", docker_host=f"unix://{tmp_path}/x")):
        with pytest.raises(RuntimeUnavailable, match="No Docker engine"):
            await call
