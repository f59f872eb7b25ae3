"""Helper containers: a worklet's volume filled, copied and removed, its run directory emptied.

What needs a volume mounted, or the agent's user, is done by a container that lives for that alone. Called in the
engine's threads, with docker-py's client.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from worklets import rundir
from worklets.dockercontainers import Containers
from worklets.engine import explanation
from worklets.errors import ImageMissing, WorkletError
from worklets.rundir import AGENT_UID
from worklets.treearchive import pack_tree
from worklets.volumes import Volumes

if TYPE_CHECKING:
    from docker import DockerClient

_HELPER, _EMPTIER = ".put", ".empty"  # no worklet's name holds a dot
_MAKING_SECONDS = 10.0  # that a busy engine takes to make what a killed Flow had asked for


class HelperContainers:
    """Of one runtime: made of its `image`. `most_bytes` may be in a volume that is filled; 0: any number."""

    def __init__(
        self, containers: Containers, volumes: Volumes, share_dir: Path, image: str, *, most_bytes: int
    ) -> None:
        self._containers, self._volumes, self._share_dir = containers, volumes, share_dir
        self._image, self._most_bytes = image, most_bytes

    def fill(self, client: DockerClient, name: str, source: Path) -> None:
        """The directory's content becomes a new volume's. Raises ImageMissing, WorkletError.

        Through a container that is made and never started: the engine unpacks archives into its volume.
        """
        from docker.types import Mount

        host = client.api.create_host_config(
            network_mode="none", mounts=[Mount("/work", self._containers.full_name(name), type="volume")]
        )
        with (
            self._filling(client, name, "filled", again="write again") as helper,
            self._volumes.mounting(client, name),
            tempfile.TemporaryFile(dir=self._share_dir) as packed,
        ):
            made = client.api.create_container(
                self._image, ["true"], name=helper, host_config=host, labels=self._containers.labels
            )
            pack_tree(source, packed, AGENT_UID, most_bytes=self._most_bytes)
            client.api.put_archive(made["Id"], "/work", packed)

    def copy(self, client: DockerClient, source: str, name: str) -> None:
        """The content of `source`'s volume becomes a new volume's. Raises ImageMissing, WorkletError.

        By `cp` in a container that has both volumes, the old one without the right to write, and no network.
        """
        from docker.types import Mount

        old = Mount("/old", self._containers.full_name(source), type="volume", read_only=True)
        new = Mount("/work", self._containers.full_name(name), type="volume")
        host = client.api.create_host_config(network_mode="none", mounts=[old, new], cap_drop=["ALL"])
        with self._filling(client, name, "copied", again="try again") as helper:
            with self._volumes.mounting(client, source, name):
                made = client.api.create_container(
                    self._image, ["cp", "-a", "/old/.", "/work/"], name=helper, host_config=host,
                    entrypoint=[], user=f"{AGENT_UID}:{AGENT_UID}", labels=self._containers.labels,
                )  # fmt: skip
                client.api.start(made["Id"])
            if client.api.wait(made["Id"], timeout=600)["StatusCode"]:
                said = client.api.logs(made["Id"], tail=3).decode(errors="replace").strip()
                raise WorkletError(f"The workspace could not be copied: {said}", suggestion="Check the engine's disk.")

    def discard_volume(self, client: DockerClient, name: str) -> None:
        """With the helper that a killed Flow left: the engine keeps a volume that a container has. Idempotent.

        It may also still be making that one, for somebody who does not live any more.
        """
        from docker.errors import APIError, NotFound

        full_name = self._containers.full_name(name)
        end = time.monotonic() + _MAKING_SECONDS
        while True:
            self._containers.remove(client, full_name + _HELPER)
            try:
                client.api.remove_volume(full_name)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 409 or time.monotonic() > end:
                    raise
                time.sleep(0.1)
            else:
                return

    def empty_run_dir(self, client: DockerClient, name: str) -> None:
        """Deletes the agent's own files from the run directory where Flow's user may not."""
        from docker.types import Mount

        run_dir = rundir.worklet_dir(self._share_dir, name) / "run"
        host = client.api.create_host_config(
            network_mode="none", mounts=[Mount("/run/worklet", str(run_dir), type="bind")]
        )
        helper = self._containers.full_name(name) + _EMPTIER
        self._containers.remove(client, helper)
        made = client.api.create_container(
            self._image, ["find", "/run/worklet", "-mindepth", "1", "-delete"], name=helper, host_config=host,
            user=f"{AGENT_UID}:{AGENT_UID}", labels=self._containers.labels,
        )  # fmt: skip
        try:
            client.api.start(made["Id"])
            client.api.wait(made["Id"], timeout=60)
        finally:
            self._containers.remove(client, made["Id"])

    @contextlib.contextmanager
    def _filling(self, client: DockerClient, name: str, done: str, *, again: str) -> Iterator[str]:
        """Within, a new volume is filled by the helper of that name, which is removed; an error leaves it half filled.

        `done` and `again` are words of the errors' sentences.
        """
        from docker.errors import APIError, ImageNotFound

        helper = self._containers.full_name(name) + _HELPER
        try:
            rundir.begin_filling(self._share_dir, name)
            self.discard_volume(client, name)
            self._volumes.make(client, name)
            yield helper
            rundir.end_filling(self._share_dir, name)
        except ImageNotFound as e:
            raise ImageMissing(f"The worklet image {self._image} is missing.") from e
        except APIError as e:
            raise WorkletError(f"The workspace could not be {done}: {explanation(e)}") from e
        except OSError as e:
            raise WorkletError(
                f"The workspace could not be {done}: {e.strerror or e}.", suggestion=f"Check the disk, then {again}."
            ) from e
        finally:
            with contextlib.suppress(APIError):
                self._containers.remove(client, helper)
