"""What `flow doctor` says of an engine on another machine, from what the engine and its gate answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bot import remotedoctor
from bot.doctorfinding import Finding
from config.settings import load
from worklets import gateaddress
from worklets.engine import EngineAt
from worklets.errors import ImageMissing
from worklets.identity import Identity
from worklets.remote import EngineState, RemoteRuntime


class Answering(RemoteRuntime):
    """An engine whose answers are made up; nothing is asked of any."""

    api, skew, has_image = "1.41", timedelta(), True

    async def state(self) -> EngineState:
        return EngineState("faraway", self.api, datetime.now(UTC) + self.skew, "tcp://engine.test:2376")

    async def check(self) -> None:
        if not self.has_image:
            raise ImageMissing


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answering:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine.test:2376")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    return Answering(
        host=EngineAt("tcp://engine.test:2376"), gate_host="engine.test", gate_port=7443, listen=("127.0.0.1", 7443),
        share_dir=tmp_path, identity=Identity.load(tmp_path), image="image", memory=1 << 30, cpus=1,
    )  # fmt: skip


@pytest.fixture
def gate(tmp_path: Path) -> None:
    gateaddress.remember(tmp_path, gateaddress.GateAddress("engine.test", 7443, "pem", "id", "v"))


@pytest.mark.usefixtures("gate")
async def test_a_gate_that_is_where_it_is_to_be(runtime: Answering) -> None:
    found = await remotedoctor.engine(load(), runtime)
    assert found == Finding("ok", "faraway, API 1.41; the gate answers at engine.test:7443")


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("FLOW_GATE_PORT", "9000", "engine.test:9000"),
        ("FLOW_GATE_ADDRESS", "gate.test", "gate.test:7443"),
        ("FLOW_GATE_ADDRESS", "engine.test:8000", "engine.test:8000"),
    ],
)
async def test_a_gate_at_another_address_than_is_set(
    name: str, value: str, wanted: str, runtime: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = await remotedoctor.engine(load(), runtime)
    assert (found.state, found.text) == ("warn", "faraway, API 1.41; the gate answers at engine.test:7443")
    assert found.advice == f"Flow's bot brings one at {wanted}, as is set, when it is started anew."


async def test_an_engine_that_is_too_old(runtime: Answering) -> None:
    runtime.api = "1.40"
    found = await remotedoctor.engine(load(), runtime)
    assert (found.state, "speaks API 1.40" in found.text) == ("fail", True)


@pytest.mark.parametrize(("skew", "words"), [(3600, "ahead of"), (-3600, "behind")])
async def test_a_clock_that_is_off(skew: int, words: str, runtime: Answering) -> None:
    runtime.skew = timedelta(seconds=skew)
    found = await remotedoctor.engine(load(), runtime)
    assert (found.state, f"s {words} this machine's" in found.text) == ("warn", True)


async def test_an_image_that_is_not_there_yet(runtime: Answering) -> None:
    runtime.has_image = False
    found = await remotedoctor.engine(load(), runtime)
    assert (found.state, found.advice) == ("warn", "Build it with `flow image build`.")
