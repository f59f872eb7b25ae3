"""The two API keys of a Supabase project, told apart by what they look like.

Today's are `sb_publishable_…` and `sb_secret_…`; older ones are JWTs whose `role` is `anon` or `service_role`. In the
other's place the one would do nothing, and the other would lie where it must not.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Literal

from kvstore.gateway.errors import Refusal, unavailable


def checked_publishable(api_key: str) -> str:
    """The key as it is sent. Raises Refusal for a secret one, and for what no key is."""
    key = _clean(api_key)
    if kind(key) == "secret":
        raise unavailable(
            "SUPABASE_ANON_KEY holds the project's secret key, which passes every policy: set the publishable one "
            "there (sb_publishable_…, or the older anon JWT), and the secret one as SUPABASE_SERVICE_ROLE_KEY."
        )
    return key


def checked_secret(api_key: str) -> str:
    """The key as it is sent. Raises Refusal for a publishable one, and for what no key is."""
    key = _clean(api_key)
    if kind(key) == "publishable":
        raise no_service_role()
    return key


def no_service_role() -> Refusal:
    """For an administrator's call with another key."""
    return unavailable(
        "SUPABASE_SERVICE_ROLE_KEY is not the project's secret key: copy sb_secret_… (or the older service_role JWT) "
        "from its settings, under API keys. The publishable key does not do."
    )


def kind(api_key: str) -> Literal["publishable", "secret"] | None:
    """None for a key that does not show it."""
    if api_key.startswith("sb_publishable_"):
        return "publishable"
    if api_key.startswith("sb_secret_"):
        return "secret"
    match _claim(api_key):
        case "anon":
            return "publishable"
        case "service_role":
            return "secret"
        case _:
            return None


def _claim(token: str) -> object:
    """The claim `role`. The signature is the project's to check."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    except (ValueError, RecursionError):
        return None
    return claims.get("role") if isinstance(claims, dict) else None


def _clean(api_key: str) -> str:
    """Without the end of the line that a key from a file has. Raises Refusal for what no header can hold."""
    key = api_key.strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise unavailable("A Supabase API key is empty, or has characters that no key has: copy the whole of it again.")
    return key
