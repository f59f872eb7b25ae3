"""The tokens with which worklets and people reach the store: JSON Web Tokens (RFC 7519), made and checked.

Flow signs with an ES256 key of its own, `<share_dir>/kv/signing-key.pem`; its public half (`SigningKey.jwks`) is what
Supabase is told to trust. Where a project still has only Supabase's legacy secret, `SharedSecret` signs with HS256.

    worklet   {"role": "worklet", "worklet_id": W, "sub": W, "aud": "flow-kv", "iss": "flow", "iat", "exp"}
    person    {"role": "authenticated", "sub": owner's uuid, "aud": …, "iss": …, "iat", "exp"}

Nobody's user id is in a worklet's token: with it the token would open all worklets of that person.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import secrets
import stat
import time
import uuid
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from config.errors import FlowError
from kvstore.gateway.callers import Caller
from kvstore.gateway.errors import Refusal, no_token

AUDIENCE, ISSUER = "flow-kv", "flow"
WORKLET_SECONDS = 900.0
PERSON_SECONDS = 3600.0
LEEWAY = 5.0  # seconds that another machine's clock may differ
LONGEST = 4096  # characters: ours have under 500
_LEAST_SECRET = 32  # bytes: RFC 7518 3.2 asks for as many as the hash has
_MOST_CACHED = 4096

_ES256, _HS256 = "ES256", "HS256"
_REQUIRED = ["exp", "iat", "aud", "iss", "sub", "role"]
#: PyJWT knows only the clock of the machine; times are checked here, at each use, also of a token that is cached.
_OPTIONS: dict[str, Any] = {
    "require": _REQUIRED, "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_sub": False,
}  # fmt: skip
_WHY: dict[type[Exception], str] = {
    jwt.InvalidAudienceError: "it was made for another audience",
    jwt.InvalidIssuerError: "somebody else made it",
    jwt.MissingRequiredClaimError: "it lacks a claim",
    jwt.InvalidSignatureError: "its signature is wrong",
}


class KeyUnusable(FlowError):
    """The key-value store's signing key cannot be used."""


class Minter(Protocol):
    """Makes tokens. `now` and what they count from is in seconds since the epoch, `ttl` in seconds."""

    def mint_worklet(self, worklet_id: str, now: float | None = None, ttl: float = WORKLET_SECONDS) -> str:
        """A token for one worklet (a uuid) and nothing else. Raises ValueError when that is none."""

    def mint_person(self, owner_id: str, now: float | None = None, ttl: float = PERSON_SECONDS) -> str:
        """A token for all worklets that belong to `owner_id` (a uuid). Raises ValueError when that is none."""


class _Mint(ABC):
    """The claims, which do not depend on how they are signed."""

    def mint_worklet(self, worklet_id: str, now: float | None = None, ttl: float = WORKLET_SECONDS) -> str:
        who = str(uuid.UUID(worklet_id))
        return self._sign({"role": "worklet", "worklet_id": who, "sub": who, **_times(now, ttl)})

    def mint_person(self, owner_id: str, now: float | None = None, ttl: float = PERSON_SECONDS) -> str:
        return self._sign({"role": "authenticated", "sub": str(uuid.UUID(owner_id)), **_times(now, ttl)})

    @abstractmethod
    def _sign(self, claims: dict[str, Any]) -> str:
        """The token with these claims."""


@dataclass(frozen=True, slots=True)
class SigningKey(_Mint):
    """Flow's own key pair on the curve P-256. `kid` is the thumbprint of its public half (RFC 7638)."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """The key of that file (PEM, PKCS 8), made at the first call. Raises KeyUnusable.

        Processes that make it at the same moment all get the one that was there first.
        """
        try:
            if not path.exists():
                _create(path)
            private = serialization.load_pem_private_key(_read(path), password=None)
        except OSError as e:
            raise KeyUnusable(
                f"The key-value store's signing key {path} cannot be read or made: {e.strerror or e}.",
                suggestion="Give Flow's user the right to it, and check the disk.",
            ) from e
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise _damaged(path) from e
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise _damaged(path)
        return cls.of(private)

    @classmethod
    def of(cls, private: ec.EllipticCurvePrivateKey) -> SigningKey:
        return cls(private, _thumbprint(_members(private)))

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        return self.private.public_key()

    def jwks(self) -> dict[str, Any]:
        """The public half as a JSON Web Key Set (RFC 7517), for whoever is to trust our tokens."""
        key = {**_members(self.private), "kid": self.kid, "use": "sig", "alg": _ES256, "key_ops": ["verify"]}
        return {"keys": [key]}

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.private, algorithm=_ES256, headers={"kid": self.kid})


@dataclass(frozen=True, slots=True)
class SharedSecret(_Mint):
    """Signs with HS256, as Supabase's projects did before they had keys. Raises KeyUnusable for a short secret."""

    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret.encode()) < _LEAST_SECRET:
            raise KeyUnusable(
                f"FLOW_KV_JWT_SECRET is shorter than {_LEAST_SECRET} bytes.",
                suggestion="Copy the whole JWT secret of the Supabase project, or remove the setting.",
            )

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self.secret, algorithm=_HS256)


def minter(key: SigningKey, secret: str | None = None) -> Minter:
    """What signs: the secret where one is set, because then the backend may trust nothing else."""
    return SharedSecret(secret) if secret else key


class Verifier:
    """Tells whose a token is. Tokens of `key` are taken, and those signed with `secret` where there is one.

    The algorithm follows from our own keys and never from the token alone, so that neither `none` nor an HMAC made with
    the public key passes. What a signature said is remembered (to check one takes 0.1 ms); times are checked each time.
    """

    def __init__(self, key: SigningKey, secret: str | None = None, *, most: int = _MOST_CACHED) -> None:
        """Raises KeyUnusable for a short secret. `most`: tokens that are remembered."""
        self._key, self._public, self._most = key, key.public, most
        self._secret = SharedSecret(secret).secret if secret else None
        self._known: OrderedDict[bytes, _Checked] = OrderedDict()

    def verify(self, token: str, now: float | None = None) -> Caller:
        """Who asks. Raises Refusal (401): PGRST302 for no token, PGRST303 for an expired one, PGRST301 for others."""
        if not token:
            raise no_token()
        if len(token) > LONGEST:
            raise _bad("it is too long")
        # By digest: how long the look-up takes says nothing about the tokens that are known.
        name = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        if known := self._known.get(name):
            self._known.move_to_end(name)
        else:
            known = self._check(token)
        known.hold(time.time() if now is None else now)
        self._known[name] = known
        if len(self._known) > self._most:
            self._known.popitem(last=False)
        return known.caller

    def _check(self, token: str) -> _Checked:
        try:
            header = jwt.get_unverified_header(token)
            key, algorithm = self._trusted(header)
            claims = jwt.decode(token, key, algorithms=[algorithm], audience=AUDIENCE, issuer=ISSUER, options=_OPTIONS)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as e:
            raise _bad(_WHY.get(type(e), "it is damaged")) from None
        return _Checked.of(claims, token)

    def _trusted(self, header: Mapping[str, Any]) -> tuple[Any, str]:
        if "crit" in header:
            raise _bad("it asks for extensions that are not known here")
        algorithm = header.get("alg")
        if algorithm == _ES256:
            if header.get("kid") != self._key.kid:
                raise _bad("it was signed with another key")
            return self._public, _ES256
        if algorithm == _HS256 and self._secret is not None:
            return self._secret, _HS256
        raise _bad("its algorithm is not taken here")


@dataclass(frozen=True, slots=True)
class _Checked:
    """A token whose signature is good."""

    caller: Caller
    not_before: float
    expires: float

    @classmethod
    def of(cls, claims: Mapping[str, Any], token: str) -> _Checked:
        issued, expires = _moment(claims, "iat"), _moment(claims, "exp")
        not_before = max(issued, _moment(claims, "nbf")) if "nbf" in claims else issued
        subject = _uuid(claims, "sub")
        match claims["role"]:
            case "worklet" if claims.get("worklet_id") == claims["sub"]:
                caller = Caller("worklet", subject, None, issued, token)
            case "authenticated" if "worklet_id" not in claims:
                caller = Caller("authenticated", None, subject, issued, token)
            case _:
                raise _bad("it is neither a worklet's nor a person's")
        return cls(caller, not_before, expires)

    def hold(self, now: float) -> None:
        """Raises Refusal when the token is not good at that time."""
        if now - LEEWAY >= self.expires:
            raise Refusal(401, "PGRST303", "The token has expired.")
        if now + LEEWAY < self.not_before:
            raise _bad("it is not good yet: compare the clocks")


def _times(now: float | None, ttl: float) -> dict[str, Any]:
    # `iat` with its fraction: a session that ends and starts within a second revokes the first one's tokens only.
    # `exp` without: readers of the claim that take whole numbers only would take it for zero.
    issued = round(time.time() if now is None else now, 6)
    return {"aud": AUDIENCE, "iss": ISSUER, "iat": issued, "exp": math.ceil(issued + ttl)}


def _moment(claims: Mapping[str, Any], name: str) -> float:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:  # NaN too
        raise _bad(f"its {name} is no time")
    return float(value)


def _uuid(claims: Mapping[str, Any], name: str) -> str:
    """The canonical text: what tells worklets apart must have one spelling only."""
    value = claims[name]
    try:
        if isinstance(value, str) and str(uuid.UUID(value)) == value:
            return value
    except ValueError:
        pass
    raise _bad(f"its {name} is no uuid")


def _bad(why: str) -> Refusal:
    return Refusal(401, "PGRST301", f"The token is not taken: {why}.")


def _members(private: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """What an elliptic curve key must have as a JWK (RFC 7518 6.2.1), in the order that a thumbprint wants."""
    numbers = private.public_key().public_numbers()
    return {"crv": "P-256", "kty": "EC", "x": _base64(numbers.x.to_bytes(32)), "y": _base64(numbers.y.to_bytes(32))}


def _thumbprint(members: Mapping[str, str]) -> str:
    return _base64(hashlib.sha256(json.dumps(members, separators=(",", ":"), sort_keys=True).encode()).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _damaged(path: Path) -> KeyUnusable:
    return KeyUnusable(
        f"{path} does not hold the key-value store's signing key (a P-256 key as PEM).",
        suggestion="Restore it, or remove it: Flow makes a new one, which Supabase has to be told of then.",
    )


def _read(path: Path) -> bytes:
    """Raises OSError; ValueError for what is no file, which could keep whoever opens it waiting."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a file")
        return file.read(1 << 16)


def _create(path: Path) -> None:
    """Writes the file whole or not at all; when another process was faster, its file stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
