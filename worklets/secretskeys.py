"""Where the key of the file with the secrets is: in FLOW_SECRETS_KEY, in the OS keyring, or in a file of its own.

A key is 32 random bytes in URL-safe base64, as Fernet has them. There may be several, the newest first: the first one
encrypts, all of them decrypt, so that a rotation can be broken off anywhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from worklets.secrets import SecretError, SecretsKeyMissing, SecretsUnwritable

Place: TypeAlias = Literal["environment", "keyring", "file"]

SERVICE = "flow-secrets"  # in the OS keyring
_KEYRING_SECONDS = 20.0  # it may ask somebody at a screen
_MOST = 8


@dataclass(frozen=True, slots=True)
class Key:
    """`text` is secret; `name` tells keys apart and gives nothing away."""

    text: str = field(repr=False)

    @property
    def name(self) -> str:
        return hashlib.sha256(b"flow-secrets\0" + self.text.encode()).hexdigest()[:8]

    @classmethod
    def made(cls) -> Key:
        return cls(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())

    @classmethod
    def read(cls, text: str, where: str) -> Key:
        """Raises SecretError, without the text."""
        try:
            if len(base64.urlsafe_b64decode(text.encode("ascii"))) == 32 and len(text) == 44:
                return cls(text)
        except (binascii.Error, ValueError):
            pass
        raise SecretError(
            f"What stands in {where} is no key for the file with the secrets.",
            suggestion="`flow secrets key` prints a new one: 44 characters.",
        )


class Keys:
    """Looks for keys, makes and replaces them. Blocks: call it in a thread.

    `given`: those of FLOW_SECRETS_KEY. `file`: FLOW_SECRETS_KEY_FILE. `directory`: where a key file is made otherwise;
    None: nowhere, since nothing would outlive this machine or container.
    """

    def __init__(
        self, given: Sequence[str], file: Path | None, directory: Path | None, *, keyring: bool = True
    ) -> None:
        self._given, self._file, self._directory = tuple(given), file, directory
        self._use_keyring = keyring

    def place(self, recorded: Place | None) -> Place:
        """Where the key that encrypts is, or will be. `recorded`: where it was at the last writing."""
        if self._given:
            return "environment"
        if self._file is not None:
            return "file"
        if recorded in ("keyring", "file"):
            return recorded
        return "keyring" if recorded is None and self._use_keyring and _keyring_works() else "file"

    def path(self, store: str) -> Path:
        """The key file of that store. Raises SecretError where there is no place for one."""
        if self._file is not None:
            return self._file.absolute()
        if self._directory is None:
            raise SecretError(
                "The secrets need a key that outlives this container.",
                suggestion="Set FLOW_SECRETS_KEY to what `flow secrets key` prints, and keep a copy of it.",
            )
        return self._directory / f"secrets-{store}.key"

    def homeless(self) -> SecretError | None:
        """Why a first secret could not be stored: there is no place for its key. None: there is one."""
        try:
            self.path("")
        except SecretError as error:
            return error if self.place(None) == "file" else None
        return None

    def where(self, place: Place, store: str) -> str:
        """In words for people."""
        if place == "environment":
            return "FLOW_SECRETS_KEY"
        if place == "keyring":
            return f"the OS keyring ({SERVICE}, {store})"
        before = self._path_before(store)
        return str(before if before is not None and not self.path(store).exists() else self.path(store))

    def found(self, store: str, recorded: Place | None) -> list[Key]:
        """All that may decrypt, the one that encrypts first. Raises SecretError: one that is no key."""
        keys = [Key.read(text, "FLOW_SECRETS_KEY") for text in self._given]
        place = recorded or self.place(None)
        if place == "keyring":
            keys += self._in_keyring(store)
        if place == "file" or self._file is not None:
            keys += self._in_file(store)
        if place == "file" and (before := self._path_before(store)) is not None:
            keys += _read(before)
        return list(dict.fromkeys(keys))

    def make(self, store: str) -> list[Key]:
        """For a store that has nothing yet. Raises SecretError."""
        place = self.place(None)
        if found := self.found(store, None):
            return found
        keys = [Key.made()]
        self.keep(place, store, keys)
        return keys

    def keep(self, place: Place, store: str, keys: Sequence[Key]) -> None:
        """Writes them there, the newest first, in the place of what is there. Raises SecretError."""
        texts = [key.text for key in keys[:_MOST]]
        if place == "keyring":
            _bounded(lambda ring: ring.set_password(SERVICE, store, ",".join(texts)))
        elif place == "file":
            _write(self.path(store), "".join(f"{text}\n" for text in texts))
        else:
            raise SecretError("FLOW_SECRETS_KEY is not Flow's to change.")

    def _in_keyring(self, store: str) -> list[Key]:
        text = _bounded(lambda ring: ring.get_password(SERVICE, store)) or ""
        return [Key.read(one, "the OS keyring") for one in text.split(",") if one]

    def _in_file(self, store: str) -> list[Key]:
        if self._file is None and self._directory is None:
            return []
        return _read(self.path(store))

    def _path_before(self, store: str) -> Path | None:
        """Where the key was if FLOW_SECRETS_KEY_FILE was named only later. None: there is no such file."""
        if self._file is None or self._directory is None:
            return None
        path = self._directory / f"secrets-{store}.key"
        return path if path.exists() else None


def _read(path: Path) -> list[Key]:
    try:
        lines = path.read_text(encoding="utf-8").split()[:_MOST]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise SecretsKeyMissing(
            f"The key in {path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}.",
            suggestion="Check the file's rights, or restore it.",
        ) from error
    return [Key.read(line, str(path)) for line in lines]


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and on the disk when this returns."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(draft, path, text.encode())
    except OSError as error:
        raise SecretsUnwritable(
            f"The key of the secrets cannot be written to {path}: {error.strerror}.",
            suggestion="Set FLOW_SECRETS_KEY, or FLOW_SECRETS_KEY_FILE to a file that Flow may write.",
        ) from error


def write_durably(draft: Path, path: Path, data: bytes) -> None:
    """Raises OSError; then what stood at `path` is still there, and no draft."""
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _keyring_works() -> bool:
    try:
        return bool(_bounded(lambda ring: ring.get_keyring().priority >= 1))
    except SecretError:
        return False


def _bounded(act: Any) -> Any:
    """What `act` gives of the `keyring` package, which may wait for somebody at a screen. Raises SecretsKeyMissing."""
    result: list[Any] = []
    error: list[BaseException] = []

    def run() -> None:
        try:
            import keyring

            result.append(act(keyring))
        except Exception as caught:  # noqa: BLE001 - each of its backends raises its own
            error.append(caught)

    # A daemon: one that never returns must not hold up the end of the program, as a pool's thread would.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_KEYRING_SECONDS)
    if result:
        return result[0]
    why = type(error[0]).__name__ if error else "it does not answer"
    raise SecretsKeyMissing(
        f"The OS keyring cannot be used ({why}).",
        suggestion="Unlock it, or set FLOW_SECRETS_KEY to the key that was used before.",
    )
