"""Which engine the settings mean, and which of them are on another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.core import choose_runtime
from bot.doctor import find
from bot.engines import Reach, engine_at, gate_reach
from config.errors import FlowError
from config.settings import SettingsError, load
from worklets import gateaddress
from worklets.docker import DockerRuntime
from worklets.identity import Identity
from worklets.remote import RemoteRuntime


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("given", "reach"),
    [
        ({}, None),
        ({"DOCKER_HOST": "unix:///var/run/docker.sock"}, None),
        ({"DOCKER_HOST": "tcp://127.0.0.1:2375"}, None),
        ({"DOCKER_HOST": "tcp://localhost:2375", "DOCKER_CERT_PATH": "/c"}, None),
        ({"DOCKER_HOST": "tcp://engine.test:2376", "DOCKER_CERT_PATH": "/c"}, Reach("engine.test", 7443)),
        ({"DOCKER_HOST": "tcp://[fd00::7]:2376", "DOCKER_CERT_PATH": "/c"}, Reach("fd00::7", 7443)),
        (
            {"DOCKER_HOST": "tcp://engine.test:2376", "DOCKER_CERT_PATH": "/c", "FLOW_GATE_PORT": "9000"},
            Reach("engine.test", 9000),
        ),
        (
            {"DOCKER_HOST": "tcp://engine.test:2376", "DOCKER_CERT_PATH": "/c", "FLOW_GATE_ADDRESS": "gate.test:1"},
            Reach("gate.test", 1),
        ),
        ({"FLOW_GATE_ADDRESS": "127.0.0.1"}, Reach("127.0.0.1", 7443)),
        ({"FLOW_GATE_ADDRESS": "[::1]:7000"}, Reach("::1", 7000)),
    ],
)
def test_where_the_gate_is(given: dict[str, str], reach: Reach | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert gate_reach(load()) == reach
    assert engine_at(load()).host == given.get("DOCKER_HOST")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"DOCKER_HOST": "tcp://engine.test:2375"}, "no certificates"),
        ({"DOCKER_HOST": "ssh://engine.test"}, "ssh://"),
        ({"DOCKER_HOST": "https://engine.test"}, "https://"),
    ],
)
async def test_engines_that_are_refused_in_one_sentence(
    given: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FlowError, match=words) as refused:
        gate_reach(load())
    assert refused.value.suggestion
    found = await find("engine", load())
    assert found.state == "fail"
    assert words in found.text


@pytest.mark.parametrize(
    ("name", "value"),
    [("FLOW_GATE_ADDRESS", "http://gate"), ("FLOW_GATE_LISTEN", "engine.test"), ("FLOW_GATE_PORT", "70000")],
)
def test_settings_that_cannot_be(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load()


async def test_who_names_an_engine_elsewhere_gets_no_plain_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setenv("FLOW_GATE_ADDRESS", "127.0.0.1")
    runtime = await choose_runtime(load(), Identity.load(tmp_path))
    assert isinstance(runtime, RemoteRuntime)
    await runtime.close()


async def test_back_on_this_machine_no_gate_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateaddress.remember(tmp_path, gateaddress.GateAddress("engine.test", 7443, "pem", "id", "v"))
    monkeypatch.setenv("FLOW_RUNTIME", "docker")
    runtime = await choose_runtime(load(), Identity.load(tmp_path))
    assert type(runtime) is DockerRuntime
    assert gateaddress.known(tmp_path) is None
    await runtime.close()


async def test_certificates_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.255.255.1:2376")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    found = await find("engine", load())
    assert (found.state, str(tmp_path) in found.text) == ("fail", True)
    assert "ca.pem" in found.advice
