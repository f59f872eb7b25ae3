"""Secrets in a KV engine, version 2, through hvac: reads, checked writes, lists. Blocks, and raises hvac's errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from worklets.secrets import SecretNameWrong, check_path, check_values
from worklets.secretshvac import answered

if TYPE_CHECKING:
    import hvac

_CHANGES = 5  # tries where somebody else writes the same secret
_MOST_LISTED, _DEEPEST = 1000, 20


class KV:
    """What lies below `prefix` of one mount."""

    def __init__(self, mount: str, prefix: str) -> None:
        self.mount, self.prefix = mount, prefix

    def read(self, client: hvac.Client, path: str) -> tuple[dict[str, str], int]:
        """The values, and their version."""
        answer = client.secrets.kv.v2.read_secret_version(
            self._place(path), mount_point=self.mount, raise_on_deleted_version=True
        )
        data = answered(answer)["data"]
        values = {str(key): value if isinstance(value, str) else str(value) for key, value in data["data"].items()}
        return values, int(data["metadata"]["version"])

    def write(self, client: hvac.Client, path: str, values: Mapping[str, str], keep: bool) -> None:
        """By check-and-set: what somebody else changes meanwhile is not written over unseen."""
        from hvac.exceptions import InvalidRequest

        for attempt in range(_CHANGES):
            before, version = self._version(client, path)
            wanted = check_values({**before, **values}) if keep else dict(values)
            try:
                client.secrets.kv.v2.create_or_update_secret(
                    self._place(path), wanted, cas=version, mount_point=self.mount
                )
            except InvalidRequest as error:
                if attempt == _CHANGES - 1 or "check-and-set" not in " ".join(error.errors or ()):
                    raise
            else:
                return

    def delete(self, client: hvac.Client, path: str) -> None:
        """All versions."""
        kv, place = client.secrets.kv.v2, self._place(path)
        kv.read_secret_metadata(place, mount_point=self.mount)  # to delete what is not there is no error
        kv.delete_metadata_and_all_versions(place, mount_point=self.mount)

    def paths(self, client: hvac.Client, folder: str = "") -> list[str]:
        """The paths below, of those with names that Flow could have given; a thousand at most."""
        return [path for path in self._paths(client, folder, 0) if _is_name(path)]

    def listed(self, client: hvac.Client, folder: str) -> tuple[list[str], list[str]]:
        """The paths of the secrets in a folder, and of the folders in it, whatever their names are."""
        paths = [f"{folder}/{name}" if folder else str(name) for name in self._names(client, folder)]
        return [path for path in paths if not path.endswith("/")], [path[:-1] for path in paths if path.endswith("/")]

    def wipe(self, client: hvac.Client, paths: Sequence[str]) -> None:
        """All versions of these secrets. What is not there is no error."""
        for path in paths:
            client.secrets.kv.v2.delete_metadata_and_all_versions(self._place(path), mount_point=self.mount)

    def _names(self, client: hvac.Client, folder: str) -> list[str]:
        from hvac.exceptions import InvalidPath

        try:
            answer = client.secrets.kv.v2.list_secrets(self._place(folder), mount_point=self.mount)
        except InvalidPath as error:
            if error.errors:
                raise
            return []
        return list(answered(answer)["data"]["keys"])

    def _paths(self, client: hvac.Client, folder: str, depth: int) -> list[str]:
        found = list[str]()
        for name in self._names(client, folder):
            path = f"{folder}/{name}" if folder else str(name)
            if not name.endswith("/"):
                found.append(path)
            elif depth < _DEEPEST:
                found += self._paths(client, path.rstrip("/"), depth + 1)
            if len(found) >= _MOST_LISTED:
                break
        return found[:_MOST_LISTED]

    def _version(self, client: hvac.Client, path: str) -> tuple[dict[str, str], int]:
        """As `read`; nothing, and the last version, of what was deleted."""
        from hvac.exceptions import InvalidPath

        try:
            return self.read(client, path)
        except InvalidPath as error:
            if error.errors:
                raise
            gone = (error.json or {}).get("data") or {}
            return {}, int((gone.get("metadata") or {}).get("version", 0))

    def _place(self, path: str) -> str:
        return f"{self.prefix}/{path}" if path else self.prefix


def _is_name(path: str) -> bool:
    try:
        check_path(path)
    except SecretNameWrong:
        return False
    return True
