"""Heads of requests and answers, parsed strictly."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worklets.egresshttp import BadRequest, BadResponse, Framing, chunk_size, parse_request, parse_response


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_the_address_line_wins_over_a_forged_host() -> None:
    request = parse_request(head("GET http://Example.org:8080/a?b HTTP/1.1", "Host: evil.test", "host: worse.test"))
    assert (request.host, request.port) == ("example.org", 8080)
    assert request.head() == head("GET /a?b HTTP/1.1", "Host: example.org:8080", "Connection: close")


def test_what_is_meant_for_the_proxy_is_not_passed_on() -> None:
    request = parse_request(
        head(
            "POST http://example.org HTTP/1.1",
            "Proxy-Authorization: Basic c2VjcmV0",
            "Connection: keep-alive, X-Mine, content-length",
            "Keep-Alive: 5",
            "X-Mine: 1",
            "TE: trailers",
            "Upgrade: h2c",
            "Accept: */*",
            "Content-Length: 3",
        )
    )
    assert request.head() == head(
        "POST / HTTP/1.1", "Host: example.org", "Accept: */*", "Content-Length: 3", "Connection: close"
    )


def test_a_query_without_a_path_gets_one() -> None:
    assert parse_request(head("GET http://example.org?x=1 HTTP/1.1")).target == b"/?x=1"


def test_connect_names_host_and_port() -> None:
    request = parse_request(head("CONNECT Example.org.:443 HTTP/1.1", "Host: evil.test:443"))
    assert request.tunnels
    assert (request.host, request.port) == ("example.org", 443)


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT 127.0.0.1:443 HTTP/1.1",
        "CONNECT [::1]:443 HTTP/1.1",
        "CONNECT localhost:443 HTTP/1.1",
        "GET http://169.254.169.254/latest/meta-data HTTP/1.1",
        "GET http://[::ffff:10.0.0.1]/ HTTP/1.1",
        "GET http://2130706433/ HTTP/1.1",
    ],
)
def test_addresses_are_refused_in_words(line: str) -> None:
    with pytest.raises(BadRequest, match="Flow's proxy does not reach that") as refused:
        parse_request(head(line))
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/1.1", "Host: example.org"],
        ["GET http://example.org/ HTTP/2"],
        ["GET  http://example.org/ HTTP/1.1"],
        ["GET http://example.org/ HTTP/1.1 "],
        ["GET http://example.org/a b HTTP/1.1"],
        ["GET http://user:word@example.org/ HTTP/1.1"],
        ["GET http://example.org@evil.test/ HTTP/1.1"],
        ["GET http://example.org#@evil.test/ HTTP/1.1"],
        ["GET http://example.org\\@evil.test/ HTTP/1.1"],
        ["GET http://example.org:port/ HTTP/1.1"],
        ["GET http://example.org:0/ HTTP/1.1"],
        ["GET https://example.org/ HTTP/1.1"],
        ["GET ftp://example.org/ HTTP/1.1"],
        ["CONNECT example.org HTTP/1.1"],
        ["CONNECT example.org:99999 HTTP/1.1"],
        ["CONNECT http://example.org:443 HTTP/1.1"],
        ["CONNECT example.org:443 HTTP/1.1", "Content-Length: 5"],
        ["POST http://example.org/ HTTP/1.1", "Content-Length: 5", "Content-Length: 5"],
        ["POST http://example.org/ HTTP/1.1", "Content-Length: 5, 5"],
        ["POST http://example.org/ HTTP/1.1", "Content-Length: +5"],
        ["POST http://example.org/ HTTP/1.1", "Content-Length: 0x5"],
        ["POST http://example.org/ HTTP/1.1", "Content-Length:"],
        ["POST http://example.org/ HTTP/1.1", "Content-Length: 5", "Transfer-Encoding: chunked"],
        ["POST http://example.org/ HTTP/1.1", "Transfer-Encoding: gzip, chunked"],
        ["POST http://example.org/ HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["POST http://example.org/ HTTP/1.1", "Transfer-Encoding: \x0bchunked"],
        ["POST http://example.org/ HTTP/1.1", "Transfer-Encoding : chunked"],
        ["POST http://example.org/ HTTP/1.1", "X: 1\nTransfer-Encoding: chunked"],
        ["POST http://example.org/ HTTP/1.1", "X: 1\rTransfer-Encoding: chunked"],
        ["POST http://example.org/ HTTP/1.1", "X: 1", " folded"],
        ["POST http://example.org/ HTTP/1.1", "X: \0"],
        ["POST http://example.org/ HTTP/1.1", "no colon"],
        [""],
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(lines: list[str]) -> None:
    with pytest.raises(BadRequest, match=r"\.$"):
        parse_request(head(*lines))


def test_a_body_is_framed_anew() -> None:
    request = parse_request(head("PUT http://example.org/ HTTP/1.1", "transfer-encoding: Chunked"))
    assert request.framing == Framing(0, chunked=True)
    assert request.head() == head(
        "PUT / HTTP/1.1", "Host: example.org", "Transfer-Encoding: chunked", "Connection: close"
    )
    assert b"Content-Length: 0" in parse_request(head("POST http://example.org/ HTTP/1.1")).head()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_name_a_host(noise: bytes) -> None:
    for data in (noise, b"GET http://example.org/" + noise, b"CONNECT " + noise + b" HTTP/1.1\r\n\r\n"):
        try:
            request = parse_request(data)
        except BadRequest:
            continue
        assert request.host
        assert b"\n" not in request.target
        assert request.head().count(b"\r\n\r\n") == 1
        assert request.head().count(b"\nHost: ") == 1


def test_an_answer_loses_what_was_for_one_connection_only() -> None:
    status, out = parse_response(
        head("HTTP/1.1 200 OK", "Connection: keep-alive, X-Hop", "X-Hop: 1", "Transfer-Encoding: chunked", "ETag: x")
    )
    assert status == 200
    assert out == head("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", "ETag: x", "Connection: close")
    assert parse_response(head("HTTP/1.1 100 Continue")) == (100, head("HTTP/1.1 100 Continue"))


@pytest.mark.parametrize("first", ["SSH-2.0-x", "HTTP/1.1 999 No", "HTTP/1.1 20 OK", "HTTP/2 200"])
def test_what_is_no_answer_is_not_passed_on(first: str) -> None:
    with pytest.raises(BadResponse):
        parse_response(head(first))


def test_sizes_of_chunks() -> None:
    assert chunk_size(b"1a;name=value") == 26
    for wrong in (b"", b"-1", b"0x1", b"1_0", b" 1", b"f" * 13, b"1\n"):
        with pytest.raises(BadRequest):
            chunk_size(wrong)


@pytest.mark.parametrize("value", [" " * 60_000, "\t " * 30_000, "x " * 30_000, " x" * 30_000])
def test_a_hostile_head_costs_no_more_time_than_its_length(value: str) -> None:
    """Read with backtracking, each of these would hold up everything that the process does, for hours."""
    began = time.process_time()
    with pytest.raises(BadRequest):
        parse_request(head("GET http://example.org/ HTTP/1.1", f"X:{value}\0"))
    assert parse_request(head("GET http://example.org/ HTTP/1.1", f"X:{value}")).fields == (
        (b"X", value.strip().encode()),
    )
    assert time.process_time() - began < 5


def test_a_name_beyond_all_length_is_none() -> None:
    with pytest.raises(BadRequest, match="not the name of a host"):
        parse_request(f"CONNECT {'ü.' * 15_000}de:443 HTTP/1.1\r\n\r\n".encode())
