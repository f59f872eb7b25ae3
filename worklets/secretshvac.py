"""Vault seen through hvac, which blocks: logs in, keeps its token alive, and says in our words what went wrong.

hvac raises its own errors for what the server answers, and those of `requests` where none does. Nothing of the
environment counts but what Flow's settings say; a redirect is not followed, since the token would go along.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from worklets.secrets import SecretError, SecretMissing, SecretsAway, SecretsForbidden, SecretsNotAllowed, SecretsSealed

if TYPE_CHECKING:
    import hvac

    from config.settings import SecretSettings

T = TypeVar("T")

_LOOPBACK = ("127.0.0.1", "localhost", "::1")  # no proxy of the environment on the way there
_NEW_ONE = "Set VAULT_TOKEN to a new one and restart Flow."
_LOGIN_ADVICE = {
    "token": _NEW_ONE,
    "approle": "Check VAULT_ROLE_ID, VAULT_SECRET_ID (they run out) and VAULT_AUTH_MOUNT.",
    "kubernetes": "Check VAULT_K8S_ROLE, the service account bound to it, and VAULT_AUTH_MOUNT.",
}


@dataclass(frozen=True, slots=True)
class Lease:
    """Of Flow's own token: from `began` (the clock's seconds) for `ttl` seconds; 0: for ever."""

    began: float
    ttl: float
    renewable: bool

    @property
    def due(self) -> float | None:
        """When to renew it: at two thirds of its life. None: never."""
        return self.began + self.ttl * 2 / 3 if self.ttl else None

    def left(self, now: float) -> float | None:
        return max(0.0, self.began + self.ttl - now) if self.ttl else None


class Vault:
    """One server, as `settings` name it. Threads may share it."""

    def __init__(self, settings: SecretSettings, clock: Callable[[], float] = time.monotonic) -> None:
        assert settings.address is not None
        self.settings, self._clock = settings, clock
        self.lease: Lease | None = None  # None: not logged in yet
        self._client: hvac.Client | None = None
        self._lock = threading.Lock()

    def call(self, act: Callable[[hvac.Client], T]) -> T:
        """What `act` gives, logged in; where the token is not known any more, after one more login.

        Raises SecretError.
        """
        with translated():
            client = self._logged_in()
            token = client.token
            try:
                return act(client)
            except Exception as error:
                if not _is_forbidden(error):
                    raise
                if self._is_accepted(client):
                    raise SecretsNotAllowed from error
                if self.settings.login == "token":
                    raise SecretsForbidden("Vault does not accept VAULT_TOKEN.", suggestion=_NEW_ONE) from error
            self._log_in(instead_of=token)
            return act(client)

    def open(self, act: Callable[[hvac.Client], T]) -> T:
        """What `act` gives, logged in or not: for what anybody may ask. Raises SecretError."""
        with translated():
            with self._lock:
                client = self._made()
            return act(client)

    def renew(self) -> None:
        """Makes the token last longer, or gets another one where it cannot. Raises SecretError."""
        with translated():
            client = self._logged_in()
            lease, token = self.lease, client.token
            assert lease is not None
            if lease.renewable:
                try:
                    told = answered(client.auth.token.renew_self())["auth"]
                except Exception as error:
                    if not _is_refused(error):
                        raise
                else:
                    # Near its greatest age the server gives less and less: then a login is better.
                    if told["lease_duration"] > lease.ttl / 2 or self.settings.login == "token":
                        self._note(told["lease_duration"], told["renewable"])
                        return
            self._log_in(instead_of=token)

    def close(self) -> None:
        if self._client is not None:
            self._client.adapter.close()

    # The token

    def _logged_in(self) -> hvac.Client:
        with self._lock:
            client = self._made()
            if self.lease is None:
                self._begin(client)
            return client

    def _log_in(self, instead_of: str | None) -> None:
        with self._lock:
            client = self._made()
            if client.token == instead_of:  # else another thread was faster
                self._begin(client)

    def _begin(self, client: hvac.Client) -> None:
        own = self.settings
        try:
            if own.login == "token":
                assert own.token is not None
                client.token = own.token.get_secret_value()
                data = answered(client.auth.token.lookup_self())["data"]
                self._note(data["ttl"], data.get("renewable", False))
                return
            told = self._approle(client) if own.login == "approle" else self._kubernetes(client)
        except Exception as error:
            if not _is_refused(error):
                raise
            raise SecretsForbidden(
                "Vault does not let Flow log in.", suggestion=_LOGIN_ADVICE[own.login or ""]
            ) from error
        self._note(told["lease_duration"], told["renewable"])

    def _approle(self, client: hvac.Client) -> Mapping[str, Any]:
        own = self.settings
        assert own.secret_id is not None
        mount = own.auth_mount or "approle"
        answer = client.auth.approle.login(own.role_id, own.secret_id.get_secret_value(), mount_point=mount)
        found: Mapping[str, Any] = answered(answer)["auth"]
        return found

    def _kubernetes(self, client: hvac.Client) -> Mapping[str, Any]:
        own = self.settings
        try:  # at each login: Kubernetes changes it every hour
            token = own.kubernetes_token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise SecretError(
                f"The service account's token {own.kubernetes_token_file} cannot be read.",
                suggestion="Set VAULT_K8S_TOKEN_FILE, or log in in another way.",
            ) from error
        mount = own.auth_mount or "kubernetes"
        found: Mapping[str, Any] = answered(
            client.auth.kubernetes.login(own.kubernetes_role, token, mount_point=mount)
        )["auth"]
        return found

    def _note(self, ttl: float, renewable: bool) -> None:
        self.lease = Lease(self._clock(), float(ttl), bool(renewable))

    def _is_accepted(self, client: hvac.Client) -> bool:
        try:
            client.auth.token.lookup_self()
        except Exception as error:
            if not _is_forbidden(error):
                raise
            return False
        return True

    def _made(self) -> hvac.Client:
        if self._client is None:
            import hvac
            import requests

            own, session = self.settings, requests.Session()
            session.trust_env = urlsplit(own.address).hostname not in _LOOPBACK
            session.verify = False if own.skip_verify else str(own.ca_cert) if own.ca_cert else True
            if own.client_cert is not None:
                files = str(own.client_cert), str(own.client_key or own.client_cert)
                session.cert = files
            self._client = hvac.Client(
                url=own.address,
                token="",  # none yet; left out, hvac would look for one in ~/.vault-token
                verify=session.verify,
                cert=session.cert,
                timeout=own.timeout,
                namespace=own.namespace,
                allow_redirects=False,
                session=session,
            )
        return self._client


def answered(answer: Any) -> Mapping[str, Any]:
    """An answer's JSON object. Raises SecretsAway where it is something else: a redirect, another server."""
    if isinstance(answer, Mapping):
        return answer
    raise SecretsAway(
        "What answers at VAULT_ADDR is no Vault, or sends elsewhere.", suggestion="Set VAULT_ADDR to the active server."
    )


def _is_forbidden(error: Exception) -> bool:
    from hvac import exceptions

    return isinstance(error, exceptions.Forbidden | exceptions.Unauthorized)


def _is_refused(error: Exception) -> bool:
    """A login or a renewal that the server does not grant."""
    from hvac import exceptions

    return isinstance(error, exceptions.InvalidRequest | exceptions.InvalidPath) or _is_forbidden(error)


@contextmanager
def translated() -> Iterator[None]:
    """Errors of hvac and requests as ours; none quotes what was sent."""
    try:
        yield
    except SecretError:
        raise
    except Exception as error:
        raise _ours(error) from error


def _ours(error: Exception) -> Exception:
    import requests
    from hvac import exceptions

    match error:
        case exceptions.InvalidPath() if error.errors:
            return SecretError(
                "Vault has nothing at FLOW_VAULT_MOUNT.",
                suggestion="Set it to where a KV engine, version 2, is mounted.",
            )
        case exceptions.InvalidPath():
            return SecretMissing()
        case exceptions.Forbidden() | exceptions.Unauthorized():
            return SecretsForbidden()
        case exceptions.VaultDown():
            return SecretsSealed()
        case exceptions.VaultNotInitialized():
            return SecretsSealed("Vault is not set up yet.", suggestion="Run `vault operator init` on it.")
        case exceptions.RateLimitExceeded():
            return SecretsAway("Vault is asked too often.", suggestion="Raise its rate limit for Flow.")
        case exceptions.InvalidRequest() | exceptions.UnsupportedOperation() | exceptions.PreconditionFailed():
            return SecretError(
                "Vault does not understand what Flow asks.",
                suggestion="Check that FLOW_VAULT_MOUNT is a KV engine, version 2.",
            )
        case exceptions.VaultError():
            return SecretsAway(f"Vault failed ({type(error).__name__}).", suggestion="Look into its log.")
        case requests.exceptions.SSLError():
            return SecretsAway(
                "Vault's certificate is not trusted, or it wants one of Flow.",
                suggestion="Set VAULT_CACERT to the PEM file of its authority, and VAULT_CLIENT_CERT where it asks.",
            )
        case requests.exceptions.Timeout():
            return SecretsAway("Vault does not answer in time.")
        case requests.exceptions.RequestException():
            return SecretsAway()
        case OSError():  # requests: a CA or certificate file that is not there
            return SecretError(
                "A PEM file that VAULT_CACERT or VAULT_CLIENT_CERT names cannot be read.",
                suggestion="Check their paths and rights.",
            )
    return error
