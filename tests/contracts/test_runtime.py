"""What any Runtime must do, held against containers and against plain processes."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from dockerlists import listed
from images import worklet_image
from waiting import until

from worklets import sockets
from worklets.docker import DockerRuntime
from worklets.dockerweaknesses import admitted
from worklets.errors import ImageMissing, RuntimeUnavailable, WorkletError, WorkletStartFailed
from worklets.identity import Identity
from worklets.local import LocalRuntime
from worklets.runtime import Runtime, WorkletSpec

MakeRuntime = Callable[[], Awaitable[Runtime]]


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.docker)])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeRuntime]:
    """Makes runtimes on one data directory, as successive Flow processes would; removes all they left."""
    share_dir = tmp_path / "data"
    identity = Identity.load(share_dir)
    made: list[Runtime] = []

    async def make() -> Runtime:
        if request.param == "docker":
            image = await worklet_image()
            made.append(
                DockerRuntime(share_dir=share_dir, identity=identity, image=image, memory=1 << 30, cpus=1.5, pids=200)
            )
        else:
            made.append(LocalRuntime(share_dir=share_dir, identity=identity))
        return made[-1]

    yield make
    last = await make()
    for worklet in await last.list():
        await last.remove(worklet.name, grace=0)
    for name in await last.volumes():
        await last.remove_volume(name)
    for runtime in made:
        await runtime.close()


@pytest.fixture
async def runtime(make: MakeRuntime) -> Runtime:
    return await make()


def spec(script: str = "exec sleep 1000", name: str | None = None, **env: str) -> WorkletSpec:
    """A worklet whose agent is a shell script."""
    return WorkletSpec(name or f"t-{secrets.token_hex(4)}", ("bash", "-c", script), secrets.token_hex(16), env)


async def said(run_dir: Path, name: str) -> str:
    """What the agent's script wrote into the run directory."""
    path = run_dir / name
    await until(lambda: path.exists() and path.read_text().endswith("\n"), what=f"{name} from the agent")
    return path.read_text().strip()


def telling(runtime: Runtime, command: str, to: str = "told") -> str:
    """A script that leaves the output of `command` in the run directory, whole at once, then sleeps."""
    run = "/run/worklet" if runtime.kind == "docker" else '"$HOME/../../run"'
    draft = f"{run}/{to}.draft"
    return f"({command}) > {draft} 2>&1; echo >> {draft}; mv {draft} {run}/{to}; exec sleep 1000"


def connects(run_dir: Path, name: str) -> bool:
    with (
        socket.socket(socket.AF_UNIX) as probe,
        contextlib.suppress(OSError),
        sockets.short_path(run_dir, name) as path,
    ):
        probe.connect(path)
        return True
    return False


async def test_a_started_worklet_runs_and_its_relay_listens(runtime: Runtime) -> None:
    await runtime.check()
    worklet = await runtime.start(spec(name="alpha"))
    assert worklet.running
    assert worklet.name == "alpha"
    await until(lambda: connects(worklet.run_dir, "relay.sock"), what="the relay's socket")


async def test_find_and_list_show_it_to_a_later_flow_too(make: MakeRuntime) -> None:
    first = await make()
    assert await first.find("alpha") is None
    assert await first.list() == []
    worklet = await first.start(spec(name="alpha"))
    await first.start(spec(name="alpha-2"))
    await first.close()
    later = await make()
    assert await later.find("alpha") == worklet
    assert sorted(w.name for w in await later.list()) == ["alpha", "alpha-2"]
    assert all(w.running for w in await later.list())


async def test_remove_asks_politely_first_and_is_idempotent(runtime: Runtime) -> None:
    polite = "trap 'touch $HOME/asked; exit 0' TERM; echo up > $HOME/up; while :; do sleep 0.05; done"
    worklet = await runtime.start(spec(polite))
    await until(lambda: connects(worklet.run_dir, "relay.sock"))
    check = spec(telling(runtime, "ls $HOME"), name=worklet.name)
    await _until_up(runtime, worklet.name)
    await runtime.remove(worklet.name)
    assert await runtime.find(worklet.name) is None
    await runtime.remove(worklet.name)
    again = await runtime.start(check)
    assert "asked" in (await said(again.run_dir, "told")).split()


async def _until_up(runtime: Runtime, name: str) -> None:
    """The script's trap is set once `up` stands in HOME; on docker only the process list can be asked for it."""
    if runtime.kind == "local":
        (home,) = [w.run_dir.parent / "work" / "home" for w in await runtime.list() if w.name == name]
        await until(lambda: (home / "up").exists())
    else:
        identity = json.loads((_share_of(await runtime.list()) / "instance.json").read_text())["instance"]
        command = ["docker", "exec", f"flow-{identity}-{name}", "test", "-e", "/work/home/up"]
        await until(lambda: subprocess.run(command, check=False, timeout=60).returncode == 0)


def _share_of(worklets: list) -> Path:
    return worklets[0].run_dir.parent.parent.parent


async def test_remove_is_firm_with_a_process_that_will_not_go(runtime: Runtime) -> None:
    stubborn = "trap '' TERM INT HUP; (trap '' TERM HUP; setsid sleep 1000 &) ; while :; do sleep 0.1; done"
    worklet = await runtime.start(spec(stubborn))
    await until(lambda: connects(worklet.run_dir, "relay.sock"))
    await runtime.remove(worklet.name, grace=1)
    assert await runtime.find(worklet.name) is None
    assert not connects(worklet.run_dir, "relay.sock")
    assert not _alive_with(worklet.name)


def _alive_with(name: str) -> list[str]:
    """Processes of the local runtime that still carry the worklet's mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"-{name}\0".encode() in path.read_bytes() and b"WORKLET_ID=" in path.read_bytes():
                found.append(path.parent.name)
    return found


async def test_remove_tells_why_a_worklet_had_ended(runtime: Runtime) -> None:
    worklet = await runtime.start(spec(name="lost"))
    await until(lambda: connects(worklet.run_dir, "relay.sock"))
    await _kill(runtime, worklet.id)

    async def stopped() -> bool:
        found = await runtime.find("lost")
        return found is not None and not found.running

    await until(stopped)
    assert "was killed" in (await runtime.remove("lost", grace=0) or "")
    assert "is gone" in (await runtime.remove("lost", grace=0) or "")
    worklet = await runtime.start(spec(name="lost"))
    await until(lambda: connects(worklet.run_dir, "relay.sock"))
    assert await runtime.remove("lost") is None, "it ran"


async def test_the_volume_survives_and_the_next_start_sees_it(runtime: Runtime) -> None:
    name = "keeps"
    first = await runtime.start(spec(telling(runtime, "echo kept > $HOME/a; echo w > f; pwd"), name=name))
    await said(first.run_dir, "told")
    await runtime.remove(name)
    assert await runtime.volumes() == [name]
    assert await runtime.has_volume(name)
    second = await runtime.start(spec(telling(runtime, "cat $HOME/a f", to="again"), name=name))
    assert (await said(second.run_dir, "again")).split() == ["kept", "w"]
    await runtime.remove(name)
    await runtime.remove_volume(name)
    await runtime.remove_volume(name)
    assert await runtime.volumes() == []
    assert not await runtime.has_volume(name)
    assert not second.run_dir.parent.exists()


async def test_put_fills_the_workspace_for_the_agent(runtime: Runtime, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run.sh").write_text("echo ran")
    (source / "sub" / "run.sh").chmod(0o755)
    (source / ".hidden").write_text("hidden")
    (source / "link").symlink_to("sub/run.sh")
    await runtime.put("filled", source)
    script = (
        "sub/run.sh; cat .hidden; echo; readlink link; stat -c %u sub/run.sh; id -u; echo new > sub/new && cat sub/new"
    )
    worklet = await runtime.start(spec(telling(runtime, script), name="filled"))
    ran, hidden, link, owner, agent, new = (await said(worklet.run_dir, "told")).split()
    assert (ran, hidden, link, new) == ("ran", "hidden", "sub/run.sh", "new")
    assert owner == agent
    assert len(await runtime.list()) == 1


PUT = """
import asyncio, sys
from pathlib import Path
from worklets.docker import DockerRuntime
from worklets.identity import Identity
from worklets.local import LocalRuntime
kind, share_dir, source, image = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
here = {"share_dir": share_dir, "identity": Identity.load(share_dir)}
runtime = LocalRuntime(**here) if kind == "local" else DockerRuntime(**here, image=image, memory=1 << 30, cpus=1)
asyncio.run(runtime.put("half", source))
"""


async def _put_until_killed(runtime: Runtime, share_dir: Path, tmp_path: Path) -> None:
    """What it copies would take many seconds; it is killed as soon as its volume (and helper) stands."""
    source = tmp_path / "large"
    source.mkdir(exist_ok=True)
    with (source / "zeros").open("wb") as file:
        file.truncate(1 << 34)
    image = await worklet_image() if runtime.kind == "docker" else ""
    command = [sys.executable, "-c", PUT, runtime.kind, str(share_dir), str(source), image]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as filling:
        try:

            async def begun() -> bool:
                assert filling.poll() is None, "it ended before it was killed"
                helper = runtime.kind == "local" or bool(_helpers(share_dir))
                return helper and await runtime.volumes() == ["half"]

            await until(begun, timeout=60)
        finally:
            filling.kill()


def _helpers(share_dir: Path) -> list[str]:
    wanted = f"name=flow-{Identity.load(share_dir).instance}-half.put"
    return listed("ps", "--all", "--quiet", "--filter", wanted)


async def test_a_volume_can_be_copied_as_it_is(runtime: Runtime) -> None:
    work = "/work" if runtime.kind == "docker" else '"$HOME/.."'
    making = f"mkdir -p {work}/home/.claude && echo said > {work}/home/.claude/x && cd {work}/workspace && ln -s a b"
    first = await runtime.start(
        spec(telling(runtime, f"{making} && mkfifo c && echo one > a && chmod 700 a; echo made"), "origin")
    )
    await said(first.run_dir, "told")
    await runtime.copy("origin", "fork")
    looking = f"cd {work}/workspace && echo two >> b && cat a ../home/.claude/x && stat -c %a a && whoami"
    second = await runtime.start(spec(telling(runtime, looking), "fork"))
    told = (await said(second.run_dir, "told")).split()
    assert told[:4] == ["one", "two", "said", "700"]
    again = await runtime.start(spec(telling(runtime, f"cat {work}/workspace/a"), "third"))
    assert "No such file" in await said(again.run_dir, "told")
    await runtime.remove("origin", grace=0)
    await runtime.copy("origin", "fork")  # it stands there already
    later = await runtime.start(spec(telling(runtime, f"cat {work}/workspace/a", "later"), "origin"))
    assert await said(later.run_dir, "later") == "one", "the copy is a copy"


async def test_what_is_gone_cannot_be_copied(runtime: Runtime) -> None:
    with pytest.raises(WorkletError, match="could not be copied"):
        await runtime.copy("nowhere", "fork")
    assert not await runtime.has_volume("fork")


async def test_a_volume_whose_filling_was_killed_does_not_count(runtime: Runtime, tmp_path: Path) -> None:
    share_dir, whole = tmp_path / "data", tmp_path / "whole"
    await _put_until_killed(runtime, share_dir, tmp_path)
    assert not await runtime.has_volume("half")
    await runtime.remove_volume("half")
    assert await runtime.volumes() == []
    await _put_until_killed(runtime, share_dir, tmp_path)
    whole.mkdir()
    (whole / "file").touch()
    await runtime.put("half", whole)
    assert await runtime.has_volume("half")
    if runtime.kind == "docker":
        assert _helpers(share_dir) == []
    worklet = await runtime.start(spec(telling(runtime, "ls"), name="half"))
    assert await said(worklet.run_dir, "told") == "file"


async def test_a_stopped_leftover_is_found_and_replaced_a_running_one_is_not(runtime: Runtime) -> None:
    first = await runtime.start(spec(name="again"))
    with pytest.raises(WorkletStartFailed, match="already"):
        await runtime.start(spec(name="again"))
    await until(lambda: connects(first.run_dir, "relay.sock"))
    await _kill(runtime, first.id)

    async def stopped() -> bool:
        found = await runtime.find("again")
        return found is not None and not found.running

    await until(stopped)
    second = await runtime.start(spec(telling(runtime, "echo back"), name="again"))
    assert second.id != first.id
    assert await said(second.run_dir, "told") == "back"
    assert [w.id for w in await runtime.list()] == [second.id]


async def _kill(runtime: Runtime, worklet_id: str) -> None:
    """As a power cut would."""
    if runtime.kind == "docker":
        subprocess.run(["docker", "kill", worklet_id], check=True, capture_output=True, timeout=60)
    else:
        os.kill(int(worklet_id), signal.SIGKILL)


async def test_environment_and_token_reach_the_relay_and_leave_no_trace(runtime: Runtime) -> None:
    wanted = spec(telling(runtime, "echo $GREETING $HOME $PWD"), GREETING="hello-from-env")
    worklet = await runtime.start(wanted)
    greeting, home, cwd = (await said(worklet.run_dir, "told")).split()
    assert greeting == "hello-from-env"
    assert (Path(home).name, Path(cwd).name) == ("home", "workspace")
    assert not (worklet.run_dir / "spec.json").exists()
    if runtime.kind == "docker":
        seen = subprocess.run(["docker", "inspect", worklet.id], capture_output=True, text=True, timeout=60).stdout
        assert worklet.id in seen
    else:
        seen = Path(f"/proc/{worklet.id}/environ").read_text() + Path(f"/proc/{worklet.id}/cmdline").read_text()
        assert "relay.py" in seen
    assert wanted.token not in seen
    assert "hello-from-env" not in seen


async def test_flows_own_environment_stays_outside(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-secret")
    worklet = await runtime.start(spec(telling(runtime, "env")))
    seen = await said(worklet.run_dir, "told")
    assert "PATH=" in seen
    assert "SLACK_BOT_TOKEN" not in seen


async def test_the_agent_finds_claude_on_its_path(runtime: Runtime) -> None:
    worklet = await runtime.start(spec(telling(runtime, "claude --version")))
    assert "Claude Code" in await said(worklet.run_dir, "told")


async def test_logs_are_what_the_relay_wrote(runtime: Runtime) -> None:
    worklet = await runtime.start(spec())
    assert await runtime.logs("nobody") == ""
    await until(lambda: connects(worklet.run_dir, "relay.sock"))
    await runtime.remove(worklet.name)
    broken = await make_broken(runtime)
    await until(lambda: _logs_hold(runtime, broken, "cannot"))


async def make_broken(runtime: Runtime) -> str:
    """Starts a worklet whose relay cannot start its process: no environment can hold a NUL."""
    await runtime.start(spec(name="broken", BROKEN="a\0b"))
    return "broken"


async def _logs_hold(runtime: Runtime, name: str, _: str) -> bool:
    return "embedded null byte" in await runtime.logs(name)


async def test_nothing_left_by_an_earlier_agent_is_followed(runtime: Runtime, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    worklet = await runtime.start(spec(name="sly"))
    await until(lambda: connects(worklet.run_dir, "relay.sock"))
    await runtime.remove("sly")
    for name in ("spec.json", "relay.sock"):
        (worklet.run_dir / name).unlink(missing_ok=True)
        (worklet.run_dir / name).symlink_to(victim)
    again = await runtime.start(spec(telling(runtime, "echo fine"), name="sly"))
    assert await said(again.run_dir, "told") == "fine"
    assert victim.read_text() == "untouched"


async def test_a_name_that_leads_elsewhere_is_refused(runtime: Runtime) -> None:
    for name in ("../up", "Upper", "", "x" * 41, "a.b"):
        with pytest.raises(WorkletStartFailed, match="cannot name"):
            await runtime.start(WorkletSpec(name, ("true",), "token"))


# Docker alone


@pytest.fixture
async def docker(tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    share_dir = tmp_path / "data"
    identity, image = Identity.load(share_dir), await worklet_image()
    runtime = DockerRuntime(share_dir=share_dir, identity=identity, image=image, memory=1 << 30, cpus=1.5, pids=200)
    yield runtime
    for worklet in await runtime.list():
        await runtime.remove(worklet.name, grace=0)
    for name in await runtime.volumes():
        await runtime.remove_volume(name)
    await runtime.close()


@pytest.mark.docker
async def test_a_container_is_sealed(docker: DockerRuntime) -> None:
    probe = (
        "grep -E '^(NoNewPrivs|CapBnd|CapEff|Seccomp):' /proc/self/status; echo net:$(ls /sys/class/net | tr '\\n' ,);"
        "touch /etc/x /opt/x /x 2>&1 | grep -c 'Read-only'; cp /bin/true /tmp/x && /tmp/x && echo tmp:ok;"
        "echo uid:$(id -u):$(id -g);"
        "echo init:$(cat /proc/1/comm); echo core:$(ulimit -c); echo files:$(ulimit -n)"
    )
    worklet = await docker.start(spec(telling(docker, probe)))
    seen = (await said(worklet.run_dir, "told")).replace("\t", "")
    for fact in ("NoNewPrivs:1", "CapBnd:0000000000000000", "CapEff:0000000000000000", "Seccomp:2", "net:lo,", "tmp:ok",
                 "uid:1000:1000", "core:0", "files:16384"):  # fmt: skip
        assert fact in seen.splitlines(), f"{fact} in\n{seen}"
    assert "\n3\n" in seen, "three refusals to write on the root"
    assert "init:python3" in seen, "the relay, which the kernel keeps signals from"


@pytest.mark.docker
async def test_a_container_that_ran_out_of_memory_says_so(tmp_path: Path) -> None:
    share_dir = tmp_path / "data"
    runtime = DockerRuntime(
        share_dir=share_dir, identity=Identity.load(share_dir), image=await worklet_image(), memory=96 << 20, cpus=1
    )
    try:
        hungry = "exec python3 -c 'kept = bytearray(300 << 20)'"
        worklet = await runtime.start(spec(hungry, name="hungry"))
        log = worklet.run_dir / "journal"
        await until(lambda: any("code" in path.read_text() for path in log.glob("*.log")), what="its process to end")
        assert await runtime.remove("hungry") == "Claude's container ran out of memory (limit 96 MiB)"
    finally:
        await runtime.remove("hungry", grace=0)
        await runtime.remove_volume("hungry")
        await runtime.close()


@pytest.mark.docker
async def test_a_container_has_its_limits_and_only_constant_labels(docker: DockerRuntime) -> None:
    first = await docker.start(spec(name="one"))
    second = await docker.start(spec(name="two"))
    facts = json.loads(
        subprocess.run(["docker", "inspect", first.id, second.id], capture_output=True, timeout=60).stdout
    )
    host = facts[0]["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 1 << 30
    assert (host["NanoCpus"], host["PidsLimit"]) == (1_500_000_000, 200)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "5242880", "max-file": "2"}}
    assert host["RestartPolicy"]["Name"] in ("", "no")
    assert host["NetworkMode"] == "none"
    ours = [{k: v for k, v in f["Config"]["Labels"].items() if k in ("flow.instance", "flow.spec")} for f in facts]
    assert len(ours[0]) == 2
    assert ours[0] == ours[1], "labels name no thread"
    assert stat.S_IMODE(first.run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(first.run_dir.parent.parent.stat().st_mode) == 0o700
    # What stands ready can be given lower limits while it runs, and no higher ones; the other one keeps its own.
    assert await docker.resize("one", memory=700 << 20, cpus=0.5, pids=90)
    assert _limits(first.id) == (700 << 20, 700 << 20, 500_000_000, 90)
    assert await docker.resize("one", memory=8 << 30, cpus=64, pids=9_000)
    assert await docker.resize("one", memory=None, cpus=0.001, pids=None)
    assert _limits(first.id) == (1 << 30, 1 << 30, 10_000_000, 200)
    assert not await docker.resize("one", memory=docker.least_memory - 1, cpus=None, pids=None)
    assert not await docker.resize("nobody", memory=700 << 20, cpus=None, pids=None)
    assert _limits(first.id)[0] == _limits(second.id)[0] == 1 << 30


def _limits(container: str) -> tuple[int, int, int, int]:
    facts = json.loads(subprocess.run(["docker", "inspect", container], capture_output=True, timeout=60).stdout)
    host = facts[0]["HostConfig"]
    return host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]


@pytest.mark.docker
async def test_a_container_is_run_by_the_wanted_oci_runtime(tmp_path: Path) -> None:
    made = {
        "share_dir": tmp_path / "data",
        "identity": Identity.load(tmp_path / "data"),
        "memory": 256 << 20,
        "cpus": 1,
    }
    image = await worklet_image()
    unknown = DockerRuntime(**made, image=image, oci_runtime="flow-no-such-runtime")
    named = DockerRuntime(**made, image=image, oci_runtime="runc")
    try:
        with pytest.raises(WorkletStartFailed, match=r"no runtime flow-no-such-runtime; it has .*runc") as told:
            await unknown.check()
        assert "FLOW_WORKLET_RUNTIME" in told.value.sentence()
        with pytest.raises(WorkletStartFailed, match="untime"):
            await unknown.start(spec(name="runs"))
        await named.check()
        assert await named.weaknesses() == []
        worklet = await named.start(spec(name="runs"))
        shown = subprocess.run(["docker", "inspect", worklet.id], capture_output=True, timeout=60, check=True).stdout
        assert json.loads(shown)[0]["HostConfig"]["Runtime"] == "runc"
        assert json.loads(shown)[0]["HostConfig"]["ShmSize"] == 32 << 20, "an eighth of its memory"
    finally:
        await named.remove("runs", grace=0)
        await named.remove_volume("runs")
        await named.close()
        await unknown.close()


def test_what_an_engine_does_not_hold_worklets_to_is_told() -> None:
    assert admitted({"SecurityOptions": ["name=seccomp,profile=default"], "MemoryLimit": True}) == []
    assert len(admitted({"SecurityOptions": ["name=seccomp,profile=unconfined"]})) == 1
    found = admitted({"SecurityOptions": ["name=rootless"], "PidsLimit": False, "CpuCfsQuota": True})
    assert found == ["processes of worklets cannot be limited", "no system calls are kept from worklets (seccomp)"]


@pytest.mark.docker
async def test_an_agent_cannot_read_the_relays_memory_or_files(docker: DockerRuntime) -> None:
    script = telling(
        docker, "for p in /proc/[0-9]*; do grep -aq relay.py $p/cmdline 2>/dev/null && cat $p/environ; done"
    )
    worklet = await docker.start(spec(script))
    assert "Permission denied" in await said(worklet.run_dir, "told")


@pytest.mark.docker
async def test_what_the_engine_refuses_is_told_as_a_sentence(docker: DockerRuntime) -> None:
    await docker.start(spec(name="busy"))
    with pytest.raises(WorkletError, match="volume is in use") as told:
        await docker.remove_volume("busy")
    assert "\n" not in told.value.sentence()


@pytest.mark.docker
async def test_a_missing_image_is_told_with_what_to_do(docker: DockerRuntime, tmp_path: Path) -> None:
    runtime = DockerRuntime(
        share_dir=tmp_path, identity=Identity.load(tmp_path), image="flow-no-such-image:latest", memory=1 << 30, cpus=1
    )
    try:
        with pytest.raises(ImageMissing, match="flow-no-such-image") as told:
            await runtime.check()
        assert "flow image build" in told.value.sentence()
        with pytest.raises(ImageMissing):
            await runtime.start(spec())
        with pytest.raises(ImageMissing):
            await runtime.put("x", tmp_path)
    finally:
        for name in await runtime.volumes():
            await runtime.remove_volume(name)
        await runtime.close()


@pytest.mark.docker
async def test_the_engines_reason_is_told_when_a_start_fails(docker: DockerRuntime, tmp_path: Path) -> None:
    runtime = DockerRuntime(
        share_dir=tmp_path / "data", identity=Identity.load(tmp_path / "data"), image=await worklet_image(),
        memory=1 << 20, cpus=1000,
    )  # fmt: skip
    try:
        with pytest.raises(WorkletStartFailed, match="inimum memory limit") as told:
            await runtime.start(spec(name="broken"))
        assert "\n" not in told.value.sentence()
        assert await runtime.list() == []
    finally:
        await runtime.close()


async def test_a_dead_engine_is_unavailable(tmp_path: Path) -> None:
    runtime = DockerRuntime(
        share_dir=tmp_path, identity=Identity.load(tmp_path), image="any", memory=1 << 30, cpus=1,
        host=f"unix://{tmp_path}/none.sock",
    )  # fmt: skip
    try:
        for call in (runtime.check(), runtime.start(spec()), runtime.list(), runtime.find("x"), runtime.remove("x")):
            with pytest.raises(RuntimeUnavailable, match=r"none\.sock") as told:
                await call
            assert "flow doctor" in told.value.sentence()
    finally:
        await runtime.close()


async def test_a_silent_engine_is_unavailable(tmp_path: Path) -> None:
    from worklets.engine import Engine

    with sockets.listen(tmp_path, "silent.sock"):
        engine = Engine(f"unix://{tmp_path}/silent.sock", timeout=0.3)
        with pytest.raises(RuntimeUnavailable, match="did not answer"):
            await engine.call("query", lambda client: client.ping())
        await engine.close()


async def test_the_local_runtime_says_that_it_isolates_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = LocalRuntime(share_dir=tmp_path, identity=Identity.load(tmp_path))
    await runtime.close()
    assert not runtime.isolated
    out = capsys.readouterr()
    assert "isolates nothing" in out.out + out.err


async def test_the_local_worklet_is_nobodys_child(tmp_path: Path) -> None:
    runtime = LocalRuntime(
        share_dir=tmp_path,
        identity=Identity.load(tmp_path),
        command=(sys.executable, "-c", "import time; time.sleep(99)"),
    )
    worklet = await runtime.start(spec(name="orphan"))
    try:
        await until(
            lambda: os.getsid(int(worklet.id)) == int(worklet.id), what="a session of its own: no Ctrl-C reaches it"
        )
        parent = Path(f"/proc/{worklet.id}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) != os.getpid()
    finally:
        await runtime.remove("orphan", grace=0)
        await runtime.close()
