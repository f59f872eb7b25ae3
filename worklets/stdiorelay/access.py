"""Who may come in, and where: addresses, the token, certificates. Each fault is a RelayError of one sentence."""

from __future__ import annotations

import ipaddress
import secrets
import ssl
from pathlib import Path

from worklets.stdiorelay.errors import RelayError


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, an IPv6 address in brackets; port 0 takes a free one."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise RelayError(f"{text!r} is no address to listen on.", suggestion="Write it like 127.0.0.1:8765.")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, *, tls: bool, insecure: bool) -> None:
    """Raises RelayError where the token and all lines would cross a network readable."""
    if not (tls or insecure or is_loopback(host)):
        raise RelayError(
            f"Without TLS everybody on the way to {host} could read the token.",
            suggestion="Give --tls-cert and --tls-key, or --insecure if something else protects the connection.",
        )


def read_token(path: Path) -> str:
    """The file's content without surrounding space."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    if not token or any(c.isspace() or not c.isprintable() for c in token):
        raise RelayError(
            f"{path} holds no token.", suggestion="Write one word into it: `openssl rand -hex 32` makes one."
        )
    return token


def new_token() -> str:
    return secrets.token_urlsafe(32)


def server_tls(cert: Path, key: Path | None) -> ssl.SSLContext:
    """For listening; without `key` the certificate's file holds both."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in (cert, key):
        _check_readable(path)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (OSError, ValueError) as error:
        suggestion = "Give PEM files that belong together; the key without a passphrase."
        raise RelayError(f"{cert} is no usable certificate: {_reason(error)}.", suggestion=suggestion) from error
    return context


def client_tls(ca: Path | None) -> ssl.SSLContext:
    """For connecting: trusts `ca`, or what the machine trusts."""
    _check_readable(ca)
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        suggestion = "Give a PEM file."
        raise RelayError(f"{ca} holds no usable certificate: {_reason(error)}.", suggestion=suggestion) from error


def _no_password() -> str:
    raise ValueError("the key has a passphrase")  # instead of OpenSSL's question at the terminal


def _check_readable(path: Path | None) -> None:
    if path is not None:
        try:
            path.open("rb").close()
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> RelayError:
    return RelayError(f"{path} cannot be read: {_reason(error)}.", suggestion="Check its name and who may read it.")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not understood"
    return getattr(error, "strerror", None) or str(error)
