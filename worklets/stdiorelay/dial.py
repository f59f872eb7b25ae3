"""One connection to a relay; every way in which it can fail becomes RelayGone (for good) or Unreachable (try again)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from worklets.stdiorelay.access import is_loopback
from worklets.stdiorelay.errors import RelayGone
from worklets.stdiorelay.protocol import MAX_FRAME, NOT_UNDERSTOOD, OCCUPIED, OTHER_EPOCH, PING_SECONDS

_OPEN_SECONDS = 10.0


class Unreachable(Exception):
    """There is no connection now. The message is a sentence for people."""


@asynccontextmanager
async def dial(url: str, token: str, tls: ssl.SSLContext | None) -> AsyncIterator[ClientConnection]:
    """A connection to the relay at `ws://…` or `wss://…`. What goes wrong inside the block is translated too."""
    try:
        async with connect(
            url,
            additional_headers={"Authorization": f"Bearer {token}"},
            user_agent_header=None,
            compression=None,
            max_size=MAX_FRAME,
            ssl=(tls or True) if url.startswith("wss:") else None,
            proxy=None if is_loopback(urlsplit(url).hostname or "") else True,
            open_timeout=_OPEN_SECONDS,
            close_timeout=1,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_SECONDS,
        ) as ws:
            yield ws
    except ConnectionClosed as error:
        raise _closed(error) from error
    except InvalidStatus as error:
        raise _refused(url, error.response.status_code) from error
    except ssl.SSLCertVerificationError as error:
        suggestion = "Name the authority that signed it with --ca."
        message = f"The certificate of {url} is not trusted: {error.verify_message}."
        raise RelayGone(message, "CONNECTION_REFUSED", suggestion) from error
    except InvalidURI as error:
        suggestion = "Write it like ws://127.0.0.1:8765/ or wss://relay.example.com/."
        raise RelayGone(f"{url} is no relay's address.", "CONNECTION_REFUSED", suggestion) from error
    except TimeoutError as error:
        raise Unreachable(f"The relay at {url} does not answer.") from error
    except (OSError, EOFError, InvalidHandshake) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreachable(f"The relay at {url} cannot be reached: {reason}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RelayGone(f"{url} is no relay of Flow's: it says what none says ({error!r}).") from error


def _refused(url: str, status: int) -> Exception:
    if status == 401:
        return RelayGone("The relay refuses the token.", "UNAUTHORIZED")
    if status == 403:
        return RelayGone("The relay refuses this client.", "UNAUTHORIZED", "Connect without an Origin header.")
    if status == 404:
        return RelayGone(f"{url} is no relay's address.", "CONNECTION_REFUSED", "Leave the path out of it.")
    return Unreachable(f"The relay at {url} answers with status {status}.")


def _closed(error: ConnectionClosed) -> Exception:
    match error.rcvd.code if error.rcvd is not None else None:
        case code if code == OTHER_EPOCH:
            return RelayGone("The relay was started anew; what its process knew is lost.")
        case code if code == NOT_UNDERSTOOD:
            return RelayGone(
                "The relay does not understand this client.", "GONE", "Use the same version of Flow on both sides."
            )
        case code if code == OCCUPIED:
            return Unreachable("Another client has the relay.")
    return Unreachable("The connection to the relay was cut.")
