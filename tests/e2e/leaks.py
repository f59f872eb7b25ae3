"""Looks for secrets in all that a worklet's container is made of, and says where each was found. Needs root."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Leaks:
    """`secrets`: values by what they are. Each is looked for as it is and in base64, wherever in a text that stood."""

    container: str
    image: str
    run_dir: Path
    secrets: Mapping[str, str]

    def found(self) -> dict[str, set[str]]:
        """The names of the secrets that are in each place."""
        return {
            "environment and arguments of processes": self._in(self._processes()),
            "files": self._in_files(self._tops()),
            "configuration": self._in([_docker("inspect", self.container)]),
            "log": self._in([_docker("logs", self.container)]),
            "run directory and journal": self._in(_contents(self.run_dir)),
            "image's configuration": self._in([_docker("inspect", self.image)]),
            "image's history": self._in([_docker("history", "--no-trunc", self.image)]),
            "image's layers": self._in_layers(),
        }

    def _processes(self) -> Iterator[bytes]:
        for pid in self._pids():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                yield (pid / "environ").read_bytes() + (pid / "cmdline").read_bytes()

    def _pids(self) -> list[Path]:
        """The directories in this machine's /proc, which root may read whatever its processes did to hide."""
        lines = _docker("top", self.container, "-eo", "pid").decode().split()[1:]
        assert lines
        return [Path("/proc") / pid for pid in lines]

    def _tops(self) -> list[str]:
        """What is at the top of the file system as the worklet sees it, volumes and tmpfs too."""
        return [str(one) for one in (self._pids()[0] / "root").iterdir() if one.name not in ("proc", "sys")]

    def _in_files(self, tops: Iterable[str]) -> set[str]:
        """Patterns go in by stdin: as arguments they would be found in the list of processes."""
        grep = ["grep", "-rhoaF", "-f", "-", *tops]
        done = subprocess.run(grep, input="\n".join(self._forms()).encode(), capture_output=True, timeout=300)
        assert done.returncode in (0, 1, 2), done.stderr
        return self._in([done.stdout])

    def _in_layers(self) -> set[str]:
        """With what a later layer removed or replaced."""
        told = json.loads(_docker("image", "inspect", self.image))[0]["GraphDriver"]
        places = [told["Data"].get("UpperDir", ""), *told["Data"].get("LowerDir", "").split(":")]
        layers = [place for place in places if place]
        if layers and all(os.access(place, os.R_OK | os.X_OK) for place in layers):
            return self._in_files(layers)
        return self._in(_pieces(["docker", "save", self.image]))  # a minute, where the engine's directory is not ours

    def _in(self, contents: Iterable[bytes]) -> set[str]:
        forms = self._forms()
        longest = max(map(len, forms))
        names: set[str] = set()
        end = b""
        for content in contents:
            text = end + content
            names |= {name for form, name in forms.items() if form.encode() in text}
            end = text[-longest:]
        return names

    def _forms(self) -> dict[str, str]:
        return {form: name for name, value in self.secrets.items() for form in (value, *_in_base64(value))}


def _in_base64(value: str) -> list[str]:
    """What every text in base64 that holds the value holds: without the ends, which depend on what stands beside it."""
    found = []
    for before in range(3):
        data = b" " * before + value.encode()
        whole = base64.b64encode(data).decode()
        found.append(whole[(0, 2, 3)[before] : len(data) * 8 // 6])
    return found


def _docker(*words: str) -> bytes:
    done = subprocess.run(["docker", *words], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def _contents(directory: Path) -> Iterator[bytes]:
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # its worklet goes on: what lies there comes and goes
            if path.is_file():
                yield path.read_bytes()


def _pieces(command: list[str]) -> Iterator[bytes]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        while piece := process.stdout.read(_PIECE):
            yield piece
