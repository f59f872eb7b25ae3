"""Volumes of worklets on a Docker engine: with a size where Flow can give them one (diskimages.py), else without.

Called in the engine's threads, with docker-py's client.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from worklets.diskimages import DiskImages, obstacle
from worklets.errors import WorkletStartFailed
from worklets.room import RESERVE

if TYPE_CHECKING:
    from docker import DockerClient

log = structlog.get_logger(__name__)

Mode = Literal["auto", "on", "off"]


class Volumes:
    """`prefix` + a worklet's name is its volume's. `limit`: bytes that it may hold; 0: any number.

    `reserve`: see diskimages.py.
    """

    def __init__(
        self,
        share_dir: Path,
        prefix: str,
        labels: Mapping[str, str],
        *,
        limit: int,
        mode: Mode,
        engine_host: str,
        reserve: int = RESERVE,
    ) -> None:
        self._prefix, self._labels, self._mode, self._engine_host = prefix, dict(labels), mode, engine_host
        self._existing = DiskImages(share_dir, limit, reserve)
        self._images = self._existing if limit and mode != "off" else None
        self._obstacle: str | None = None
        self._is_known = False  # whether there is an obstacle

    def make(self, client: DockerClient, name: str) -> bool:
        """Makes it where it is missing. Whether it has a size. Raises WorkletStartFailed, docker's APIError."""
        found = self._find(client, name)
        if found is None and (images := self._imaging(client)) is not None:
            images.make(name)
            client.api.create_volume(
                self._prefix + name, driver="local", driver_opts=images.options(name), labels=self._labels
            )
            return True
        if found is None:
            client.api.create_volume(self._prefix + name, labels=self._labels)
        return found is not None and self._has_size(found, name)

    @property
    def floor(self) -> int:
        """Free bytes of the disk, below which a worklet whose volume has a size must not grow. Raises OSError."""
        return self._existing.floor

    def mountable(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Within, the engine can mount that volume, which has a size. Raises WorkletStartFailed.

        Also where no new ones are to be made: its size is the one that it was made with.
        """
        return self._existing.attached(name)

    @contextlib.contextmanager
    def mounting(self, client: DockerClient, *names: str) -> Iterator[None]:
        """The same of volumes of which that is not known."""
        with contextlib.ExitStack() as stack:
            for name in sorted(names):  # two that want the same ones do not wait for each other
                found = self._find(client, name)
                if found is not None and self._has_size(found, name):
                    stack.enter_context(self.mountable(name))
            yield

    def obstacle(self, client: DockerClient) -> str | None:
        """Why new volumes have no size, as the end of a sentence. None: they have one, or none is wanted."""
        if self._images is None:
            return None
        if not self._is_known:
            info = client.info()
            why = obstacle(self._engine_host, str(info.get("Name"))) or _remaps(info) or self._existing.trouble()
            self._obstacle, self._is_known = why, True
            if self._obstacle is not None and self._mode == "auto":
                log.info("worklets' disks are watched, not held to a size", reason=self._obstacle)
        return self._obstacle

    def _imaging(self, client: DockerClient) -> DiskImages | None:
        why = self.obstacle(client)
        if why is not None and self._mode == "on":
            raise WorkletStartFailed(
                f"The worklet's disk cannot be held to a size: {why}.",
                suggestion="Mend that, or set FLOW_WORKLET_DISK_IMAGE=auto.",
            )
        return self._images if why is None else None

    def _find(self, client: DockerClient, name: str) -> dict[str, Any] | None:
        full = self._prefix + name
        found = client.api.volumes(filters={"name": full})["Volumes"] or []  # all whose names hold it
        return next((one for one in found if one["Name"] == full), None)

    def _has_size(self, found: dict[str, Any], name: str) -> bool:
        return (found.get("Options") or {}).get("device") == self._existing.options(name)["device"]


def _remaps(info: dict[str, Any]) -> str | None:
    """The image's owner would be nobody inside."""
    options = " ".join(info.get("SecurityOptions") or [])
    return "the Docker engine maps users to others" if "name=userns" in options or "name=rootless" in options else None
