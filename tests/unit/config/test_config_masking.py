"""No secret leaves, whole or in part, however the text is cut; and what is none stays as it is."""

from __future__ import annotations

import json
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.masking import MASK, Masker
from config.secretpatterns import is_secret_name, passwords_in

KNOWN = ("Zq7-vault_pass/word+1", 'Xw "quoted" wörd\n2', "abababababab", "ababab-ababab")
MASKER = Masker(KNOWN)

_ALNUM = string.ascii_letters + string.digits
_KEY = "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----"


def _run(alphabet: str, least: int, most: int = 60) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=least, max_size=most)


def _token(head: str, least: int, alphabet: str = _ALNUM) -> st.SearchStrategy[str]:
    return _run(alphabet, least).map(lambda rest: head + rest)


SECRETS = st.one_of(
    st.sampled_from(KNOWN),
    st.sampled_from(KNOWN).map(lambda value: quote(value, safe="")),
    st.sampled_from(KNOWN).map(lambda value: json.dumps(value)[1:-1]),
    _token("sk-ant-api03-", 20, _ALNUM + "-_"),
    _token("sk-proj-", 20, _ALNUM + "-_"),
    _token("sk-", 32),
    _token("sk_live_", 16),
    _token("AKIA", 16, string.ascii_uppercase + string.digits),
    _token("ghp_", 30),
    _token("github_pat_", 30, _ALNUM + "_"),
    _token("glpat-", 20),
    _token("xoxb-", 12, string.digits + "-"),
    _token("xapp-1-", 12),
    _token("AIza", 35),
    _token("npm_", 36),
    _token("pypi-AgEI", 40),
    st.tuples(_run(_ALNUM, 8), _run(_ALNUM, 8), _run(_ALNUM, 8)).map(lambda p: f"eyJ{p[0]}.eyJ{p[1]}.{p[2]}"),
    _run(_ALNUM + "+/\n", 40, 400).map(_KEY.format),
)
#: With what surrounds it; the secret is group 1.
PLANTED = st.one_of(
    SECRETS.map(lambda secret: (secret, secret)),
    SECRETS.map(lambda secret: (secret, f"TOKEN={secret}")),
    _run(_ALNUM + "!#%&-", 9, 40).map(lambda secret: (f"x{secret}", f"DB_PASSWORD=x{secret}")),
    _run(_ALNUM + " -", 9, 40).map(lambda secret: (f"x{secret}", f"export MY_SECRET='x{secret}'")),
    _run(_ALNUM, 9, 40).map(lambda secret: (secret, f"postgresql://flow:{secret}@db.example/flow")),
    _run(_ALNUM, 16, 40).map(lambda secret: (secret, f"https://{secret}@git.example/flow.git")),
    _run(_ALNUM, 20, 40).map(lambda secret: (secret, f"Authorization: Bearer {secret}")),
)
#: Nothing of it is part of a secret, so that what leaks can be told from what was there.
AROUND = st.text("αβγδ .,:;()\n\t`\"'😀", max_size=30)


def cut(text: str, places: list[float]) -> list[str]:
    at = sorted({int(place * len(text)) for place in places})
    return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]


CUTS = st.lists(st.floats(0, 1), max_size=12)


def streamed(masker: Masker, pieces: list[str]) -> str:
    stream = masker.stream()
    return "".join(map(stream.feed, pieces)) + stream.flush()


def leaked(secret: str, shown: str) -> str | None:
    """More than eight characters of it."""
    return next((secret[i : i + 9] for i in range(len(secret) - 8) if secret[i : i + 9] in shown), None)


@given(st.lists(st.tuples(AROUND, PLANTED), min_size=1, max_size=4), AROUND, CUTS)
def test_no_secret_leaves_whole_or_in_part_however_the_text_is_cut(
    parts: list[tuple[str, tuple[str, str]]], last: str, places: list[float]
) -> None:
    text = "".join(f"{around} {planted}\n" for around, (_, planted) in parts) + last
    stream, seen = MASKER.stream(), ""
    for piece in cut(text, places):
        seen += stream.feed(piece)
        for _, (secret, _) in parts:
            assert leaked(secret, seen) is None
    broken_off, seen = seen + stream.flush(cut=True), seen + stream.flush()
    for _, (secret, _) in parts:
        assert leaked(secret, MASKER.text(text)) is None
        assert leaked(secret, seen) is None
        assert leaked(secret, broken_off) is None


@given(st.lists(st.tuples(AROUND, PLANTED), min_size=1, max_size=3), st.floats(0, 1))
def test_a_text_that_breaks_off_in_a_secret_keeps_it(parts: list[tuple[str, tuple[str, str]]], where: float) -> None:
    text = "".join(f"{around} {planted}\n" for around, (_, planted) in parts)
    stream = MASKER.stream()
    shown = stream.feed(text[: int(where * len(text))]) + stream.flush(cut=True)
    assert all(leaked(secret, shown) is None for _, (secret, _) in parts)


@given(SECRETS.filter(lambda secret: "PRIVATE" not in secret), AROUND, st.floats(0, 1))
def test_a_text_that_begins_in_a_known_secret_keeps_it(secret: str, after: str, where: float) -> None:
    masker = Masker([secret])
    text = secret[int(where * len(secret)) :] + f"\n{after}"
    assert leaked(secret, masker.text(text, cut=True)) is None


_BITS = [
    *("sk-", "sk-ant-", "ghp_", "eyJ", "AKIA", "ABCDEFGHIJKLMNOPQRST", "0123456789", "aws_secret_access_key"),
    *("-----BEGIN", "PRIVATE", "KEY-----", "-----END", "MII", "--", "ababab", "abab", "-", "Zq7-vault"),
    *("TOKEN", "KEY", "PASSWORD", "Bearer", "=", "'", '"', "://", ":", "@", "/", "\\", "\\n", "$", "‹", "."),
]
FRAGMENTS = st.lists(
    st.one_of(
        st.sampled_from(_BITS),
        st.sampled_from([" ", "\n", "a", "é", "😀", _ALNUM, "-----BEGIN RSA PRIVATE KEY-----\nMII"]),
    ),
    max_size=25,
).map("".join)


@given(FRAGMENTS, CUTS)
def test_a_text_in_pieces_is_masked_like_the_whole(text: str, places: list[float]) -> None:
    whole = MASKER.text(text)
    assert streamed(MASKER, cut(text, places)) == whole
    assert streamed(MASKER, list(text)) == whole


@given(FRAGMENTS)
def test_what_is_masked_is_not_masked_again(text: str) -> None:
    once = MASKER.text(text)
    assert MASKER.text(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "The task-force asked `risk-management` for a key: sk-learn.",
        "Clone https://github.com/acme/web.git, then open http://localhost:8080/health and mail me@example.com.",
        "ssh://git@github.com:22/acme/web",
        "https://x-access-token@github.com/acme/web",
        "MAX_TOKENS=200000 PATH=/usr/local/bin:/usr/bin PWD=/workspace/web TOKEN_COUNT=1234567",
        "API_KEY=$API_KEY SECRET=${SECRET:-} TOKEN=<your token> PASSWORD={{ password }}",
        "token = get_token(user)\npassword=password, key=lambda x: x",
        "The file begins with `-----BEGIN PRIVATE KEY-----` and ends with `-----END PRIVATE KEY-----`.",
        "Use `Bearer` authentication; AKIA is how a key begins, eyJ how a token does.",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "6f1c2d34-1f6b-4b54-8c1e-2f0f3a0f8f11",
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert MASKER.text(text) is text or MASKER.text(text) == text
    assert streamed(MASKER, list(text)) == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_other_text_is_unchanged(text: str) -> None:
    """Hypothesis does not come by a secret of itself."""
    assert MASKER.text(text) == text
    assert streamed(MASKER, list(text)) == text


def test_only_the_value_goes() -> None:
    assert MASKER.text("DB_PASSWORD=hunter22 make") == f"DB_PASSWORD={MASK} make"
    assert MASKER.text("git clone https://me:hunter22@github.com/a/b") == f"git clone https://me:{MASK}@github.com/a/b"
    assert MASKER.text("clone https://0123456789abcdef0123@git.example/a") == f"clone https://{MASK}@git.example/a"
    assert MASKER.text(f"{_KEY.format('MIIEow' * 40)}\nNext.") == f"{MASK}\nNext."


@pytest.mark.parametrize("before", ["", " ", '"', "=", "\n", "\\n", "%3D", "\x1b[32m", "\x1b[1m", "x-", "é"])
def test_a_token_is_found_after_anything_but_a_letter_or_digit(before: str) -> None:
    for token in ("ghp_" + "a1B2" * 9, "sk-ant-api03-" + "a1B2" * 9, "eyJ" + "a1B2" * 3 + ".eyJ" + "a1B2" * 3 + ".x"):
        assert MASKER.text(before + token) == before + MASK


def test_only_what_may_be_a_beginning_is_held_back() -> None:
    stream = MASKER.stream()
    assert stream.feed("Here it is: sk-ant-api0") == "Here it is: "
    assert stream.holds
    assert stream.feed("3 is how it begins.") == "sk-ant-api03 is how it begins."
    assert not stream.holds
    assert stream.feed("sk-ant-api03-" + "x" * 30) == MASK
    assert stream.feed("y" * 1000) == ""
    assert stream.feed(" and so it goes.") == " and so it goes."


def test_secrets_that_overlap_are_one_mask() -> None:
    assert Masker(["alphabeta", "betagamma"]).text("an alphabetagamma") == f"an {MASK}"


def test_too_short_a_value_takes_no_words_away() -> None:
    assert Masker(["the", ""]).text("the text") == "the text"


def test_json_is_masked_through_and_through() -> None:
    value = {"command": f"echo {KNOWN[0]}", "list": [1, None, {KNOWN[2]: True}], "same": ("a",)}
    assert MASKER.value(value) == {"command": f"echo {MASK}", "list": [1, None, {MASK: True}], "same": ("a",)}
    clean = {"a": ["b", {"c": 1}]}
    assert MASKER.value(clean) is clean


def test_a_file_of_text_is_masked_and_others_are_not() -> None:
    assert MASKER.bytes_of_text(b"TOKEN=abcdefgh\n") == f"TOKEN={MASK}\n".encode()
    picture = b"\x89PNG\xff" + KNOWN[2].encode()
    assert MASKER.bytes_of_text(picture) is picture


def test_names_that_say_secret() -> None:
    assert all(map(is_secret_name, ("API_KEY", "db_password", "GITHUB_TOKEN", "SECRET_KEY_BASE", "SMTP_PASS")))
    assert not any(map(is_secret_name, ("VAULT_ADDR", "PATH", "PWD", "MAX_TOKENS", "MONKEY", "GIT_BRANCH")))


def test_passwords_in_addresses() -> None:
    urls = ["https://me:hunter22@a.b/c", "https://ghs_token@a.b/c", "https://a.b/c?d=e@f", "git@a.b:c"]
    assert passwords_in(urls) == ["hunter22", "ghs_token"]


@given(
    st.sampled_from(
        ["sk-", "sk-ant-", "eyJ", "eyJa.", "KEY=", "SECRET", "://", "://:", "-----BEGIN ", "Bearer ", "ab"]
    ),
    st.integers(1, 40),
    st.sampled_from([1, 3, 64, 10_000]),
)
def test_work_grows_with_the_text_and_no_faster(piece: str, times: int, size: int) -> None:
    """A look costs a bounded number of steps, so looks are counted: at most a few for each character or piece."""

    def looks(count: int) -> int:
        masker, text = Masker(KNOWN), piece * count
        streamed(masker, [text[i : i + size] for i in range(0, len(text), size)])
        return masker.looks

    assert looks(times * 8) <= 8 * looks(times) + 60 * len(piece)
    assert looks(times * 8) <= 60 * times * 8 * len(piece)
