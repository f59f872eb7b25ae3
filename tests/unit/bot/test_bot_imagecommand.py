"""`flow images build`: what is asked for is made, and what is not asked for well is said."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bot.core import profile_images
from bot.imagecommand import _build, add_verbs
from config.errors import FlowError
from config.settings import Settings, load
from worklets.identity import Identity
from worklets.profileimages import ProfileImages


@dataclass
class Made:
    """As `Prebuilt`."""

    what: str
    fetched: list[str] = field(default_factory=list)

    async def fetch(self, base: str) -> None:
        self.fetched.append(base)

    async def image(self, base: str, on_step: Callable[[str], None]) -> str:
        on_step("image")
        on_step("image 1/2")
        return f"{base}+{self.what}"


def asked(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_verbs(parser)
    return parser.parse_args(["build", *words])


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOW_SHARE_DIR", str(tmp_path))
    monkeypatch.setenv("FLOW_BASE_IMAGES", "go:1")
    return load()


@pytest.mark.parametrize(
    ("words", "tag", "fetched"),
    [
        (("--browser",), "usual+browser", []),
        (("go:1",), "go:1+flow", []),
        (("go:1", "--browser"), "go:1+flow+browser", []),
        (("go:1", "--pull"), "go:1+flow", ["go:1"]),
    ],
)
async def test_what_is_asked_for_is_made(
    words: tuple[str, ...], tag: str, fetched: list[str], settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = Made("flow")
    images = ProfileImages("usual", flow, Made("browser"))  # type: ignore[arg-type]
    assert await _build(images, settings, asked(*words)) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-1].startswith(f"{tag} is there, after ")
    assert "step 1 of 2" in told
    assert flow.fetched == fetched


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Name one, or --browser for the usual image"),
        (("--pull",), "Which base image is to be fetched?"),
        (("--pull", "--browser"), "Which base image is to be fetched?"),
        (("rust:1", "--browser"), "rust:1 is not among FLOW_BASE_IMAGES."),
        (("debian:bookworm-slim",), "`flow image build` makes that."),
    ],
)
async def test_what_cannot_be_made_is_said(words: tuple[str, ...], told: str, settings: Settings) -> None:
    images = ProfileImages("usual", Made("flow"), Made("browser"))  # type: ignore[arg-type]
    with pytest.raises(FlowError) as refused:
        await _build(images, settings, asked(*words))
    assert told in refused.value.sentence()


async def test_only_bases_come_from_registries(settings: Settings) -> None:
    images = profile_images(settings, Identity.load(settings.share_dir))
    assert images.on_bases._fetches
    assert not images._with_browser._fetches, "what is below a browser is made here, and named in no setting of bases"
    await images.aclose()
