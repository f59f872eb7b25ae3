"""The store's tokens: who gets in with one, and who does not."""

import base64
import hashlib
import hmac
import json
import multiprocessing
import os
import stat
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from config.errors import FlowError
from kvstore.gateway.errors import Refusal
from kvstore.gateway.tokens import LONGEST, SharedSecret, SigningKey, Verifier, minter

WORKLET, OWNER = "427cb7f4-0d5e-4c1a-9c55-0c1f8e6f2a10", "a6d1c3de-5a3f-4f0e-8f3b-9e1d2c7b4a55"
SECRET = "a secret of a project, long enough for HMAC-SHA-256"
NOW = 1_800_000_000.25

KEY = SigningKey.of(ec.generate_private_key(ec.SECP256R1()))


def verifier(secret: str | None = None, most: int = 100) -> Verifier:
    return Verifier(KEY, secret, most=most)


def refusal(token: str, by: Verifier | None = None, now: float = NOW) -> Refusal:
    with pytest.raises(Refusal) as caught:
        (by or verifier()).verify(token, now)
    assert caught.value.status == 401
    return caught.value


def signed(changes: dict[str, Any], headers: dict[str, Any] | None = None) -> str:
    """A worklet's token with other claims; a claim of None is left out."""
    claims = {
        "role": "worklet", "worklet_id": WORKLET, "sub": WORKLET, "aud": "flow-kv", "iss": "flow",
        "iat": NOW, "exp": NOW + 900, **changes,
    }  # fmt: skip
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, KEY.private, algorithm="ES256", headers=headers or {"kid": KEY.kid})


def part(value: Any) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def test_a_worklet_is_known_by_its_token() -> None:
    token = KEY.mint_worklet(WORKLET, NOW)
    caller = verifier().verify(token, NOW)
    assert (caller.role, caller.worklet_id, caller.owner_id) == ("worklet", WORKLET, None)
    assert caller.issued_at == NOW, "with its fraction: a revocation in the same second must tell tokens apart"
    assert caller.token == token
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims == {
        "role": "worklet", "worklet_id": WORKLET, "sub": WORKLET, "aud": "flow-kv", "iss": "flow",
        "iat": NOW, "exp": 1_800_000_901,
    }  # fmt: skip
    assert isinstance(claims["exp"], int), "some readers take whole numbers only"


def test_a_person_is_known_by_their_token() -> None:
    caller = verifier().verify(KEY.mint_person(OWNER, NOW), NOW)
    assert (caller.role, caller.worklet_id, caller.owner_id) == ("authenticated", None, OWNER)


def test_the_published_key_checks_our_tokens() -> None:
    (key,) = KEY.jwks()["keys"]
    assert "d" not in key, "the private half"
    token = KEY.mint_worklet(WORKLET)
    assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "JWT", "kid": key["kid"]}
    jwt.decode(token, jwt.PyJWK(key).key, algorithms=["ES256"], audience="flow-kv")
    canonical = json.dumps({n: key[n] for n in ("crv", "kty", "x", "y")}, separators=(",", ":"))
    thumbprint = base64.urlsafe_b64encode(hashlib.sha256(canonical.encode()).digest()).rstrip(b"=").decode()
    assert key["kid"] == thumbprint


def test_a_token_holds_from_its_making_to_its_end_and_a_little_beyond() -> None:
    token, by = KEY.mint_worklet(WORKLET, NOW, ttl=900), verifier()
    assert refusal(token, by, NOW - 6).code == "PGRST301"
    for moment in (NOW - 4, NOW, NOW + 900, NOW + 904):
        by.verify(token, moment)
    for _ in range(2):  # the second time from the cache
        assert refusal(token, by, NOW + 906).code == "PGRST303"
    by.verify(token, NOW), "an old time again: nothing but the time decides"


def test_no_token_is_told_from_a_bad_one() -> None:
    assert refusal("").code == "PGRST302"
    for bad in ("x", "a.b.c", "....", "é", "\ud800", "x" * (LONGEST + 1), KEY.mint_worklet(WORKLET, NOW) + "x"):
        assert refusal(bad).code == "PGRST301"


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "authenticated"}, {"aud": None}, {"aud": ["other"]},
        {"iss": "supabase"}, {"iss": None},
        {"exp": None}, {"exp": "9999999999"}, {"exp": True}, {"exp": float("nan")}, {"exp": float("inf")},
        {"iat": None}, {"iat": "now"}, {"iat": NOW + 60}, {"iat": -1},
        {"nbf": NOW + 60}, {"nbf": "x"},
        {"role": None}, {"role": "service_role"}, {"role": "anon"}, {"role": "postgres"}, {"role": ["worklet"]},
        {"role": "authenticated"},  # with a worklet_id: neither the one nor the other
        {"worklet_id": None}, {"worklet_id": OWNER}, {"worklet_id": "x", "sub": "x"}, {"sub": None}, {"sub": 7},
        {"worklet_id": WORKLET.upper(), "sub": WORKLET.upper()},
        {"worklet_id": WORKLET.replace("-", ""), "sub": WORKLET.replace("-", "")},
    ],
    ids=str,
)  # fmt: skip
def test_claims_other_than_ours_are_refused(changes: dict[str, Any]) -> None:
    assert refusal(signed(changes)).code == "PGRST301"
    verifier().verify(signed({}), NOW), "what the case differs from is good"


def test_other_algorithms_and_keys_are_refused() -> None:
    claims = jwt.decode(KEY.mint_worklet(WORKLET, NOW), options={"verify_signature": False})
    public = KEY.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    other = ec.generate_private_key(ec.SECP256R1())
    head, body = {"typ": "JWT", "kid": KEY.kid}, part(claims)
    unsigned = part({**head, "alg": "none"}) + b"." + body + b"."
    to_sign = part({**head, "alg": "HS256"}) + b"." + body
    confused = to_sign + b"." + base64.urlsafe_b64encode(hmac.new(public, to_sign, "sha256").digest()).rstrip(b"=")
    forged = [
        unsigned.decode(),
        confused.decode(),
        jwt.encode(claims, other, algorithm="ES256", headers={"kid": KEY.kid}),
        jwt.encode(claims, KEY.private, algorithm="ES256", headers={"kid": "another"}),
        jwt.encode(claims, KEY.private, algorithm="ES256"),
        jwt.encode(claims, KEY.private, algorithm="ES256", headers={"kid": KEY.kid, "crit": ["x"], "x": 1}),
        jwt.encode(claims, SECRET, algorithm="HS256"),
        jwt.encode(claims, SECRET * 2, algorithm="HS512"),
        jwt.encode(claims, rsa.generate_private_key(65537, 2048), algorithm="RS256", headers={"kid": KEY.kid}),
    ]
    for token in forged:
        assert refusal(token).code == "PGRST301"
    for token in forged[:6] + forged[7:]:
        assert refusal(token, verifier(SECRET)).code == "PGRST301", "a secret lets one more signature in, no algorithm"


def test_a_changed_token_is_refused() -> None:
    head, body, signature = KEY.mint_worklet(WORKLET, NOW).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["worklet_id"] = claims["sub"] = OWNER
    assert refusal(f"{head}.{part(claims).decode()}.{signature}").code == "PGRST301"


def test_the_legacy_secret_signs_and_is_taken_where_it_is_set() -> None:
    assert minter(KEY) is KEY
    token = minter(KEY, SECRET).mint_worklet(WORKLET, NOW)
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    assert verifier(SECRET).verify(token, NOW).worklet_id == WORKLET
    assert refusal(token).code == "PGRST301"
    verifier(SECRET).verify(KEY.mint_worklet(WORKLET, NOW), NOW)
    other = SharedSecret(SECRET + "!").mint_worklet(WORKLET, NOW)
    assert refusal(other, verifier(SECRET)).code == "PGRST301"


def test_a_short_secret_is_not_used() -> None:
    with pytest.raises(FlowError, match="shorter than 32 bytes"):
        Verifier(KEY, "short")


def test_what_is_remembered_is_bounded_and_says_the_same() -> None:
    by = verifier(most=3)
    tokens = [KEY.mint_worklet(str(uuid.uuid4()), NOW + n) for n in range(6)]
    first = [by.verify(token, NOW) for token in tokens]
    assert len(by._known) == 3
    assert [by.verify(token, NOW) for token in tokens] == first
    refused = len(by._known)
    for n in range(10):
        refusal(f"a.{n}.c", by)
    assert len(by._known) == refused, "whoever guesses pushes nobody out"


def test_only_uuids_are_named() -> None:
    for bad in ("", "x", "../1"):
        with pytest.raises(ValueError, match="badly formed"):
            KEY.mint_worklet(bad)
        with pytest.raises(ValueError, match="badly formed"):
            KEY.mint_person(bad)


def test_nothing_secret_is_shown() -> None:
    assert SECRET not in repr(SharedSecret(SECRET))
    assert "private" not in repr(KEY)
    said = refusal(signed({"aud": "the audience's name"}))
    assert "the audience's name" not in json.dumps(said.body())


# The key's file


def test_the_key_is_made_once_and_read_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "kv" / "signing-key.pem"
    made = SigningKey.load(path)
    assert SigningKey.load(path).kid == made.kid
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["signing-key.pem"], "no draft stays"


def _kid(path: Path, start: Any, kids: Any) -> None:
    start.wait()
    kids.put(SigningKey.load(path).kid)


def test_processes_that_make_it_at_once_agree(tmp_path: Path) -> None:
    forked = multiprocessing.get_context("fork")
    for n in range(5):
        path = tmp_path / str(n) / "signing-key.pem"
        start, kids = forked.Barrier(4), forked.Queue()
        processes = [forked.Process(target=_kid, args=(path, start, kids)) for _ in range(4)]
        for process in processes:
            process.start()
        found = {kids.get(timeout=60) for _ in processes}
        for process in processes:
            process.join(60)
        assert found == {SigningKey.load(path).kid}
        assert len(list(path.parent.iterdir())) == 1


def _other_curve() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _with_password() -> bytes:
    return KEY.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


def _public_only() -> bytes:
    return KEY.public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("content", [b"", b"no key", b"\0\xff" * 100, _other_curve(), _with_password(), _public_only()])
def test_a_damaged_key_is_said_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "signing-key.pem"
    path.write_bytes(content)
    with pytest.raises(FlowError, match="does not hold the key-value store's signing key") as caught:
        SigningKey.load(path)
    assert "Restore it" in caught.value.sentence()
    assert path.read_bytes() == content, "it is not overwritten: it may be repaired"


def test_a_key_that_cannot_be_read_or_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "directory", tmp_path / "file" / "signing-key.pem"):
        with pytest.raises(FlowError, match="cannot be read or made"):
            SigningKey.load(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FlowError, match="does not hold"):
        SigningKey.load(tmp_path / "pipe")
