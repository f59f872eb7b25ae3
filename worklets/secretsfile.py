"""Secrets in an encrypted file in the share directory: what Flow uses unless Vault is set.

    flow-secrets 1 <store> <place> <key>     what it is; where its key is, and which one, so that a wrong one is told
    gAAAA…                                   Fernet (AES-128-CBC and HMAC-SHA256): {"secrets": {path: {name: value}}}

It is replaced as a whole: written beside itself, synced, renamed. A change holds a lock that all processes heed, so the
bot and `flow secrets` can work at the same time; reading needs none.
"""

from __future__ import annotations

import asyncio
import builtins
import fcntl
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from worklets.identity import Identity
from worklets.secrets import (
    Known,
    SecretError,
    SecretMissing,
    SecretsDamaged,
    SecretsKeyMissing,
    SecretsUnwritable,
    check_path,
    check_values,
)
from worklets.secretskeys import Key, Keys, Place, write_durably

FILE, LOCK = "secrets.enc", "secrets.lock"
MOST_BYTES = 16 * 1024**2  # of the file
_LOCK_SECONDS = 10.0
_MAGIC = "flow-secrets 1"

T = TypeVar("T")
Secrets = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Header:
    store: str
    place: Place
    key: str

    def line(self) -> bytes:
        return f"{_MAGIC} {self.store} {self.place} {self.key}\n".encode()

    @classmethod
    def read(cls, line: bytes, path: Path) -> _Header:
        words = line.decode("ascii", "replace").split()
        if len(words) != 5 or " ".join(words[:2]) != _MAGIC or words[3] not in ("environment", "keyring", "file"):
            raise SecretsDamaged(f"{path} is torn, or no file of secrets.")
        return cls(words[2], cast(Place, words[3]), words[4])


class FileStore:
    """A `SecretStore`. Several processes may have it open."""

    kind = "file"

    def __init__(self, share_dir: Path, keys: Keys) -> None:
        self._share_dir, self._path, self._keys = share_dir, share_dir / FILE, keys
        self._known = Known()
        self._cached: tuple[tuple[int, ...], Secrets] | None = None

    async def get(self, path: str) -> Mapping[str, str]:
        """The secret's values. Raises SecretMissing, SecretsDamaged, SecretsKeyMissing."""
        check_path(path)
        found = (await asyncio.to_thread(self._read))[1].get(path)
        if found is None:
            raise SecretMissing(f"There is no secret {path}.")
        self._known.note(found)
        return dict(found)

    async def put(self, path: str, values: Mapping[str, str], *, keep: bool = False) -> None:
        """Raises SecretsUnwritable; then nothing is changed."""
        check_path(path)
        stored = check_values(values)

        def change(all_: Secrets) -> None:
            all_[path] = check_values({**(all_.get(path, {}) if keep else {}), **stored})

        await asyncio.to_thread(self._change, change)
        self._known.note(stored)

    async def delete(self, path: str) -> None:
        check_path(path)

        def change(all_: Secrets) -> None:
            if all_.pop(path, None) is None:
                raise SecretMissing(f"There is no secret {path}.")

        await asyncio.to_thread(self._change, change)

    async def list(self) -> builtins.list[str]:
        return sorted((await asyncio.to_thread(self._read))[1])

    async def rotate(self) -> tuple[int, str]:
        """Encrypts all secrets with a new key; the old one is worth nothing then. Returns how many, and where it is.

        In FLOW_SECRETS_KEY the new key must stand first already. Raises SecretError.
        """
        return await asyncio.to_thread(self._rotate)

    async def where(self) -> str:
        """Where the key is, or will be, in words."""

        def look() -> str:
            header, _ = self._read()
            place = self._keys.place(header.place if header else None)
            return self._keys.where(place, header.store if header else self._store())

        return await asyncio.to_thread(look)

    async def state(self) -> Mapping[str, Any]:
        try:
            await asyncio.to_thread(self._read)
        except SecretError as error:
            return {"state": "damaged", "kind": self.kind, "error": str(error)}
        return {"state": "ok", "kind": self.kind}

    def known(self) -> builtins.list[str]:
        return self._known.values()

    async def aclose(self) -> None:
        self._cached = None

    # What follows blocks

    def _store(self) -> str:
        return Identity.load(self._share_dir).instance

    def _read(self) -> tuple[_Header | None, Secrets]:
        """Nothing yet: None and no secret."""
        try:
            with self._path.open("rb") as file:
                now = os.fstat(file.fileno())
                mark = (now.st_ino, now.st_mtime_ns, now.st_size)
                header = _Header.read(file.readline(200), self._path)
                if self._cached is not None and self._cached[0] == mark:
                    return header, self._cached[1]
                token = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None, {}
        except OSError as error:
            raise SecretsDamaged(
                f"{self._path} cannot be read: {error.strerror}.", suggestion="Check the disk and the file's rights."
            ) from error
        found = self._decrypted(header, token)
        self._cached = mark, found
        return header, found

    def _decrypted(self, header: _Header, token: bytes) -> Secrets:
        from cryptography.fernet import InvalidToken

        keys = self._keys.found(header.store, header.place)
        where = self._keys.where(header.place, header.store)
        if not keys:
            raise SecretsKeyMissing(
                f"The key of {self._path} is missing: it was in {where}.",
                suggestion="Restore it there, or set FLOW_SECRETS_KEY to it.",
            )
        if header.key not in [key.name for key in keys]:
            raise SecretsDamaged(
                f"{self._path} was encrypted with another key ({header.key}) than those that Flow has "
                f"({', '.join(key.name for key in keys)}).",
                suggestion=f"Restore the right one; it was in {where}. Nothing is lost.",
            )
        try:
            return _told(json.loads(_fernet(keys).decrypt(token.strip())), self._path)
        except (InvalidToken, ValueError, RecursionError) as error:
            raise SecretsDamaged(f"{self._path} is torn: it cannot be decrypted, though its key is here.") from error

    def _change(self, change: Callable[[Secrets], T]) -> T:
        with self._locked():
            header, found = self._read()
            changed = {path: dict(values) for path, values in found.items()}
            result = change(changed)
            store = header.store if header else self._store()
            keys = self._keys.found(store, header.place) if header else self._keys.make(store)
            place = self._keys.place(header.place if header else None)
            if header and place not in ("environment", header.place):  # a key file was named since
                self._keys.keep(place, store, keys)
            self._write(_Header(store, place, keys[0].name), keys, changed)
            return result

    def _rotate(self) -> tuple[int, str]:
        with self._locked():
            header, found = self._read()
            if header is None:
                raise SecretMissing(
                    "There are no secrets yet, so no key.", suggestion="Store one with `flow secrets set`."
                )
            place, store = self._keys.place(header.place), header.store
            keys = self._keys.found(store, header.place)
            if place == "environment":
                if keys[0].name == header.key:
                    raise SecretError(
                        "FLOW_SECRETS_KEY has no new key in the first place.",
                        suggestion="Make one with `flow secrets key`, set FLOW_SECRETS_KEY=<new>,<old> and try again.",
                    )
            else:
                keys = [Key.made(), *keys]
                self._keys.keep(place, store, keys)  # both, so that a kill from here on loses nothing
            self._write(_Header(store, place, keys[0].name), keys, found)
            if place != "environment":
                self._keys.keep(place, store, keys[:1])
            return len(found), self._keys.where(place, store)

    def _write(self, header: _Header, keys: Sequence[Key], found: Secrets) -> None:
        content = json.dumps({"secrets": found}, sort_keys=True).encode()
        token = _fernet(keys).encrypt(content)
        if len(token) > MOST_BYTES:
            raise SecretError("All secrets together are too large.", suggestion="Remove some: `flow secrets rm`.")
        try:
            for left in self._share_dir.glob(f".{FILE}.*"):  # of a process that was killed; nobody else writes now
                left.unlink(missing_ok=True)
            draft = self._share_dir / f".{FILE}.{os.getpid()}.{secrets.token_hex(4)}"
            write_durably(draft, self._path, header.line() + token + b"\n")
        except OSError as error:
            raise SecretsUnwritable(f"{self._path} cannot be written: {error.strerror}.") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else changes the file meanwhile, in this process or another. Raises SecretsUnwritable."""
        try:
            self._share_dir.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._share_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SecretsUnwritable(f"{self._share_dir / LOCK} cannot be made: {error.strerror}.") from error
        try:
            _lock(handle)
            yield
        finally:
            os.close(handle)


def _lock(handle: int) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise SecretsUnwritable(
                    "Another process has held the secrets for too long.", suggestion="End it, then try again."
                ) from None
            time.sleep(0.02)
        else:
            return


def _fernet(keys: Sequence[Key]) -> Any:
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet([Fernet(key.text) for key in keys])


def _told(content: object, path: Path) -> Secrets:
    """The secrets in what was decrypted. Raises SecretsDamaged."""
    found = content.get("secrets") if isinstance(content, dict) else None
    if isinstance(found, dict) and all(
        isinstance(values, dict) and all(isinstance(value, str) for value in values.values())
        for values in found.values()
    ):
        return found
    raise SecretsDamaged(f"{path} holds something else than secrets; it may be of a newer Flow.")
