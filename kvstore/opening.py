"""What a store needs to be opened: arguments first, then the environment of the worklet."""

from __future__ import annotations

import os
import re
from typing import Final

from kvstore.calls import Address, Caller
from kvstore.connections import Pool
from kvstore.errors import KVError, invalid
from kvstore.tokens import AskedToken, FixedToken, NoToken, Token, TokenFile, TokenSource

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_URL: Final = re.compile(r"(?i)(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?(/[!-~]*)?")


class Opened:
    """One store: its caller, and pools of connections to it."""

    def __init__(
        self,
        worklet_id: str | None,
        url: str | None,
        token: Token | None,
        token_file: str | os.PathLike[str] | None,
        api_key: str | None,
        timeout: float,
    ) -> None:
        self.address = _address(url or os.environ.get("FLOW_KV_URL", ""))
        if worklet_id is None:
            worklet_id = os.environ.get("FLOW_WORKLET_ID") or None
        if worklet_id is not None and not (isinstance(worklet_id, str) and _UUID.fullmatch(worklet_id)):
            raise invalid("A worklet's id must be a UUID.")
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < 86_400:
            raise invalid("A timeout must be a number of seconds over 0.")
        api_key = api_key or os.environ.get("FLOW_KV_APIKEY") or None
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise invalid("The API key must be one line of ASCII text.")
        source = _source(token, token_file)
        self.caller = Caller(self.address, source, api_key, worklet_id, float(timeout))
        self._secure = None
        if self.address.scheme == "https":
            import ssl

            self._secure = ssl.create_default_context()

    def pool(self) -> Pool:
        return Pool(self.address.host, self.address.port, self._secure)


def _address(url: str) -> Address:
    if not url:
        raise KVError(
            "There is no address of a store: FLOW_KV_URL is not set (Flow sets it in every worklet); pass url=.",
            code="KV_NO_ADDRESS",
        )
    found = _URL.fullmatch(url)
    if found is None:  # a user's name and password in it are no match either, and are not shown
        raise invalid("The store's URL must look like http://host:port or https://project.supabase.co.")
    scheme, host, port, path = found[1].lower(), found[2].strip("[]"), found[3], (found[4] or "").rstrip("/")
    if "?" in path or "#" in path:
        raise invalid("The store's URL may have neither ? nor #.")
    number = int(port) if port else {"http": 80, "https": 443}[scheme]
    if not 0 < number < 65_536:
        raise invalid("The port of the store's URL must be between 1 and 65535.")
    return Address(scheme, host, number, path.removesuffix("/rest/v1"))


def _source(token: Token | None, token_file: str | os.PathLike[str] | None) -> TokenSource:
    if token is not None:
        return AskedToken(token) if callable(token) else FixedToken(token)
    if path := token_file or os.environ.get("FLOW_KV_TOKEN_FILE"):
        return TokenFile(os.fspath(path))
    return NoToken()
