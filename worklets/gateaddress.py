"""Where the gate of a remote engine is, and how Flow and it know each other: `<share_dir>/remote/`.

    flow.pem     Flow's own certificate and key, made once
    gate.json    the gate's address and certificate, written whenever one was started

The bot and the gateway's process read them; whoever has them not, reaches no worklet.
"""

from __future__ import annotations

import datetime
import json
import os
import secrets
import ssl
from dataclasses import asdict, dataclass
from pathlib import Path

from worklets.errors import WorkletError

_YEARS = datetime.timedelta(days=3650)
_SKEW = datetime.timedelta(days=2)  # that the other machine's clock may be behind


@dataclass(frozen=True, slots=True)
class GateAddress:
    """`certificate` as PEM: the only one that is believed there. `container` is the gate's, by its id."""

    host: str
    port: int
    certificate: str
    container: str
    version: str

    def context(self, share_dir: Path) -> ssl.SSLContext:
        """Raises OSError, ssl.SSLError."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.check_hostname = False  # the certificate itself is known
        made.load_verify_locations(cadata=self.certificate)
        made.load_cert_chain(directory(share_dir) / "flow.pem")
        return made


def directory(share_dir: Path) -> Path:
    return share_dir / "remote"


def known(share_dir: Path) -> GateAddress | None:
    """None: there is no remote engine. Raises OSError, ValueError when what is written there cannot be read."""
    try:
        return GateAddress(**json.loads((directory(share_dir) / "gate.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except TypeError as error:
        raise ValueError("gate.json is not Flow's") from error


def remember(share_dir: Path, address: GateAddress) -> None:
    """Raises OSError."""
    _write(directory(share_dir) / "gate.json", json.dumps(asdict(address)))


def forget(share_dir: Path) -> None:
    """Worklets are on this machine from now on. Raises OSError."""
    (directory(share_dir) / "gate.json").unlink(missing_ok=True)


def own_certificate(share_dir: Path) -> str:
    """Flow's own, as PEM, without its key. Raises WorkletError."""
    path = directory(share_dir) / "flow.pem"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _write(path, "".join(make_identity("flow")))
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise WorkletError(
            f"Flow cannot write {path}: {error.strerror or error}.", suggestion="Check the rights of FLOW_SHARE_DIR."
        ) from error
    return text[: text.index("-----BEGIN PRIVATE")]


def make_identity(name: str) -> tuple[str, str]:
    """A certificate signed by itself, and its key: PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"flow {name}")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named)
        .issuer_name(named)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    unprotected = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unprotected)
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem.decode()


def _write(path: Path, text: str) -> None:
    """Whole or not at all; for Flow's user only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
