"""Files in the workspace of a container that runs: what stands there, and what people put there.

Called in the engine's threads, with docker-py's client. The engine looks and unpacks inside the container's own root,
so that no link leads out of it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from worklets.errors import AgentGone, WorkletError
from worklets.files import pack

if TYPE_CHECKING:
    from docker import DockerClient

WORKSPACE = "/work/workspace"


def stands(client: DockerClient, container: str, path: str) -> bool:
    """docker-py has no call for it: `HEAD /containers/{id}/archive` (Docker Engine API). Raises WorkletError."""
    api = client.api
    url = f"{api.base_url}/v{api.api_version}/containers/{container}/archive"
    answer = api.head(url, params={"path": f"{WORKSPACE}/{path}"}, timeout=15)
    if answer.status_code not in (200, 404):
        raise WorkletError(f"The Docker engine refused to look for a file (HTTP {answer.status_code}).")
    return bool(answer.status_code == 200)


def place(client: DockerClient, container: str, files: Mapping[str, Path], draft_in: Path) -> None:
    """Into a container that runs, see `worklets.runtime.Runtime.place`. The archive is made in `draft_in`.

    Raises AgentGone, OSError.
    """
    from docker.errors import NotFound

    with tempfile.TemporaryFile(dir=draft_in) as packed:
        pack(files, packed)
        try:
            client.api.put_archive(container, WORKSPACE, packed)
        except NotFound as e:
            raise AgentGone from e
