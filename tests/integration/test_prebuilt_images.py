"""Worklet images on other bases: made once, waited for by all, refused with a reason, removed in the end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dockerlists import listed
from imageregistry import registry
from waiting import until

from worklets.baseimages import OWN_BASE, is_allowed
from worklets.errors import ImageMissing, WorkletStartFailed
from worklets.fetchedbases import Base, Fetched, read, write
from worklets.imagebuild import Recipe
from worklets.prebuilt import Prebuilt
from worklets.prebuiltimages import BaseUnfit
from worklets.room import Room

INSTANCE = f"test{os.getpid()}"  # another suite may run on this engine
REPOSITORY = f"flow-test-base-{os.getpid()}"
BASE, OTHER = f"{REPOSITORY}:one", f"{REPOSITORY}:two"


def docker(*words: str, stdin: str = "") -> str:
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def made_of(steps: str = "RUN id -u > /built") -> Recipe:
    """A small one: what the worklet image's own does is tests/integration/test_image.py's."""
    return Recipe({"Dockerfile": f"ARG BASE\nFROM ${{BASE}}\n{steps}\n".encode()}, {})


def base_image(tag: str, *lines: str, on: str = OWN_BASE) -> None:
    """With a label of this process: else all suites on this engine would have the same images."""
    docker("build", "-q", "-t", tag, "-", stdin="\n".join([f"FROM {on}", f"LABEL flow-test={INSTANCE}", *lines]))


@pytest.fixture(scope="module", autouse=True)
def bases() -> Iterator[None]:
    base_image(BASE, "RUN echo 1 > /one", "USER 65534", 'ENTRYPOINT ["/bin/false"]')
    base_image(OTHER, "RUN echo 2 > /two")
    yield
    end, said = time.monotonic() + 60, ""
    while found := left():
        assert time.monotonic() < end, (found, said)
        # One that others are removing at this moment, or whose parents they are, is refused: looked at again.
        said = subprocess.run(["docker", "rmi", "-f", *found], capture_output=True, text=True, timeout=100).stderr


def left() -> list[str]:
    """What this module has made: images by id, since one that is being removed has no name; bases, which lie below."""
    made = listed("images", "-q", "--no-trunc", f"--filter=label=flow.prebuilt.instance={INSTANCE}")
    bases = listed("images", "--format={{.Repository}}:{{.Tag}}", f"--filter=reference={REPOSITORY}")
    return [*dict.fromkeys(made), *bases]


async def tidied(prebuilt: Prebuilt) -> None:
    if prebuilt._tidying is not None:
        await prebuilt._tidying


async def closed(prebuilt: Prebuilt) -> None:
    """Closed when nothing is being removed: the engine would go on with it while something else is asked of it."""
    await tidied(prebuilt)
    await prebuilt.aclose()


class Crowded(Room):
    """Where there is none."""

    async def require(self) -> None:
        raise WorkletStartFailed("No worklet starts: the disk is nearly full.")


@pytest.fixture
async def prebuilt(tmp_path: Path) -> AsyncIterator[Prebuilt]:
    made = Prebuilt(tmp_path, INSTANCE, made_of=made_of, keep=1, young=0)
    yield made
    await closed(made)


@pytest.mark.parametrize(
    ("base", "patterns", "allowed"),
    [
        (OWN_BASE, (), True),
        ("node:22", (), False),
        ("node:22", ("node:*",), True),
        ("node", ("node:latest",), True),
        ("node", ("node",), True),
        ("evil/node:22", ("node:*",), False),
        ("node:5000/evil/img", ("node:*",), False),
        ("node:5000/evil/img:1", ("node:*",), False),
        ("host:5000/node:22", ("host:*/node:22",), True),
        ("node:22@sha256:" + "a" * 64, ("node:22*",), True),
        ("host.example.org:5000/team/node", ("host.example.org:5000/team/*",), True),
        ("node:22@sha256:" + "a" * 64, ("node:22",), False),
    ],
)
def test_only_bases_that_the_administrator_names(base: str, patterns: tuple[str, ...], allowed: bool) -> None:
    assert is_allowed(base, patterns) is allowed


@pytest.mark.docker
async def test_it_is_made_once_for_all_who_wait_and_each_hears_of_it(prebuilt: Prebuilt, tmp_path: Path) -> None:
    heard: list[list[str]] = [[], [], []]
    other = Prebuilt(tmp_path, INSTANCE, made_of=made_of)  # as another process
    tags = await asyncio.gather(
        prebuilt.image(BASE, heard[0].append), prebuilt.image(BASE, heard[1].append), other.image(BASE, heard[2].append)
    )
    assert len(set(tags)) == 1
    assert docker("run", "--rm", "--entrypoint=cat", tags[0], "/built") == "0", "whatever user the base ends with"
    labels = json.loads(docker("inspect", "--format={{json .Config.Labels}}", tags[0]))
    assert "flow.instance" not in labels, "a container has its image's labels, and would be taken for a worklet"
    assert any(step.startswith("image 2/") for steps in heard for step in steps), heard
    assert len({len(steps) for steps in heard[:2]}) == 1, "both of one process hear the same"
    again: list[str] = []
    assert await prebuilt.image(BASE, again.append) == tags[0]
    assert again == [], "it is there"
    (tmp_path / "images" / "gone").symlink_to("nowhere")  # as a file that goes while they are listed
    (image,) = [one for one in await prebuilt.list() if one.base == BASE]
    assert (image.tag, image.busy) == (tags[0], False)
    assert image.used is not None
    await closed(other)


@pytest.mark.docker
async def test_other_content_is_another_image_and_who_stops_waiting_stops_nothing(tmp_path: Path) -> None:
    prebuilt = Prebuilt(tmp_path, INSTANCE, made_of=lambda: made_of("RUN id -G > /built"))
    waiting = asyncio.create_task(prebuilt.image(BASE, lambda _: None))
    await until(lambda: prebuilt.building == [BASE])
    waiting.cancel()
    first = await prebuilt.image(BASE, lambda _: None)
    base_image(BASE, "RUN echo 3 > /one")
    second = await prebuilt.image(BASE, lambda _: None)
    assert second != first, "the base image changed"
    newer = Prebuilt(tmp_path, INSTANCE, made_of=lambda: made_of("RUN id -g > /built"), keep=9)
    assert await newer.image(BASE, lambda _: None) not in (first, second), "what is put on it changed"
    await closed(newer)
    await closed(prebuilt)


@pytest.mark.docker
async def test_old_ones_go_when_a_new_one_is_made_and_those_in_use_stay(prebuilt: Prebuilt) -> None:
    first = await prebuilt.image(BASE, lambda _: None)
    container = docker("create", "--network=none", first, "true")
    try:
        second = await prebuilt.image(OTHER, lambda _: None)
        base_image(OTHER, "RUN echo 4 > /two")
        third = await prebuilt.image(OTHER, lambda _: None)

        async def there() -> dict[str, bool]:
            return {one.tag: one.busy for one in await prebuilt.list() if one.base.startswith(f"{REPOSITORY}:")}

        async def tidy() -> bool:
            return await there() == {first: True, third: False}

        await until(tidy, what=f"one idle one and the one in use, not {second}")
        await tidied(prebuilt)  # it looks once more, and the one in use is about to be idle
    finally:
        docker("rm", container)
    assert {one.tag for one in await prebuilt.prune(0)} >= {first, third}


@pytest.mark.docker
async def test_one_that_is_used_while_others_go_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Prebuilt(tmp_path, INSTANCE, made_of=made_of)
    older = await made.image(BASE, lambda _: None)
    await made.image(OTHER, lambda _: None)
    await tidied(made)
    call, again = made._engine.call, list[str]()

    async def late(kind: str, work: Any, **options: Any) -> Any:
        if kind == "remove" and not again:
            again.append(await made.image(BASE, lambda _: None))
        return await call(kind, work, **options)

    monkeypatch.setattr(made._engine, "call", late)
    gone = {one.tag for one in await made.prune(0)}
    assert again == [older]
    assert older not in gone
    assert older in {one.tag for one in await made.list()}
    await closed(made)


@pytest.mark.docker
async def test_one_on_which_another_is_made_stays_with_that(tmp_path: Path) -> None:
    lower = Prebuilt(tmp_path, INSTANCE, made_of=lambda: made_of("RUN id -g > /lower"))
    upper = Prebuilt(tmp_path, INSTANCE, made_of=lambda: made_of("RUN id -g > /upper"), fetches=False)
    first = await lower.image(BASE, lambda _: None)
    second = await upper.image(first, lambda _: None)
    await tidied(upper)
    await tidied(lower)
    busy = {one.tag: one.busy for one in await lower.list()}
    assert (busy[first], busy[second]) == (True, False)
    container = docker("create", "--network=none", second, "true")
    try:
        assert not {first, second} & {one.tag for one in await lower.prune(0)}
    finally:
        docker("rm", container)
    assert {first, second} <= {one.tag for one in await lower.prune(0)}
    await closed(upper)
    await closed(lower)


@pytest.mark.docker
async def test_what_is_no_base_of_the_settings_comes_from_no_registry(tmp_path: Path) -> None:
    made = Prebuilt(tmp_path, INSTANCE, made_of=made_of, fetches=False)
    async with registry() as host:
        missing = f"{host.address}/usual:1"
        host.offer("1", os.urandom(8))
        with pytest.raises(ImageMissing, match=f"The image {missing} is missing"):
            await made.image(missing, lambda _: None)
        assert host.pulls == 0
        await asyncio.to_thread(docker, "tag", BASE, missing)
        try:
            assert await made.image(missing, lambda _: None), "it is tried at once when it is there"
        finally:
            await asyncio.to_thread(docker, "rmi", missing)
    await closed(made)


@pytest.mark.docker
async def test_what_cannot_be_a_base_is_told_in_a_sentence(prebuilt: Prebuilt) -> None:
    unfit = {
        "musl": (("RUN mkdir -p /lib && touch /lib/ld-musl-x86_64.so.1",), "is made with musl"),
        "noapt": (("RUN rm -f /usr/bin/apt-get",), "has no apt-get"),
        "volume": (("VOLUME /data",), "has volumes of its own (/data)"),
        "onbuild": (("ONBUILD RUN id",), "ONBUILD"),
    }
    try:
        for name, (lines, _) in unfit.items():
            base_image(f"{REPOSITORY}:{name}", *lines)
        docker("build", "-q", "-t", f"{REPOSITORY}:empty", "-", stdin="FROM scratch\nLABEL x=y\nENV A=b\nCMD x")
        for name, words in {**{name: words for name, (_, words) in unfit.items()}, "empty": "has no shell"}.items():
            with pytest.raises(BaseUnfit, match=re.escape(words)):
                await prebuilt.image(f"{REPOSITORY}:{name}", lambda _: None)
    finally:
        for name in (*unfit, "empty"):
            docker("rmi", "-f", f"{REPOSITORY}:{name}")
    assert docker("ps", "-aq", f"--filter=label=flow.instance={INSTANCE}") == ""


@pytest.mark.docker
async def test_a_failure_is_told_with_its_last_lines_and_not_tried_again_for_a_while(tmp_path: Path) -> None:
    now = 0.0

    def broken() -> Recipe:
        return replace(made_of("RUN echo so far; echo the reason; exit 7"), needs="It needs this.")

    prebuilt = Prebuilt(tmp_path, INSTANCE, made_of=broken, clock=lambda: now)
    steps: list[str] = []
    with pytest.raises(ImageMissing, match=r"ended with code 7 after: .*so far / .*the reason") as refused:
        await prebuilt.image(OTHER, steps.append)
    assert refused.value.sentence().endswith("Flow tries again in 5 minutes. It needs this.")
    count = len(steps)
    with pytest.raises(ImageMissing):
        await prebuilt.image(OTHER, steps.append)
    assert len(steps) == count, "told at once"
    now = 301.0
    with pytest.raises(ImageMissing):
        await prebuilt.image(OTHER, steps.append)
    assert len(steps) > count, "tried again"
    with pytest.raises(ImageMissing, match="flow-test-nowhere:1 is not here and could not be fetched"):
        await prebuilt.image("flow-test-nowhere:1", steps.append)
    await closed(prebuilt)


@pytest.mark.docker
async def test_nothing_is_made_or_fetched_on_a_full_disk(tmp_path: Path) -> None:
    steps: list[str] = []
    prebuilt = Prebuilt(tmp_path, INSTANCE, made_of=lambda: made_of("RUN id -un > /built"), room=Crowded(tmp_path))
    for _ in range(2):
        with pytest.raises(WorkletStartFailed, match="nearly full"):
            await prebuilt.image(OTHER, steps.append)
    assert not any(step.startswith("image ") for step in steps)
    with pytest.raises(WorkletStartFailed, match="nearly full"):
        await prebuilt.fetch(OTHER)
    await closed(prebuilt)


@pytest.mark.docker
async def test_a_base_that_flow_fetched_goes_when_nothing_is_made_of_it(tmp_path: Path) -> None:
    now = os.urandom(8)
    async with registry() as host:
        mine, theirs, named, other_one = (f"{host.address}/{name}:1" for name in ("mine", "theirs", "named", "other"))
        host.offer("1", now)

        async def there(*images: str) -> set[str]:
            found = await asyncio.to_thread(listed, "images", "--format={{.Repository}}:{{.Tag}}")
            return {image for image in images if image in found}

        try:
            await asyncio.to_thread(docker, "pull", "-q", theirs)
            prebuilt = Prebuilt(tmp_path, INSTANCE, made_of=made_of)
            await prebuilt.fetch(theirs)  # its name is somebody else's, whatever comes under it
            await prebuilt.fetch(named)  # the same image under another name: somebody else's too
            assert await prebuilt.bases() == []
            host.offer("1", now + b"newer")
            await prebuilt.fetch(theirs)
            assert await prebuilt.bases() == []
            host.offer("1", now + b"other")
            with pytest.raises(BaseUnfit, match="has no shell"):  # fetched, looked at, and of no use
                await prebuilt.image(other_one, lambda _: None)
            assert prebuilt._tidying is not None
            await prebuilt._tidying
            assert not await there(other_one), "nobody is about to use it, however young it is"
            host.offer("1", now + b"mine")
            await prebuilt.fetch(mine)
            kept = tmp_path / "mine.tar"
            await asyncio.to_thread(docker, "save", "-o", str(kept), mine)
            await asyncio.to_thread(docker, "rmi", mine)
            await asyncio.to_thread(docker, "load", "-i", str(kept))
            records = read(tmp_path / "images" / "fetched.json")
            assert [one.base for one in records] == [mine]
            assert await prebuilt.prune_bases() == [], "somebody has brought it"
            assert await there(mine)
            await asyncio.to_thread(docker, "rmi", mine)
            await prebuilt.fetch(mine)
            (record,) = read(tmp_path / "images" / "fetched.json")
            write(tmp_path / "images" / "fetched.json", [replace(record, engine="another")])
            assert await prebuilt.bases() == []
            assert read(tmp_path / "images" / "fetched.json") == []
            write(tmp_path / "images" / "fetched.json", [record])
            child = await asyncio.to_thread(docker, "build", "-q", "-", stdin=f"FROM {mine}\nENV A=b\n")
            assert (await fetched_base(prebuilt, mine)).busy
            assert await prebuilt.prune_bases() == []
            await asyncio.to_thread(docker, "rmi", child)
            container = await asyncio.to_thread(docker, "create", "--network=none", mine, "x")
            assert await prebuilt.prune_bases() == []
            await asyncio.to_thread(docker, "rm", container)
            assert await prebuilt.prune_bases(young=600) == [], "it may be about to be used"
            await asyncio.to_thread(docker, "tag", mine, f"{REPOSITORY}:kept")
            assert [one.shared for one in await prebuilt.bases()] == [True]
            assert await prebuilt.prune_bases() == []
            await asyncio.to_thread(docker, "rmi", f"{REPOSITORY}:kept")
            async with prebuilt._alone():
                other = Prebuilt(tmp_path, INSTANCE, made_of=made_of)
                assert await other.prune_bases() == [], "something is being made"
            assert [one.fetched.base for one in await other.prune_bases()] == [mine]
            assert await other.bases() == []
            await closed(other)
            await closed(prebuilt)
            assert await there(mine, theirs, named, other_one) == {theirs, named}
        finally:
            left = await asyncio.to_thread(docker, "images", "-q", "--filter", f"reference={host.address}/*")
            for image in set(left.split()):
                await asyncio.to_thread(docker, "rmi", "-f", image)


async def fetched_base(prebuilt: Prebuilt, base: str) -> Base:
    return next(one for one in await prebuilt.bases() if one.fetched.base == base)


def test_a_record_that_is_no_record_names_nothing(tmp_path: Path) -> None:
    path, one = tmp_path / "images" / "fetched.json", Fetched("sha256:1", "a:1", ("a:1",), 5.0, "engine", "mark")
    assert read(path) == []
    write(path, [one])
    assert read(path) == [one]
    for text in ("", "{", "{}", '[1, {"id": 1}, {"id": "x", "base": "y", "tags": "z", "at": 1}]', "null"):
        path.write_text(text)
        assert read(path) == []
    assert [file.name for file in path.parent.iterdir()] == ["fetched.json"]


@pytest.mark.docker
async def test_a_flow_that_stops_ends_the_build(tmp_path: Path) -> None:
    endless = "RUN while sleep 0.2; do echo x; done"
    prebuilt = Prebuilt(tmp_path, INSTANCE, made_of=lambda: made_of(endless))
    steps: list[str] = []
    before = set(threading.enumerate())
    waiting = asyncio.create_task(prebuilt.image(OTHER, steps.append))
    await until(lambda: any(step.startswith("image 5/") for step in steps))
    (building,) = [one for one in set(threading.enumerate()) - before if one.name == "docker-long"]
    await asyncio.wait_for(prebuilt.aclose(), 60)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: not building.is_alive(), what="the thread to hang up")

    await until(lambda: endless[4:] not in "".join(listed("ps", "--no-trunc", "--format={{.Command}}")), what="its end")
    again = Prebuilt(tmp_path, INSTANCE, made_of=made_of)
    assert await again.image(OTHER, lambda _: None), "the lock is free"
    await closed(again)
