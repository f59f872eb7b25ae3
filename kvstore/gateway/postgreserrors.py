"""What PostgreSQL raises, in the gateway's words.

Only the SQLSTATE and our own hint are looked at: PostgreSQL's messages and details may quote values.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

import asyncpg

from kvstore.gateway import errors
from kvstore.gateway.errors import Refusal, unavailable

#: Rolled back as a whole, so that another try is safe: serialization_failure and deadlock_detected.
REPEATABLE: Final = frozenset({"40001", "40P01"})
UPGRADE: Final = "Run `flow db upgrade --kv`."
_INVALID: Final = frozenset({"22023", "22P02", "22P05", "22001", "22003", "22021", "23502", "23514", "21000"})
#: An undefined function, table, column or schema.
_MISSING: Final = frozenset({"42883", "42P01", "42703", "3F000"})
#: statement_timeout, or a cancellation; lock_timeout.
_LATE: Final = frozenset({"57014", "55P03"})
_HINTED: Final = {
    errors.KV_TOO_LARGE: errors.too_large("The value is over 1048576 bytes of JSON, or the answer over 16 MiB."),
    errors.KV_NOT_A_NUMBER: errors.not_a_number(),
    errors.KV_NOT_APPENDABLE: errors.not_appendable(),
    errors.KV_OUT_OF_RANGE: errors.out_of_range(),
    errors.KV_QUOTA_KEYS: Refusal(
        413, "54000", "The worklet holds all of the keys that it may have.", errors.KV_QUOTA_KEYS
    ),
    errors.KV_QUOTA_BYTES: Refusal(
        413, "54000", "The worklet's store would be over its bytes.", errors.KV_QUOTA_BYTES
    ),
    errors.KV_FORBIDDEN: errors.forbidden(),
    errors.KV_REVOKED: errors.revoked(),
}  # fmt: skip


def refusal(error: Exception) -> Refusal:
    """For what asyncpg raised: the database's answer, or a connection that failed."""
    if isinstance(error, TimeoutError):
        return _late()
    state: str | None = getattr(error, "sqlstate", None)
    if state is None or not isinstance(error, asyncpg.PostgresError):
        return unavailable("The database cannot be reached; try again.")
    return worded(state, getattr(error, "hint", None))


def wrong_password(dsn: str) -> Refusal:
    """28P01; PostgreSQL says the same of a role that has no password, and of one that there is not."""
    role = unquote(urlsplit(dsn).username or "")
    named = role if re.fullmatch(r"[a-z_][a-z0-9_]*", role) else f'"{role}"'
    return unavailable(
        f"Wrong or no password for the role {named}, or no such role. `flow db upgrade --kv` makes authenticator "
        f"without one: set it as the database's owner with `alter role {named} password '…'`."
    )


def _late() -> Refusal:
    return unavailable("The database did not answer in time; try again.")


def worded(state: str, hint: str | None) -> Refusal:
    """For an SQLSTATE and a hint, by whichever way they came."""
    known = _HINTED.get(hint or "")
    if known is not None:
        return Refusal(known.status, known.code, known.message, known.hint)
    return _by_state(state)


def _by_state(state: str) -> Refusal:
    if state in _INVALID:
        return Refusal(400, state, "An argument breaks a rule of the store.", errors.KV_INVALID)
    if state == "42501":
        return errors.forbidden()
    if state in _MISSING:
        return unavailable(f"The database has no key-value store of this version. {UPGRADE}")
    if state in REPEATABLE:
        return Refusal(503, state, "The database is busy with others' changes; try again.")
    if state in _LATE:
        return _late()
    if state[:2] == "28":
        return unavailable(f"The database refuses the login of FLOW_KV_DSN; its role may be missing. {UPGRADE}")
    if state[:2] == "3D":
        return unavailable("There is no such database: look at FLOW_KV_DSN and FLOW_KV_ADMIN_DSN.")
    # Connections, resources, an operator's stop, a system error.
    if state[:2] in {"08", "53", "57", "58"}:
        return unavailable("The database is not available; try again.")
    return Refusal(500, state, "The database refused the operation; its log says why.")
