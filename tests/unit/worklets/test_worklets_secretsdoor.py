"""What of Vault a worklet may ask for, and what its policy says: pure."""

import json

import pytest

from worklets.secrets import Known, SecretError
from worklets.secretsdoor import may
from worklets.secretstokens import allowed_paths, policy_of

ME = "0f0f0f0f-0000-4000-8000-000000000001"
OTHER = "0f0f0f0f-0000-4000-8000-000000000002"
GRANT = {"mount": "secret", "own": f"worklets/{ME}", "readable": ["team/db", "shared/*"]}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"v1/secret/data/worklets/{ME}/a"),
        ("POST", f"v1/secret/data/worklets/{ME}/a/b"),
        ("PATCH", f"v1/secret/data/worklets/{ME}/a"),
        ("DELETE", f"v1/secret/metadata/worklets/{ME}/a"),
        ("POST", f"v1/secret/data/worklets/{ME}/" + "/".join("abcdefghij")),
        ("GET", f"v1/secret/metadata/worklets/{ME}"),
        ("GET", f"v1/secret/metadata/worklets/{ME}/"),
        ("POST", f"v1/secret/undelete/worklets/{ME}/a"),
        ("GET", "v1/secret/data/team/db"),
        ("GET", "v1/secret/data/shared/x/y"),
        ("GET", "v1/auth/token/lookup-self"),
        ("GET", "v1/sys/internal/ui/mounts/secret"),
        ("GET", f"v1/sys/internal/ui/mounts/secret/worklets/{ME}/a"),
        ("GET", "v1/sys/internal/ui/mounts/secret/team/db"),
    ],
)
def test_what_goes_on(method: str, path: str) -> None:
    assert may(method, path, GRANT)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"v1/secret/data/worklets/{OTHER}/a"),
        ("GET", f"v1/secret/data/worklets/{ME}x/a"),
        ("POST", f"v1/secret/data/worklets/{ME}"),
        ("POST", f"v1/secret/data/worklets/{ME}/" + "/".join("abcdefghijk")),
        ("GET", f"v1/secret/data/worklets/{ME}/../{OTHER}/a"),
        ("GET", f"v1/secret/data/worklets/{ME}/./../{OTHER}/a"),
        ("GET", f"v1/secret/data/worklets/{ME}/%2e%2e/a"),
        ("GET", f"v1/secret//data/worklets/{ME}/a"),
        ("GET", f"v1/secret/data/worklets/{ME}/a\\..\\b"),
        ("GET", f"v1/secret/data/worklets/{ME}/a;b"),
        ("GET", "v1/secret/metadata/worklets"),
        ("GET", "v1/secret/metadata/team/db"),
        ("POST", "v1/secret/data/team/db"),
        ("GET", "v1/secret/data/team/dbx"),
        ("GET", "v1/secret/data/team/db/x"),
        ("GET", "v1/secret/data/shared"),
        ("GET", "v1/secret/data/flow/github"),
        ("GET", "v1/secretx/data/team/db"),
        ("GET", "v1/sys/internal/ui/mounts/flow"),
        ("GET", "v1/sys/internal/ui/mounts/secret/flow/github"),
        ("POST", "v1/sys/internal/ui/mounts/secret"),
        ("POST", "v1/auth/token/lookup-self"),
        ("GET", "v1/auth/token/lookup-self/x"),
        ("POST", "v1/auth/token/create"),
        ("GET", "v1/sys/policies/acl/root"),
        ("GET", "/v1/secret/data/team/db"),
        ("GET", "v1"),
        ("GET", ""),
        ("GET", "v1/" + "a/" * 5000),
    ],
)
def test_what_does_not(method: str, path: str) -> None:
    assert not may(method, path, GRANT)


def test_a_policy_is_for_one_session_and_what_was_named() -> None:
    told = json.loads(policy_of("team/kv", ME, ["shared/*"]))["path"]
    assert set(told) == {
        f"team/kv/data/worklets/{ME}/*",
        f"team/kv/metadata/worklets/{ME}",
        f"team/kv/metadata/worklets/{ME}/*",
        *(f"team/kv/{verb}/worklets/{ME}/*" for verb in ("delete", "undelete", "destroy")),
        "team/kv/data/shared/*",
        "auth/token/lookup-self",
    }
    assert told["team/kv/data/shared/*"] == {"capabilities": ["read"]}
    for wrong in ("", "*", "../x", f"{ME}/x", '" {}'):
        with pytest.raises(SecretError):
            policy_of("secret", wrong, [])


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("team/db", "team/db"),
        ("secret/data/team/db", "team/db"),
        ("secret/team/db/", "team/db"),
        ("team/*", "team/*"),
        ("team/sub/*", "team/sub/*"),
        ("team", "team"),
        ("one/thing", "one/thing"),
        ("one/thing/below", "one/thing/below"),
        ("team*", None),
        ("team/d*", None),
        ("one/*", None),
        ("one", None),
        ("teamx", None),
        ("*", None),
        ("", None),
        ("+/db", None),
        ("team/+/x", None),
        ("team/../flow/github", None),
        ("flow/github", None),
        (f"worklets/{OTHER}/a", None),
        ('team/x"} path "sys/*', None),
        ("team/x\n", None),
    ],
)
def test_a_template_reads_what_the_administrator_opened(asked: str, allowed: str | None) -> None:
    may_read, may_not = allowed_paths([asked], "secret", ("team", "one/thing"))
    assert (may_read, len(may_not)) == (([allowed], 0) if allowed else ([], 1))
    assert allowed_paths([asked], "secret", ())[0] == []


def test_values_are_known_to_be_masked_but_for_those_that_are_no_secrets() -> None:
    known = Known(most=2)
    known.note({"token": "t-one", "user": "octocat", "URL": "https://example.org"})
    assert known.values() == ["t-one"]
    known.note({"a": "two", "b": "three"})
    assert known.values() == ["two", "three"]
    known.note({"url": "https://me:in-address@example.org/x"})
    assert known.values() == ["three", "in-address"]
