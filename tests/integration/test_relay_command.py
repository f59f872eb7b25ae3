"""`flow relay` and `flow relay connect` from outside: what they say, how they end, how they fail."""

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificates import make_certificate
from cutting import cutting
from relay_programs import ENV, TOKEN, program, relay
from waiting import until

from worklets.stdiorelay.client import RelayClient


async def run(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> tuple[int, bytes, str]:
    """To its end: exit code, stdout, stderr."""
    async with program(*args, env=env) as it:
        assert it.process.stdin is not None
        assert it.process.stdout is not None
        it.process.stdin.write(stdin)
        it.process.stdin.close()
        out = await it.process.stdout.read()
        return await it.ends(), out, it.stderr


async def test_lines_go_there_and_back_through_both_commands() -> None:
    async with relay("--", "cat") as (_, url):
        lines = b"".join(b"line %d\n" % n for n in range(20_000)) + b"\n\xff\x00\nthe last has no newline"
        code, out, _ = await echo(url, lines)
        assert out == lines + b"\n"
        assert code == 0


async def health(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(url.replace("ws", "http", 1) + "health") as answer:
        return dict(await answer.json())


async def echo(url: str, lines: bytes) -> tuple[int, bytes, str]:
    """Everything sent comes back before the input ends."""
    async with program("connect", url) as it:
        assert it.process.stdin is not None
        assert it.process.stdout is not None
        it.process.stdin.write(lines + b"\n")
        out = await it.process.stdout.readexactly(len(lines) + 1)
        it.process.stdin.close()
        return await it.ends(), out, it.stderr


async def test_the_end_of_the_command_is_the_end_of_both_with_its_code() -> None:
    async with relay("--", "sh", "-c", "read x; echo got $x; echo why >&2; exit 7") as (served, url):
        async with program("connect", url) as it:
            assert it.process.stdin is not None
            it.process.stdin.write(b"it\n")
            assert await it.ends() == 7
            assert it.process.stdout is not None
            assert await it.process.stdout.read() == b"got it\n"
            assert "ended with 7; it said last: why" in it.stderr
        assert await served.ends() == 7
        assert "why\n" in served.stderr


async def test_sigterm_ends_the_command_and_then_the_relay() -> None:
    polite = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    async with relay("--", "sh", "-c", polite) as (served, url):
        async with RelayClient(url, TOKEN) as client:
            lines = client.lines()
            assert await anext(lines) == b"up", "from now on it hears the signal"
            served.process.send_signal(signal.SIGTERM)
            assert [line async for line in lines] == [b"bye"]
        assert await served.ends() == 9


async def test_sigterm_of_connect_says_goodbye() -> None:
    async with relay("--", "cat") as (_, url):
        async with program("connect", url) as it:
            assert it.process.stdout is not None
            assert it.process.stdin is not None
            it.process.stdin.write(b"hello\n")
            await it.process.stdout.readline()
            it.process.send_signal(signal.SIGTERM)
            assert await it.ends() == 143
        known = await health(url)
        assert (known["readers"], known["readers_away"]) == (0, 0)


async def test_a_token_is_made_and_printed_where_none_is_given(tmp_path: Path) -> None:
    env = {name: value for name, value in ENV.items() if name != "FLOW_RELAY_TOKEN"}
    async with program("--listen", "127.0.0.1:0", "--", "cat", env=env) as served:
        url = await served.finds(r"listens on (\S+)")
        token = await served.finds(r"made for this run: (\S+)")
        (tmp_path / "token").write_text(token + "\n")
        code, _, said = await run("connect", url, "--token-file", str(tmp_path / "token"), env=env)
        assert (code, said) == (0, "")
        code, _, said = await run("connect", url, env=env)
        assert (code, "There is no token." in said) == (1, True)
        code, _, said = await run("connect", url)
        assert (code, "refuses the token" in said) == (1, True)
    assert served.stderr.count(token) == 1


async def test_a_token_that_was_given_is_not_printed() -> None:
    async with relay("--", sys.executable, "-c", "import os; print('FLOW_RELAY_TOKEN' in os.environ)") as (served, url):
        async with RelayClient(url, TOKEN) as client:
            assert [line async for line in client.lines()] == [b"False"]
        await served.ends()
        assert TOKEN not in served.stderr


async def test_tls_from_files(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    async with relay("--tls-cert", str(cert), "--tls-key", str(key), "--", "cat") as (_, url):
        assert url.startswith("wss://")
        async with program("connect", url, "--ca", str(cert)) as it:
            assert it.process.stdin is not None
            assert it.process.stdout is not None
            it.process.stdin.write(b"hello\n")
            assert await it.process.stdout.readline() == b"hello\n"
        code, _, said = await run("connect", url)
        assert code == 1
        assert "is not trusted" in said
        assert "--ca" in said


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (["--listen", "127.0.0.1:0", "--", "no-such-command"], 127, "no-such-command could not be started"),
        (["--listen", "127.0.0.1:0", "--", "/etc/hostname"], 126, "/etc/hostname could not be started"),
        (["--listen", "nonsense", "--", "cat"], 1, "no address"),
        (["--listen", "0.0.0.0:0", "--", "cat"], 1, "--insecure"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "/nowhere.pem", "--", "cat"], 1, "/nowhere.pem cannot be read"),
        (["--listen", "127.0.0.1:0", "--token-file", "/nowhere", "--", "cat"], 1, "/nowhere cannot be read"),
        (["--listen", "192.0.2.1:0", "--insecure", "--", "cat"], 1, "Nobody can listen on 192.0.2.1:0"),
        (["--listen", "127.0.0.1:0"], 2, "COMMAND"),
        (["--", "cat"], 2, "--listen"),
        (["--listen", "127.0.0.1:0", "--journal-limit", "lots", "--", "cat"], 2, "not a size"),
        (["connect", "nonsense"], 1, "no relay's address"),
        (["connect", "ws://127.0.0.1:9/", "--patience", "10ms"], 1, "cannot be reached"),
    ],
)
async def test_every_mistake_is_told_in_a_sentence(args: list[str], code: int, sentence: str) -> None:
    got, _, said = await run(*args)
    assert sentence in said
    assert got == code
    assert "Traceback" not in said


async def test_a_taken_port_is_told_and_the_command_not_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, said = await run("--listen", where, "--", "touch", str(tmp_path / "started"))
    assert code == 1
    assert f"Somebody listens on {where} already." in said
    assert not (tmp_path / "started").exists()


async def test_connect_carries_on_after_a_cut_and_fails_fast_where_that_is_wanted() -> None:
    async with (
        relay("--", "cat") as (_, url),
        cutting(url) as proxy,
        program("connect", proxy.url, "--fail-fast") as it,
    ):
        stdin, stdout = it.process.stdin, it.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(b"before\n")
        assert await stdout.readline() == b"before\n"
        proxy.open = False
        proxy.cut()
        await it.finds("(Trying again)")
        stdin.write(b'{"jsonrpc": "2.0", "id": 5, "method": "tools/list"}\n')
        answer = json.loads(await asyncio.wait_for(stdout.readline(), 60))
        assert answer["id"] == 5
        assert answer["error"]["data"]["success"] is False
        assert answer["error"]["data"]["code"] == "CONNECTION_REFUSED"
        assert answer["error"]["data"]["details"]["suggestion"]
        stdin.write(b"meanwhile\n")
        await until(lambda: proxy.refused > 1)
        proxy.open = True
        assert await asyncio.wait_for(stdout.readline(), 60) == b"meanwhile\n"


async def test_connect_reads_from_a_file_and_ends_when_nobody_reads_it(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from a file\n")
    async with relay("--", "cat") as (_, url):
        flow = f"{sys.executable} -m bot relay connect {url}"
        shell = f"{flow} --linger 30s < {tmp_path / 'in'} | head -n 1"
        process = await asyncio.create_subprocess_shell(shell, stdout=asyncio.subprocess.PIPE, env=ENV)
        async with RelayClient(url, TOKEN) as other:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"from a file\n"
            # The next line finds nobody at the other end of the pipe.
            while process.returncode is None:
                await other.send("more")
                await asyncio.wait([asyncio.ensure_future(process.wait())], timeout=0.1)
        assert process.returncode == 0
