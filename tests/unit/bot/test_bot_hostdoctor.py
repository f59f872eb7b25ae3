"""The limits of machine and engine that `flow doctor` warns of, each with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bot.hostdoctor import networks, processes, watchers
from config.settings import Settings, load
from worklets.enginelimits import NetworkUse, network_use


def sysctl(root: Path, **values: object) -> Path:
    """`fs__inotify__max_user_instances=8192` and the like."""
    for name, value in values.items():
        path = root / name.replace("__", "/").replace("threads_max", "threads-max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_MAX_SESSIONS", "1000")
    return load()


def test_few_watchers_are_told_with_the_command_that_gives_more(tmp_path: Path) -> None:
    few = sysctl(tmp_path, fs__inotify__max_user_instances=128, fs__inotify__max_user_watches=8192)
    found = watchers(few)
    assert found.state == "warn"
    assert "128" in found.text
    assert "fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=1048576" in found.advice
    sysctl(tmp_path, fs__inotify__max_user_instances=8192)
    assert "max_user_instances" not in watchers(few).advice
    sysctl(tmp_path, fs__inotify__max_user_watches=1 << 20)
    assert (watchers(few).state, watchers(few).advice) == ("ok", "")
    assert watchers(tmp_path / "none").state == "skip"


def test_numbers_of_processes_are_held_against_the_sessions(tmp_path: Path, settings: Settings) -> None:
    small = sysctl(tmp_path, kernel__pid_max=32768, kernel__threads_max=200_000)
    found = processes(settings, small)
    assert found.state == "warn"
    assert "32,768" in found.text
    assert "1000 worklets" in found.text
    assert "kernel.pid_max=4194304" in found.advice
    sysctl(tmp_path, kernel__pid_max=4_194_304)
    assert processes(settings, small).state == "ok"
    sysctl(tmp_path, kernel__threads_max="30000")
    assert "kernel.threads-max=" in processes(settings, small).advice
    sysctl(tmp_path, kernel__threads_max="what?")
    assert processes(settings, small).state == "ok"
    assert processes(settings, tmp_path / "none").state == "skip"


def test_networks_and_bridges_are_told_of_before_they_are_full() -> None:
    assert networks(NetworkUse(3, 31, 5, "bridge")).state == "ok"
    found = networks(NetworkUse(25, 31, 900, "shared"))
    assert found.state == "warn"
    assert "default-address-pools" in found.advice
    assert "the network shared" in found.advice
    assert "prune" not in networks(NetworkUse(3, 31, 1000, "shared")).advice


def _container(*names: str) -> dict[str, Any]:
    return {"NetworkSettings": {"Networks": {name: {} for name in names}}}


def test_what_an_engine_tells_of_itself_is_added_up() -> None:
    listed = [
        {"Name": "bridge", "Driver": "bridge"},
        {"Name": "own", "Driver": "bridge"},
        {"Name": "none", "Driver": "null"},
    ]
    containers = [_container("own"), _container("own", "bridge"), _container("none"), {}, {"NetworkSettings": None}]
    assert network_use({}, listed, containers) == NetworkUse(2, 31, 2, "own")
    assert network_use({"DefaultAddressPools": None}, [], []) == NetworkUse(0, 31)
    pools = [{"Base": "10.10.0.0/16", "Size": 28}, {"Base": "fd00::/8", "Size": 64}, {"Base": "odd", "Size": 1}, {}]
    assert network_use({"DefaultAddressPools": pools}, [], []).capacity == 4096
