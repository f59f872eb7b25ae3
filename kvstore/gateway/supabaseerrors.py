"""What a Supabase project answers when it does not do what was asked, in the gateway's words.

The answer may be PostgREST's (a code of its own, `PGRST…`, or PostgreSQL's SQLSTATE), that of the API gateway before it
(no code), or of something else altogether behind a wrong address. As with PostgreSQL itself, only codes and our own
hints are looked at: messages and details may quote values.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kvstore.gateway.errors import Refusal, not_begun, unavailable
from kvstore.gateway.postgreserrors import REPEATABLE, worded

if TYPE_CHECKING:
    import httpx

CONFLICTS: Final = REPEATABLE
_MIGRATE: Final = (
    "The Supabase project has no key-value store of this version, or its API has not seen it yet: run "
    "`flow db upgrade --kv` (or `supabase db push`), then `notify pgrst, 'reload schema'` in its SQL editor."
)
_NOT_SUPABASE: Final = (
    "What answers at {host} is not Supabase's API ({what}): SUPABASE_URL looks like https://abcd.supabase.co."
)
_RIGHTS: Final = (
    "The Supabase project's database lacks a grant of the key-value store: its migration was not applied whole, or "
    "grants were changed since. Compare them with migrations/001_worklet_kv_store.sql."
)
_SQLSTATE: Final = re.compile(r"[0-9A-Z]{5}")
#: An undefined function or relation, from PostgREST's cache of the schema or from PostgreSQL; a schema not exposed.
_MISSING: Final = frozenset({"PGRST106", "PGRST202", "PGRST203", "PGRST205", "42883", "42P01"})
#: Of the platform and of Cloudflare before it; beside 502 to 504.
_AWAY: Final = frozenset({520, 521, 522, 523, 524, 525, 526, 530})
_PAUSED: Final = 540
_RETRY_SECONDS: Final = 1.0


def unreachable(url: str, error: Exception) -> Refusal:
    """For a request without an answer that could be read: httpx's error, whose cause is aiohttp's, or aiohttp's own."""
    import aiohttp
    import httpx

    host = urlsplit(url).netloc
    cause = error if isinstance(error, aiohttp.ClientError) else error.__cause__
    if isinstance(cause, aiohttp.ClientResponseError):
        return unavailable(_NOT_SUPABASE.format(host=host, what="it speaks no HTTP"))
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        words = f"There is no host {host}: check SUPABASE_URL, and that the Supabase project was not deleted or paused."
        return not_begun(unavailable(words))
    if isinstance(cause, aiohttp.ClientConnectorCertificateError):
        words = f"The certificate of {host} is not trusted here: check SUPABASE_URL and SSL_CERT_FILE."
        return not_begun(unavailable(words))
    if isinstance(cause, aiohttp.ClientConnectorSSLError):
        words = f"{host} speaks no TLS: check SUPABASE_URL, whether it begins with https:// or http://."
        return not_begun(unavailable(words))
    if isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, httpx.PoolTimeout)):
        return not_begun(unavailable(f"{host} cannot be reached: check SUPABASE_URL and the network; try again."))
    # It was sent: whether it was done is not known.
    return Refusal(504, "PGRST000", f"{host} broke the connection off, or did not answer in time.")


def no_address() -> Refusal:
    return unavailable("SUPABASE_URL is no web address: it looks like https://abcd.supabase.co.")


def is_json(response: httpx.Response) -> bool:
    return str(response.headers.get("Content-Type", "")).split(";")[0].strip() in ("application/json", "")


def refusal(url: str, response: httpx.Response) -> Refusal:
    """For an answer that is no result."""
    status, code, hint = response.status_code, *_told(response)
    if code is not None and code.startswith("PGRST"):
        return _of_postgrest(code)
    if code == "42501" and not (hint or "").startswith("KV_"):
        # No refusal of ours: the role lacks a right. 401 is PostgREST's for the role of those without a token.
        return _of_postgrest("PGRST301") if status == 401 else unavailable(_RIGHTS)
    if code is not None and _SQLSTATE.fullmatch(code):
        return unavailable(_MIGRATE) if code in _MISSING else worded(code, hint)
    return _of_the_way(urlsplit(url).netloc, response, code)


def _of_postgrest(code: str) -> Refusal:
    if code in _MISSING:
        return Refusal(404, "PGRST202", _MIGRATE)
    if code == "PGRST303":
        message = "The token has expired, or Supabase's clock or PGRST_JWT_AUD differs from Flow's."
        return Refusal(401, code, message)
    if code in ("PGRST300", "PGRST301", "PGRST302"):
        return Refusal(
            401, "PGRST301",
            "Supabase does not trust Flow's tokens: let it know the public key that `flow kv jwks` prints "
            "(docs/kvstore-supabase.md), or set FLOW_KV_JWT_SECRET to the project's legacy JWT secret.",
        )  # fmt: skip
    if code in ("PGRST000", "PGRST001", "PGRST002", "PGRST003"):
        return unavailable("Supabase's API does not reach its database; try again.")
    return Refusal(502, code, f"Supabase's API refused the request ({code}); its log says why.")


def _of_the_way(host: str, response: httpx.Response, code: str | None) -> Refusal:
    """Answers that do not come from PostgREST."""
    status = response.status_code
    if status == 401:
        return unavailable(
            f"{host} refuses the API key: check SUPABASE_ANON_KEY (sb_publishable_… or the anon JWT) and "
            "SUPABASE_SERVICE_ROLE_KEY (sb_secret_… or the service_role JWT) in the project's settings, under API keys."
        )
    if status == _PAUSED:
        return unavailable(f"The Supabase project {host} is paused: restore it in Supabase's dashboard.")
    if status == 402:
        return unavailable(
            f"The Supabase project {host} is restricted, because its plan is used up: see its dashboard."
        )
    if status == 429:
        after = _seconds(response.headers.get("Retry-After"))
        return Refusal(429, "KV429", f"{host} takes no more requests now.", "KV_RATE", retry_after=after)
    if status in (502, 503, 504) or status in _AWAY:
        # 504 and 524: somebody on the way waited in vain, and the request may have been done.
        late = status in (504, 524)
        return Refusal(504 if late else 503, "PGRST000", f"{host} is not available now (HTTP {status}); try again.")
    if status == 413:
        return Refusal(413, "54000", f"{host} takes no request of that size; send it in parts.", "KV_TOO_LARGE")
    if code is not None and status >= 500:
        return Refusal(500, "XX000", f"{host} failed (HTTP {status}); the project's logs say why.")
    return unavailable(_NOT_SUPABASE.format(host=host, what=f"HTTP {status}"))


def _told(response: httpx.Response) -> tuple[str | None, str | None]:
    """The code and the hint of an error body."""
    try:
        told: Any = json.loads(response.content)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(told, dict):
        return None, None
    code, hint = told.get("code"), told.get("hint")
    return (code if isinstance(code, str) else None), (hint if isinstance(hint, str) else None)


def _seconds(header: str | None) -> float:
    try:
        found = float(header or _RETRY_SECONDS)
    except ValueError:  # a date
        return _RETRY_SECONDS
    return min(found, 60.0) if math.isfinite(found) and found >= 0 else _RETRY_SECONDS
