"""A second Docker engine, as on another machine: in a network namespace of its own, behind mutual TLS.

Its image is the first engine's, file by file: hard links to layers that nobody writes to, so it is there in a second.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from certificates import make_authority


def lacking() -> str | None:
    """None, or what is missing to start one."""
    if os.geteuid() != 0:
        return "no right to start another Docker engine (root has it)"
    if gone := [name for name in ("dockerd", "ip", "nsenter") if shutil.which(name) is None]:
        return f"no {gone[0]} command"
    info = docker.from_env().info()
    return None if info["Driver"] == "overlay2" else f"the engine keeps its images with {info['Driver']}"


@dataclass
class RemoteEngine:
    """`host` as in DOCKER_HOST, `certificates` as in DOCKER_CERT_PATH, `address` of its machine, `link` to it."""

    host: str
    certificates: Path
    address: str
    link: str

    def client(self) -> Any:
        ca, cert, key = (str(self.certificates / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        tls = docker.tls.TLSConfig(client_cert=(cert, key), ca_cert=ca, verify=True)
        made = docker.DockerClient(base_url=self.host, tls=tls, version="1.41")
        made.api.trust_env = False  # REQUESTS_CA_BUNDLE would take the place of our authority
        return made

    def clear(self) -> None:
        """Removes all containers and volumes; what a program that was killed is removing yet is waited for."""
        api, end = self.client().api, time.monotonic() + 60
        while True:
            left = [(api.remove_container, one["Id"], {"force": True}) for one in api.containers(all=True, quiet=True)]
            left += [(api.remove_volume, one["Name"], {}) for one in api.volumes()["Volumes"] or []]
            if not left:
                return
            assert time.monotonic() < end, left
            for remove, name, options in left:
                with contextlib.suppress(docker.errors.APIError):
                    remove(name, **options)

    def cut(self, *, up: bool) -> None:
        """Unplugs its network cable, or plugs it in."""
        _run("ip", "link", "set", self.link, "up" if up else "down")


@contextlib.contextmanager
def remote_engine(image: str) -> Iterator[RemoteEngine]:
    with contextlib.ExitStack() as stack:
        number = os.getpid() % 16_000
        network = f"10.213.{number // 64}.{number % 64 * 4}".rsplit(".", 1)
        ours, theirs = (f"{network[0]}.{int(network[1]) + one}" for one in (1, 2))
        space, link = f"flow-{number}", f"flw{number}"
        root = Path(tempfile.mkdtemp(prefix="flow-remote-", dir=Path(_info()["DockerRootDir"]) / "tmp"))
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        stack.callback(subprocess.run, ["ip", "netns", "delete", space], check=False)
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "address", "add", f"{ours}/30", "dev", link)
        _run("ip", "link", "set", link, "up")
        inside = ["nsenter", f"--net=/run/netns/{space}"]  # not `ip netns exec`, which hides the control groups
        for words in (f"address add {theirs}/30 dev eth0", "link set eth0 up", "link set lo up"):
            _run(*inside, "ip", *words.split())
        _share_image(image, root / "data")
        certificates = root / "certificates"
        make_authority(certificates, theirs)
        log = stack.enter_context((root / "log").open("wb"))
        process = subprocess.Popen(
            [*inside, "dockerd", "--data-root", root / "data", "--exec-root", root / "exec", "-p", root / "pid",
             "-H", f"tcp://{theirs}:2376", "--tlsverify", "--tlscacert", certificates / "ca.pem",
             "--tlscert", certificates / "server-cert.pem", "--tlskey", certificates / "server-key.pem"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        stack.callback(_end, process)
        engine = RemoteEngine(f"tcp://{theirs}:2376", certificates, theirs, link)
        _await(engine, process, root / "log")
        yield engine
        engine.clear()


def _await(engine: RemoteEngine, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            engine.client().ping()
        except Exception:
            assert process.poll() is None, log.read_text()
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _share_image(image: str, data: Path) -> None:
    """As overlay2 keeps it: layers by their own names, what they are made of by the digests of those below."""
    found, source = docker.from_env().images.get(image), Path(_info()["DockerRootDir"])
    for name in ("overlay2/l", "image/overlay2/imagedb/content/sha256", "image/overlay2/layerdb/sha256"):
        (data / name).mkdir(parents=True)
    chain = ""
    for digest in found.attrs["RootFS"]["Layers"]:
        chain = "sha256:" + hashlib.sha256(f"{chain} {digest}".encode()).hexdigest() if chain else digest
        layer = f"image/overlay2/layerdb/sha256/{chain.removeprefix('sha256:')}"
        shutil.copytree(source / layer, data / layer)
        kept = f"overlay2/{(source / layer / 'cache-id').read_text()}"
        _run("cp", "-al", source / kept, data / kept)
        short = (source / kept / "link").read_text()
        (data / "overlay2/l" / short).symlink_to(os.readlink(source / "overlay2/l" / short))
    content = f"image/overlay2/imagedb/content/sha256/{found.id.removeprefix('sha256:')}"
    shutil.copy2(source / content, data / content)
    known = {image.partition(":")[0]: {image: found.id}}
    (data / "image/overlay2/repositories.json").write_text(json.dumps({"Repositories": known}))


def _info() -> dict[str, Any]:
    info: dict[str, Any] = docker.from_env().info()
    return info


def _run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)
