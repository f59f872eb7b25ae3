"""Addresses, tokens and certificates: every fault is one sentence that says what to do."""

from pathlib import Path

import pytest
from certificates import make_certificate

from worklets.stdiorelay.access import (
    check_exposure,
    client_tls,
    format_address,
    new_token,
    parse_address,
    read_token,
    server_tls,
)
from worklets.stdiorelay.errors import RelayError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8765", ("127.0.0.1", 8765)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert format_address(*address) == text


@pytest.mark.parametrize("text", ["", "8765", ":8765", "host:", "host:x", "host:65536", "host:-1", "host:٣"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(RelayError, match="no address") as refused:
        parse_address(text)
    assert "127.0.0.1:8765" in refused.value.sentence()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "relay.example.com"])
def test_beyond_this_machine_needs_tls_or_a_word(host: str) -> None:
    with pytest.raises(RelayError, match="token") as refused:
        check_exposure(host, tls=False, insecure=False)
    assert "--insecure" in refused.value.sentence()
    check_exposure(host, tls=True, insecure=False)
    check_exposure(host, tls=False, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_neither(host: str) -> None:
    check_exposure(host, tls=False, insecure=False)


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  secret\n")
    assert read_token(file) == "secret"
    for content in ("", "\n", "two words", "nul\0"):
        file.write_text(content)
        with pytest.raises(RelayError, match="holds no token"):
            read_token(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RelayError, match="cannot be read"):
        read_token(file)
    with pytest.raises(RelayError, match="No such file"):
        read_token(tmp_path / "nowhere")
    assert len({new_token() for _ in range(10)}) == 10
    assert len(new_token()) >= 40


def test_certificates(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    server_tls(cert, key)
    client_tls(cert)
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    server_tls(both, None)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    with pytest.raises(RelayError, match="No such file"):
        server_tls(tmp_path / "nowhere", key)
    with pytest.raises(RelayError, match="No such file"):
        server_tls(cert, tmp_path / "nowhere")
    with pytest.raises(RelayError, match="no usable certificate"):
        server_tls(cert, None)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(RelayError, match="no usable certificate"):
        server_tls(cert, make_certificate(other)[1])
    with pytest.raises(RelayError, match="passphrase"):
        server_tls(*make_certificate(other, passphrase=b"secret"))
    key.write_text("nonsense")
    with pytest.raises(RelayError, match="no usable certificate"):
        client_tls(key)
