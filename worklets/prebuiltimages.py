"""What the engine does for prebuilt images: found, built, listed, removed. All of it blocks, in the engine's threads.

Every image that we made carries KEY_LABEL. Beside those only base images are removed that we fetched
(`fetchedbases.py`), and only while nobody has given them another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worklets.engine import explanation
from worklets.errors import ImageMissing, WorkletError
from worklets.fetchedbases import Base, Fetched
from worklets.imagebuild import BASES, LABEL, BuildFailed, Recipe, run_build

if TYPE_CHECKING:
    from docker import DockerClient

REPOSITORY = "flow-prebuilt"
#: Containers have the labels of their image, so none of these is one by which worklets are known.
KEY_LABEL, BASE_LABEL, INSTANCE_LABEL = "flow.prebuilt", "flow.base", "flow.prebuilt.instance"
_LOW = {"cpushares": "128"}  # beside 1024 of a container that nothing was said of

#: Run in the base image, without a network: exit codes say what is missing.
_PROBE = r"""
for file in /lib/ld-musl-*; do [ -e "$file" ] && exit 90; done
command -v apt-get >/dev/null && command -v dpkg >/dev/null || exit 91
dpkg --compare-versions "$(dpkg-query -W -f '${Version}' libc6)" ge 2.36 || exit 92
"""
_UNFIT = {
    90: "is made with musl (Alpine), and Claude Code needs glibc",
    91: "has no apt-get, with which Python, git and Node.js are installed",
    92: "is too old: its C library is older than 2.36",
    126: "has no shell that runs",
    127: "has no shell",
}


class BaseUnfit(WorkletError):
    """Worklets cannot be built on that base image."""

    suggestion = BASES


class BaseGone(ImageMissing):
    """An image on which another is to be made is not there."""


@dataclass(frozen=True, slots=True)
class Image:
    """One of ours. `instance`: the Flow that made it. `used`: seconds since 1970; None: not since it is known.

    `busy`: a container is made of it, or another one of ours.
    """

    key: str
    base: str
    instance: str
    tag: str
    size: int
    used: float | None
    busy: bool


def tag_of(key: str) -> str:
    return f"{REPOSITORY}:{key}"


def _inspect(client: DockerClient, image: str) -> dict[str, Any]:
    return dict(client.api.inspect_image(image))  # type: ignore[no-untyped-call]


def _id(client: DockerClient, image: str) -> str | None:
    from docker.errors import ImageNotFound

    try:
        return str(_inspect(client, image)["Id"])
    except ImageNotFound:
        return None


def find(client: DockerClient, base: str, made_of: Recipe) -> str | None:
    """The key of the image on that base; None: it, or the base image, is not here."""
    id_ = _id(client, base)
    key = made_of.on(id_).fingerprint() if id_ else ""
    return key if key and _id(client, tag_of(key)) else None


def build(
    client: DockerClient,
    base: str,
    made_of: Recipe,
    instance: str,
    progress: Callable[[str], None],
    fetched: Callable[[Fetched], None] | None = None,
) -> str:
    """The key of the new image. `fetched` is told of a base image that was not here; None: none is fetched.

    Raises BaseUnfit, ImageMissing.
    """
    if fetched is not None and _id(client, base) is None and (new := pull(client, base)) is not None:
        fetched(new)
    id_ = _id(client, base)
    if id_ is None:
        raise BaseGone(
            f"The image {base} is missing.",
            suggestion="Build the usual one with `flow image build`; others are made when they are wanted again.",
        )
    _check(client, base, id_, instance)
    wanted = made_of.on(id_)
    key = wanted.fingerprint()
    labels = {LABEL: made_of.fingerprint(), KEY_LABEL: key, BASE_LABEL: base, INSTANCE_LABEL: instance}
    try:
        run_build(client, wanted, tag_of(key), labels, progress, _LOW)
    except BuildFailed as error:
        raise ImageMissing(
            f"The image on {base} could not be built: {error}.",
            suggestion=f"Flow tries again in 5 minutes. {made_of.needs}",
        ) from error
    return key


def pull(client: DockerClient, base: str, known: Collection[str] = ()) -> Fetched | None:
    """The image that is here now and was not before, under no name at all; None: it was, so it is somebody else's.

    So it is where the name was somebody else's: no image of that name among the ids in `known`, which are ours.
    """
    from docker.errors import APIError

    before = {row["Id"] for row in client.api.images(all=True)}
    named = _id(client, base)
    try:
        client.images.pull(base)
    except APIError as error:
        raise ImageMissing(
            f"The base image {base} is not here and could not be fetched: {explanation(error)}",
            suggestion="Check its name and the registry, or fetch it on Flow's machine.",
        ) from error
    id_ = _id(client, base)
    if id_ is None or id_ in before or (named is not None and named not in known):
        return None
    told = _inspect(client, id_)
    return Fetched(id_, base, tuple(told.get("RepoTags") or ()), time.time(), _engine(client), _mark(told))


def _engine(client: DockerClient) -> str:
    return str(client.info()["ID"])


def _mark(told: dict[str, Any]) -> str:
    """Another one after the image was removed and has come again: its layers have new names on the disk.

    An engine that keeps images as containerd does says when it got its name instead.
    """
    driver, named = told.get("GraphDriver") or {}, told.get("Metadata") or {}
    return hashlib.sha256(json.dumps(driver.get("Data") or named, sort_keys=True).encode()).hexdigest()


def fetched_bases(client: DockerClient, records: Sequence[Fetched]) -> list[Base]:
    """Those that are on the engine still, as they were fetched to it."""
    from docker.errors import ImageNotFound

    used = {row["ImageID"] for row in client.api.containers(all=True)}
    used |= {row["ParentId"] for row in client.api.images(all=True)}
    found, engine = [], _engine(client)
    for one in records:
        with contextlib.suppress(ImageNotFound):
            told = _inspect(client, one.id)
            if (one.engine, one.mark) != (engine, _mark(told)):
                continue
            shared = not set(told.get("RepoTags") or ()) <= set(one.tags)
            found.append(Base(one, int(told["Size"]), one.id in used, shared))
    return found


def _check(client: DockerClient, base: str, id_: str, instance: str) -> None:
    """Whether our Dockerfile can do anything with it. Raises BaseUnfit."""
    config: dict[str, Any] = _inspect(client, id_)["Config"] or {}
    if volumes := sorted(config.get("Volumes") or {}):
        raise BaseUnfit(
            f"The base image {base} has volumes of its own ({', '.join(volumes[:3])}), which worklets cannot have."
        )
    if config.get("OnBuild"):
        raise BaseUnfit(f"The base image {base} has build steps of its own (ONBUILD), which Flow does not run.")
    code, said = _probe(client, id_, instance)
    if code:
        why = _UNFIT.get(code) or f"could not be looked at: {said or f'its shell ended with code {code}'}"
        raise BaseUnfit(f"The base image {base} {why}.")


def _probe(client: DockerClient, image: str, instance: str) -> tuple[int, str]:
    """The probe's exit code and last line, from a container that can do nothing.

    It is called as helpers of worklets are, so that one that a killed Flow left is removed with those.
    """
    from docker.errors import APIError, NotFound

    host = client.api.create_host_config(
        network_mode="none", read_only=True, cap_drop=["ALL"], security_opt=["no-new-privileges"], mem_limit="256m",
        pids_limit=64,
    )  # fmt: skip
    made = client.api.create_container(
        image, ["-c", _PROBE], entrypoint=["sh"], user="65534:65534", host_config=host, network_disabled=True,
        labels={"flow.instance": instance}, name=f"flow-{instance}-base.{secrets.token_hex(4)}",
    )  # fmt: skip
    try:
        client.api.start(made["Id"])
        code = int(client.api.wait(made["Id"], timeout=60)["StatusCode"])
        said = client.api.logs(made["Id"], tail=1).decode(errors="replace").strip()
        return code, said[:300]
    except APIError as error:
        return 127, explanation(error)
    finally:
        with contextlib.suppress(NotFound):
            client.api.remove_container(made["Id"], force=True, v=True)


def ours(client: DockerClient, used: dict[str, float]) -> list[Image]:
    rows = client.api.images(filters={"label": KEY_LABEL})
    in_use = {row["ImageID"] for row in client.api.containers(all=True)}
    below = {row["Id"]: row["ParentId"] for row in client.api.images(all=True)}
    for image in [row["Id"] for row in rows if row["RepoTags"]]:
        while image := below.get(image):
            in_use.add(image)
    found = []
    for row in rows:
        labels = row["Labels"] or {}
        key = labels[KEY_LABEL]
        if tag_of(key) in (row["RepoTags"] or ()):
            busy = row["Id"] in in_use
            base, instance = labels.get(BASE_LABEL, "?"), labels.get(INSTANCE_LABEL, "?")
            found.append(Image(key, base, instance, tag_of(key), row["Size"], used.get(key), busy))
    return found


def remove(client: DockerClient, image: str) -> bool:
    """`image`: a tag, or an id. False: it is gone, or something has been made of it in this moment."""
    from docker.errors import APIError

    try:
        client.api.remove_image(image)
    except APIError as error:
        if error.status_code in (404, 409):
            return False
        raise
    return True
