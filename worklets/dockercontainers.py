"""The containers of one Flow on a Docker engine: their names, and how one is started, stopped and removed.

Called in the engine's threads, with docker-py's client. A worklet's container has its name, those beside it have a name
with a dot: sidecars, helpers.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

from config.units import format_size
from worklets.engine import explanation
from worklets.errors import AgentGone, ImageMissing, WorkletStartFailed

if TYPE_CHECKING:
    from docker import DockerClient


class Containers:
    """`instance` tells this Flow from others on the engine. Volumes have the same `prefix` and `labels`."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.prefix = f"flow-{instance}-"
        self.label = f"flow.instance={instance}"  # as the engine's filters have it
        self.labels = {"flow.instance": instance}

    def full_name(self, name: str) -> str:
        return self.prefix + name

    def worklet_of(self, container: str) -> str | None:
        """The worklet whose container has that full name; None for any other container."""
        name = container.removeprefix(self.prefix)
        return name if container.startswith(self.prefix) and "." not in name else None

    def rows(self, client: DockerClient) -> list[tuple[str, dict[str, Any]]]:
        """All, running or not, by their names without the prefix; each as the engine's list has it.

        Whoever makes a container of an image has that image's labels, so the label alone makes none ours.
        """
        # Not `containers.list()`: that asks once more for every container.
        rows = client.api.containers(all=True, filters={"label": self.label})
        named = [(row["Names"][0].lstrip("/"), row) for row in rows if row["Names"]]
        return [(name.removeprefix(self.prefix), row) for name, row in named if name.startswith(self.prefix)]

    def find(self, client: DockerClient, name: str) -> dict[str, Any] | None:
        """As the engine's inspection has it."""
        from docker.errors import NotFound

        with contextlib.suppress(NotFound):
            found: dict[str, Any] = client.api.inspect_container(self.full_name(name))
            return found
        return None

    def require_running(self, client: DockerClient, name: str) -> None:
        """Of one that has ended an engine mounts the volume anew for each call, and there is nothing to mount it from.

        Raises AgentGone.
        """
        found = self.find(client, name)
        if found is None or not found["State"]["Running"]:
            raise AgentGone

    def start(self, client: DockerClient, name: str, config: dict[str, Any], *, what: str, image: str) -> str:
        """Makes a container of `config` and starts it. Its id.

        Errors begin with `what` ("The worklet") or `image` ("The worklet image x"). Raises ImageMissing,
        WorkletStartFailed.
        """
        from docker.errors import APIError, ImageNotFound

        try:
            made = client.api.create_container_from_config(config, name=self.full_name(name))  # type: ignore[no-untyped-call]
        except ImageNotFound as e:
            raise ImageMissing(f"{image} is missing.") from e
        except APIError as e:
            raise WorkletStartFailed(f"{what} could not be created: {explanation(e)}") from e
        try:
            client.api.start(made["Id"])
        except BaseException as e:
            with contextlib.suppress(APIError):
                self.remove(client, made["Id"])
            if isinstance(e, APIError):
                raise WorkletStartFailed(f"{what} did not start: {explanation(e)}") from e
            raise
        return str(made["Id"])

    def stop(self, client: DockerClient, name: str, grace: float) -> str | None:
        """SIGTERM, `grace` seconds, SIGKILL. Idempotent; the container stays. See `worklets.runtime.Runtime.remove`."""
        from docker.errors import NotFound

        with contextlib.suppress(NotFound):
            before = client.api.inspect_container(self.full_name(name))
            if not before["State"]["Running"]:
                return _ending(before)
            client.api.stop(self.full_name(name), timeout=math.ceil(grace))
            # Engine 20.10 tells of a process inside that ran out of memory only when the container has ended.
            return _out_of_memory(client.api.inspect_container(self.full_name(name)))
        return "Claude's container is gone"

    def remove(self, client: DockerClient, container: str) -> None:
        """By its full name or its id; running or not. Idempotent."""
        from docker.errors import APIError, NotFound

        with contextlib.suppress(NotFound):
            try:
                client.api.remove_container(container, force=True)
            except APIError as e:
                if e.status_code != 409:  # 409: somebody else is removing it
                    raise
                client.api.wait(container, timeout=60, condition="removed")

    def discard_stopped(self, client: DockerClient, name: str) -> None:
        """Raises WorkletStartFailed for one that runs."""
        found = self.find(client, name)
        if found is None:
            return
        if found["State"]["Running"]:
            raise WorkletStartFailed(f"The worklet {name} is running already.", suggestion="Stop it first.")
        self.remove(client, self.full_name(name))


def _out_of_memory(container: dict[str, Any]) -> str | None:
    """`container` as the engine's inspection has it."""
    if not container["State"]["OOMKilled"]:
        return None
    return f"Claude's container ran out of memory (limit {format_size(container['HostConfig']['Memory'])})"


def _ending(container: dict[str, Any]) -> str | None:
    """What the engine knows of a container that ended by itself. 255: it found it dead when it was started anew."""
    state = container["State"]
    if error := str(state.get("Error") or "").strip():
        return f"Claude's container ended ({error.splitlines()[0][:200].rstrip('.')})"
    reasons = {137: "Claude's container was killed", 255: "Claude's container was lost with the Docker engine"}
    return _out_of_memory(container) or reasons.get(state["ExitCode"], "Claude's container ended")
