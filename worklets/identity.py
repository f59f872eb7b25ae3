"""Who this Flow is: an id that labels its containers, and a key from which its tokens are made.

A token is an HMAC of what it is for, so that a restarted Flow knows the tokens of the worklets that it finds
running, and none is ever stored.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from worklets.errors import WorkletError


@dataclass(frozen=True, slots=True)
class Identity:
    """`instance` is 8 hex digits; `key` 32 bytes, secret."""

    instance: str
    key: bytes = field(repr=False)

    @classmethod
    def load(cls, share_dir: Path) -> Identity:
        """The identity of this data directory, made at the first call. Raises WorkletError for a damaged file."""
        path = share_dir / "instance.json"
        share_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create(path, {"instance": secrets.token_hex(4), "key": secrets.token_hex(32)})
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            instance, key = data["instance"], bytes.fromhex(data["key"])
            if not re.fullmatch(r"[0-9a-f]{8}", instance) or len(key) != 32:
                raise ValueError("wrong length")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise WorkletError(
                f"{path} cannot be read as this Flow's identity.",
                suggestion="Restore it, or remove it while no worklet of this data directory runs.",
            ) from e
        return cls(instance, key)

    def token(self, purpose: str, name: str) -> str:
        """The secret that guards `purpose` ("relay", "gateway") of the worklet `name`: 64 hex digits."""
        return hmac.new(self.key, f"{purpose}\0{name}".encode(), hashlib.sha256).hexdigest()


def _create(path: Path, data: dict[str, str]) -> None:
    """Writes the file whole or not at all; when another process was faster, its file stays."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
