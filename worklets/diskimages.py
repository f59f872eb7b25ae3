"""Volumes of a fixed size: an ext4 file system in a file, `<share_dir>/worklets/<name>/volume.img`.

The file is sparse: it takes what is kept in it, and what is deleted is given back. The kernel holds a worklet to its
size, whatever runs in it. An engine mounts such a volume by itself, through a link to a loop device that Flow attaches
before each start; the device goes when the volume is unmounted (LO_FLAGS_AUTOCLEAR), or with Flow when it never was.
The link goes as soon as the volume is mounted: the device's number may be another image's later, and engines mount
volumes of stopped containers too, to put files into them.
Only root on the engine's own machine can make one. Sources: loop(4), linux/loop.h, mke2fs(8), mount(8).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from config.units import format_size
from worklets.errors import WorkletStartFailed
from worklets.room import RESERVE, kept_free
from worklets.rundir import AGENT_UID, worklet_dir

#: What the engine's `local` driver gives to mount(2): no background work on fresh images; deleted blocks go back.
_MOUNT = "noatime,nosuid,nodev,discard,noinit_itable"
_IMAGE, _LINK = "volume.img", "volume.dev"
_DIRECTORIES = ("home", "workspace")  # as the worklets' container image has them
_PROGRAMS = ("mkfs.ext4", "e2fsck", "resize2fs", "debugfs")
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_CONTROL = "/dev/loop-control"
_GET_FREE, _SET_FD, _CLEAR_FD, _SET_STATUS, _GET_STATUS = 0x4C82, 0x4C00, 0x4C01, 0x4C04, 0x4C05
_CONFIGURE = 0x4C0A  # both in one step, from Linux 5.8 on
_AUTOCLEAR = 4
_STATUS = struct.Struct("@5Q4I64s64s32s2Q")  # struct loop_info64: device, inode, …; the flags are the ninth
_CONFIG = struct.Struct("@2I232s64x")  # struct loop_config: the file, the size of a block, its status
_ROUNDING = 16 << 20  # bytes: file systems leave out a last group that would hold little
_TRIES = 20  # for a free device: another may take it between two calls
_PATIENCE = 60.0  # seconds for e2fsprogs


def obstacle(engine_host: str, engine_name: str) -> str | None:
    """Why no images can be made here, as the end of a sentence; None: they can. `engine_name`: of its machine."""
    if os.geteuid() != 0:
        return "Flow does not run as root"
    if not engine_host.startswith("unix://") or engine_name != socket.gethostname():
        return "the Docker engine is on another machine"
    if not Path(_CONTROL).exists():
        return "the kernel has no loop devices here"
    missing = [name for name in _PROGRAMS if _program(name) is None]
    return f"{missing[0]} is not installed" if missing else None


class DiskImages:
    """Blocks: to be called in a thread. `limit`: bytes that a worklet may keep; an older image with less grows.

    `reserve`: bytes of the share directory's disk that stay free when all images that are attached are full.
    """

    def __init__(self, share_dir: Path, limit: int, reserve: int = RESERVE) -> None:
        self._share_dir, self._limit, self._reserve = share_dir.resolve(), limit, reserve

    @property
    def floor(self) -> int:
        """Bytes of the share directory's disk below which what runs must not grow. Raises OSError."""
        return kept_free(os.statvfs(self._share_dir), self._reserve)

    @property
    def size(self) -> int:
        """Of an image: the file system itself takes some, and people are told before nothing more can be written."""
        return self._limit + self._limit // 16 + (64 << 20)

    def options(self, name: str) -> dict[str, str]:
        """For the engine's `local` volume driver."""
        return {"type": "ext4", "device": str(self._link(name)), "o": _MOUNT}

    def make(self, name: str) -> None:
        """A new, empty one, in place of what stands there. Raises WorkletStartFailed."""
        image = self._image(name)
        try:
            image.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(image.parent):
                image.unlink(missing_ok=True)
                _make(image, self.size)
        except OSError as error:
            raise _failed(error) from error

    def trouble(self) -> str | None:
        """Why none can be attached, found out with a small one; None: they can. Takes some 50 ms."""
        try:
            with tempfile.TemporaryDirectory(prefix=".disk-", dir=self._share_dir) as directory:
                image = Path(directory).resolve() / _IMAGE
                _make(image, 4 << 20)
                os.close(_device(image, 0)[0])
        except OSError as error:
            return f"loop devices cannot be attached ({error.strerror or error})"
        return None

    @contextlib.contextmanager
    def attached(self, name: str) -> Iterator[None]:
        """Within, the engine can mount the image, and only this one: the device is held. Raises WorkletStartFailed.

        One at a time for each image, in all processes: whoever is second waits, and must not be inside the first.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_locked(self._image(name).parent))
                device, number = _device(self._image(name), self.size)
                stack.callback(os.close, device)
                self._require_room()
                draft = self._link(name).with_name(f".{_LINK}")
                draft.unlink(missing_ok=True)
                draft.symlink_to(f"/dev/loop{number}")
                stack.callback(self._link(name).unlink, missing_ok=True)
                draft.replace(self._link(name))
            except OSError as error:
                raise _failed(error) from error
            yield

    def _require_room(self) -> None:
        """A full disk fails in the kernel, at writes that programs took for done, in all images at once: what is
        promised to those that are attached has to be there. This one is by now, so of two none overlooks the other.
        """
        promised = 0
        for image in _attached():
            with contextlib.suppress(OSError):
                if image.name == _IMAGE and image.is_relative_to(self._share_dir / "worklets"):
                    told = image.stat()
                    promised += max(0, told.st_size - told.st_blocks * 512)
        disk = os.statvfs(self._share_dir)
        missing = promised + self.floor - disk.f_bavail * disk.f_frsize
        if missing > 0:
            raise WorkletStartFailed(
                f"The disk of {self._share_dir} has not the room that the disks of all running worklets may take: "
                f"{format_size(missing)} are missing.",
                suggestion="Make room there, or have fewer threads run at a time, then write again; or lower "
                "FLOW_WORKLET_DISK or set FLOW_WORKLET_DISK_IMAGE=off for new threads.",
            )

    def _image(self, name: str) -> Path:
        return worklet_dir(self._share_dir, name) / _IMAGE

    def _link(self, name: str) -> Path:
        return worklet_dir(self._share_dir, name) / _LINK


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(image: Path, size: int) -> None:
    with image.open("xb") as file:
        image.chmod(0o600)
        file.truncate(size)
    options = f"lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner={AGENT_UID}:{AGENT_UID}"
    with tempfile.TemporaryDirectory(prefix=".seed-", dir=image.parent) as seed:
        for name in _DIRECTORIES:
            (Path(seed) / name).mkdir(mode=0o755)
            os.chown(Path(seed) / name, AGENT_UID, AGENT_UID)
        _run("mkfs.ext4", "-q", "-m", "0", "-E", options, "-d", seed, image)
    _run("debugfs", "-w", "-R", "rmdir lost+found", image)  # root's: the agent could not copy its own volume


def _device(image: Path, size: int) -> tuple[int, int]:
    """An open descriptor of the image's loop device, and its number. One that is smaller than that grows."""
    if (found := _attached_to(image)) is not None:
        return found
    if not _is_clean(image):
        _run("e2fsck", "-p", image)
    if _size(image) < size - _ROUNDING:  # the administrator allows more now; or growing was cut off
        os.truncate(image, max(size, image.stat().st_size))
        _run("e2fsck", "-f", "-p", image)
        _run("resize2fs", image)
    with image.open("r+b") as backing, open(_CONTROL, "rb") as control:  # noqa: PTH123
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _GET_FREE)
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)
            try:
                _configure(device, backing.fileno(), _status(image))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
                continue
            return device, number
    raise OSError(None, "no loop device is free")


def _configure(device: int, backing: int, status: bytes) -> None:
    """Raises OSError; EBUSY: another was quicker."""
    try:
        fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(backing, 0, status))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTTY):
            raise
    else:
        return
    fcntl.ioctl(device, _SET_FD, backing)
    try:
        fcntl.ioctl(device, _SET_STATUS, status)
    except OSError:
        fcntl.ioctl(device, _CLEAR_FD)
        raise


def _size(image: Path) -> int:
    """Of the file system, in bytes. ext4(5), `struct ext4_super_block`: blocks at 0x4, and at 0x150 with the feature
    "64bit", bit 0x80 at 0x60; the logarithm of their size at 0x18."""
    with image.open("rb") as file:
        file.seek(1024)
        block = file.read(1024)
    low, log, features, high = (int.from_bytes(block[at : at + 4], "little") for at in (0x4, 0x18, 0x60, 0x150))
    return low + (high << 32 if features & 0x80 else 0) << (10 + log)


def _is_clean(image: Path) -> bool:
    """As the kernel left it; what stands in its journal the kernel writes back itself. ext4(5), `struct
    ext4_super_block`: its magic number at 0x38, then its state, of which bit 1 tells of errors."""
    with image.open("rb") as file:
        file.seek(1024 + 0x38)
        magic, state = struct.unpack("<HH", file.read(4))
    return bool(magic == 0xEF53 and state & 1 and not state & 2)


def _attached() -> Iterator[Path]:
    """The files of all loop devices, each as often as it has one."""
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            yield Path(path.read_text().rstrip("\n"))


def _attached_to(image: Path) -> tuple[int, int] | None:
    """The device that has the image already: of a worklet that runs, or is just ending."""
    mine = image.stat()
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if path.read_text().rstrip("\n") != str(image):
                continue
            number = int(path.parents[1].name.removeprefix("loop"))
            device = os.open(f"/dev/loop{number}", os.O_RDWR | os.O_CLOEXEC)  # from here on it stays what it is
            with contextlib.suppress(OSError):
                told = _STATUS.unpack(fcntl.ioctl(device, _GET_STATUS, bytes(_STATUS.size)))
                if told[1] == mine.st_ino:
                    if not told[8] & _AUTOCLEAR:  # whoever attached it was killed between two calls
                        fcntl.ioctl(device, _SET_STATUS, _status(image))
                    return device, number
            os.close(device)
    return None


def _status(image: Path) -> bytes:
    name = os.fsencode(image)[-63:]
    return _STATUS.pack(0, 0, 0, 0, 0, 0, 0, 0, _AUTOCLEAR, name, b"", b"", 0, 0)


def _program(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _run(program: str, *arguments: str | Path) -> None:
    """Raises OSError with what it said. e2fsck's 1 and 2: it has mended something."""
    try:
        done = subprocess.run(
            [_program(program) or program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise OSError(None, f"{program} took longer than {_PATIENCE:.0f} s") from late
    if done.returncode > (3 if program == "e2fsck" else 0):
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        raise OSError(None, f"{program}: {said[-1]}")


def _failed(error: OSError) -> WorkletStartFailed:
    return WorkletStartFailed(
        f"The worklet's disk cannot be set up: {error.strerror or error}.",
        suggestion="Check the disk and the loop devices, then write again; or set FLOW_WORKLET_DISK_IMAGE=off for new "
        "threads.",
    )
