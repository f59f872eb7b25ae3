"""What secrets look like that nobody told Flow of: the shapes of well-known tokens, one pattern each.

A pattern is a sequence of atoms (a set of characters and how many of it), from which two regular expressions follow:
`full` finds a secret, `partial` tells that what stands at the end of a text may be the beginning of one. Every
repetition but the last is bounded, and what follows it begins with another character, so a look costs a bounded number
of steps; the last is a plain run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

_numbers = itertools.count()
_ALNUM = "[A-Za-z0-9]"
_WORD = "[A-Za-z0-9_-]"
#: Not in the middle of a word. What comes before may be an escape, whose last letter is none of the word: \n, %3D, and
#: a terminal's colours.
_APART = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2})|(?<=[0-9\[]m))"
_ENDS = r"\s\"'`<>"
#: A value that begins so is a reference or a placeholder: $TOKEN, {{ token }}, <token>, ‹masked›.
_REFERENCE = r"(?![$<{%*‹])"


@dataclass(frozen=True, slots=True)
class Atom:
    """Between `least` and `most` characters of the set `chars`; `most` None: any number."""

    chars: str
    least: int = 1
    most: int | None = 1

    def times(self, least: int, most: int | None) -> str:
        return f"{self.chars}{{{least},{'' if most is None else most}}}"


@dataclass(frozen=True)  # without slots, for the cached properties
class Pattern:
    """Group 1 of each expression is what has to be masked.

    `head`: how each match begins. `tail`: what a secret that reaches the end of a text goes on with; None: it ends by
    itself. `patient`: more text may still change where the match ends, so `partial` is asked first. The two are
    compiled when a text needs them: all of them take a tenth of a second, at each start.
    """

    number: int
    name: str
    head: str
    full_text: str
    partial_text: str
    tail: re.Pattern[str] | None
    end: re.Pattern[str] | None = None  # of a block: the tail goes on until it
    patient: bool = False

    @cached_property
    def full(self) -> re.Pattern[str]:
        return re.compile(self.full_text)

    @cached_property
    def partial(self) -> re.Pattern[str]:
        return re.compile(self.partial_text)


def _literal(text: str) -> list[Atom]:
    return [Atom(re.escape(char)) for char in text]


def _pattern(
    name: str,
    head: str,
    atoms: Sequence[Atom],
    secret: int,
    *,
    guard: str = "",
    reference: str = "",
    end: re.Pattern[str] | None = None,
    closed: str = "",
) -> Pattern:
    """`atoms` follow the literal `head`. `secret`: the number of the atom, the head's characters included, at which the
    secret begins. `closed`: what has to follow the last atom, for a secret that does not end in a run."""
    sequence = [*_literal(head), *atoms]
    full, partial = "", ""
    for number, atom in enumerate(sequence):
        full += f"({reference}" if number == secret else ""
        full += atom.times(atom.least, atom.most)
    full += f"){closed}"
    for number in range(len(sequence) - 1, -1, -1):
        atom = sequence[number]
        whole = number == len(sequence) - 1
        some = atom.times(0, atom.most if closed and whole else max((atom.most or atom.least) - 1, 0))
        more = "" if whole else f"|{atom.times(atom.least, atom.most)}{partial}"
        partial = f"(?:{some}\\Z{more})"
        partial = f"({reference}{partial})" if number == secret else partial
    last = sequence[-1]
    tail = re.compile(f"{last.chars}*") if not closed else None
    return Pattern(next(_numbers), name, head, guard + full, guard + partial, tail, end, bool(closed))


def _tokens(name: str, heads: str, chars: str, least: int) -> list[Pattern]:
    """A prefix that says whose it is, and a run."""
    return [_pattern(name, head, [Atom(chars, least, None)], 0, guard=_APART) for head in heads.split()]


_EQUALS = [Atom("="), Atom(r"\\", 0)]
_NAME_REST = Atom("[A-Z0-9_]", 0, 32)


def _assigned(name: str, head: str, before_equals: Sequence[Atom], guard: str) -> list[Pattern]:
    """`NAME=value`, `NAME="value"`, `NAME='value'` as in a file of settings for an environment."""
    found = []
    for quote, chars in (("", f"[^{_ENDS}]"), ('"', r'[^"\n]'), ("'", r"[^'\n]")):
        atoms = [*before_equals, *(_EQUALS if quote else _EQUALS[:1]), *_literal(quote), Atom(chars, 6, None)]
        secret = len(head) + len(atoms) - 1
        found.append(_pattern(name, head, atoms, secret, guard=guard, reference=_REFERENCE))
    return found


def _settings() -> list[Pattern]:
    found: list[Pattern] = []
    for head in ("SECRET", "PASSWORD", "PASSWD", "PASSPHRASE"):
        found += _assigned("setting", head, [_NAME_REST], "(?<![a-z])")
    for head in ("TOKEN", "KEY", "CREDENTIALS"):
        found += _assigned("setting", head, [], "(?:(?<![A-Za-z])|(?<=API)|(?<=ACCESS)|(?<=AUTH)|(?<=PRIVATE))")
    return [*found, *_assigned("setting", "PWD", [], "(?<=_)"), *_assigned("setting", "PASS", [], "(?<=_)")]


def _aws() -> list[Pattern]:
    """The secret half of a key has no shape of its own, only a name."""
    between = [Atom("[\"']", 0), Atom(r"\s", 0, 3), Atom("[=:]"), Atom(r"\s", 0, 3), Atom("[\"']", 0)]
    return [
        _pattern("aws", head, [*between, Atom("[A-Za-z0-9/+=]", 16, None)], len(head) + len(between))
        for head in ("aws_secret_access_key", "aws_session_token", "SecretAccessKey", "SessionToken")
    ]


def _private_key() -> Pattern:
    """From its first line to its last; where that is missing, for as long as it looks like one."""
    head, kind = "-----BEGIN ", Atom("[A-Z0-9 ]", 0, 24)
    rest = [*_literal("PRIVATE KEY"), Atom("[ BLOCK]", 0, 6), *_literal("-----")]
    inside = Atom(r"[A-Za-z0-9+/=\s\\:,.()-]", 1, None)
    end = re.compile(r"-----END [A-Z0-9 ]{0,24}PRIVATE KEY[ BLOCK]{0,6}-----")
    return _pattern("private key", head, [kind, *rest, inside], 0, end=end)


def _json_web_token() -> Pattern:
    part = Atom(_WORD, 8, 512)
    return _pattern("jwt", "eyJ", [part, *_literal(".eyJ"), Atom("[A-Za-z0-9_.-]", 8, None)], 0, guard=_APART)


def _password_in_url() -> Pattern:
    user, password = Atom(f"[^{_ENDS}/@:?#]", 0, 128), Atom(f"[^{_ENDS}/?#]", 1, 256)
    return _pattern("url", "://", [user, Atom(":"), password], 5, reference=_REFERENCE, closed="(?=@)")


def _token_in_url() -> Pattern:
    """Where a user's name stands alone; a shorter one is a name (`ssh://git@host`)."""
    return _pattern("url", "://", [Atom(f"[^{_ENDS}/@:?#]", 16, 256)], 3, reference=_REFERENCE, closed="(?=@)")


def patterns() -> list[Pattern]:
    """All of them. Sources: the vendors' documentation of their tokens' formats, and their own scanners' rules."""
    return [
        *_tokens("anthropic", "sk-ant-", _WORD, 16),
        *_tokens("openai", "sk-proj- sk-svcacct- sk-admin- sk-or-v1-", _WORD, 20),
        *_tokens("openai", "sk-", _ALNUM, 32),
        *_tokens("stripe", "sk_live_ sk_test_ rk_live_ rk_test_ whsec_", _ALNUM, 16),
        *_tokens("aws", "AKIA ASIA", "[A-Z0-9]", 16),
        *_aws(),
        *_tokens("github", "ghp_ gho_ ghu_ ghs_ ghr_", _ALNUM, 20),
        *_tokens("github", "github_pat_", "[A-Za-z0-9_]", 20),
        *_tokens("gitlab", "glpat- gldt- glrt- glptt- glcbt-", "[A-Za-z0-9_.-]", 16),
        *_tokens("slack", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxe- xoxc- xoxd- xapp-", "[A-Za-z0-9%-]", 10),
        *_tokens("slack", "hooks.slack.com/services/", "[A-Za-z0-9/]", 20),
        *_tokens("google", "AIza", _WORD, 30),
        *_tokens("google", "GOCSPX- ya29.", "[A-Za-z0-9_.-]", 20),
        *_tokens("npm", "npm_", _ALNUM, 30),
        *_tokens("pypi", "pypi-", _WORD, 40),
        *_tokens("docker", "dckr_pat_", _WORD, 20),
        *_tokens("hugging face", "hf_", _ALNUM, 30),
        *_tokens("vault", "hvs. hvb.", _WORD, 20),
        *_tokens("sendgrid", "SG.", "[A-Za-z0-9_.-]", 40),
        _pattern("header", "Bearer ", [Atom("[A-Za-z0-9._~+/=-]", 20, None)], 7),
        _pattern("header", "Authorization: Basic ", [Atom("[A-Za-z0-9+/=]", 8, None)], 21),
        _json_web_token(),
        _private_key(),
        _password_in_url(),
        _token_in_url(),
        *_settings(),
    ]


def is_secret_name(name: str) -> bool:
    """A setting of this name holds a secret: FOO_TOKEN, DB_PASSWORD, SECRET_KEY_BASE."""
    return any(pattern.full.search(f"{name.upper()}=xxxxxx") for pattern in _NAMED)


def passwords_in(urls: Iterable[str]) -> list[str]:
    """What stands between a colon and an @ in URLs, and a user name that stands there alone (a token)."""
    found = []
    for url in urls:
        user_info = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#\s]*)@", url)
        user, colon, password = user_info[1].partition(":") if user_info else ("", "", "")
        found.append(password if colon else user)
    return [secret for secret in found if len(secret) > 3]


_NAMED = _settings()
