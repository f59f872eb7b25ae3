import socket
import stat
from pathlib import Path

import pytest

from worklets.sockets import listen, short_path


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """Far more than the 108 bytes that a socket's address can hold."""
    path = tmp_path.joinpath(*["d" * 40] * 6)
    path.mkdir(parents=True)
    return path


def test_a_socket_in_a_deep_directory_is_reached(deep: Path) -> None:
    with listen(deep, "a.sock") as server, socket.socket(socket.AF_UNIX) as client:
        with short_path(deep, "a.sock") as path:
            assert len(path) < 40
            client.connect(path)
        server.setblocking(True)
        accepted, _ = server.accept()
        accepted.close()
        assert stat.S_IMODE((deep / "a.sock").stat().st_mode) == 0o666


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    listen(tmp_path, "a.sock").close()
    with listen(tmp_path, "a.sock"), socket.socket(socket.AF_UNIX) as client, short_path(tmp_path, "a.sock") as path:
        client.connect(path)


def test_a_missing_socket_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), short_path(tmp_path, "a.sock"):
        pass


def test_a_link_to_another_socket_is_not_followed(tmp_path: Path) -> None:
    with listen(tmp_path, "precious.sock"):
        (tmp_path / "a.sock").symlink_to("precious.sock")
        with pytest.raises(OSError, match="symbolic link"), short_path(tmp_path, "a.sock"):
            pass
        listen(tmp_path, "a.sock").close()
        assert not (tmp_path / "a.sock").is_symlink()
        with socket.socket(socket.AF_UNIX) as client, short_path(tmp_path, "precious.sock") as path:
            client.connect(path)


def test_a_plain_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / "a.sock").write_text("")
    with pytest.raises(OSError, match="not a socket"), short_path(tmp_path, "a.sock"):
        pass
