"""A filter of system calls for all that runs in a worklet, in addition to the engine's own.

Engines before 23.0 let containers open sockets of virtual machines (AF_VSOCK), which no network namespace holds, and
engines before 25.0 let them use io_uring. This filter leaves the families of sockets that programs in a worklet can
make use of, and no io_uring; programs find a kernel that does not have the rest. The relay sets it before it starts
Claude: it holds for whatever is started from then on.

The kernel keeps deadly signals from the relay, which is a container's first process (gVisor's of 2022 does not), and
lets whoever has its user take its processor time, its open files or its place in the queues away. So calls that signal
process 1, or do that to it, are refused; those that do it to all processes of a user, too. The number of a thread
names its process as well where limits are set, so a program may only set its own. Signals by a descriptor do not say
whom they are for: programs find a kernel without them, and use kill(2).
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    _Calls: TypeAlias = tuple[int, int, int | None, int, tuple[tuple[int, ...], tuple[int, ...]]]

_SYSCALL = {"x86_64": 317, "aarch64": 277}  # seccomp(2)
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 1 << 2  # linux/seccomp.h
_LOAD, _EQUAL, _AND, _RETURN = 0x20, 0x15, 0x54, 0x06  # linux/bpf_common.h: LD|W|ABS, JMP|JEQ|K, ALU|AND|K, RET|K
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the argument's low half
_X32 = 0x40000000  # marks the numbers of a third way to call an x86-64 kernel
_PIDFD_SEND_SIGNAL, _IO_URING_SETUP = 424, 425
_OF_A_USER = (2, 3)  # PRIO_USER, IOPRIO_WHO_USER: what the first argument of setpriority and ioprio_set may not be
_FAMILIES = (1, 2, 10, 16, 17)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (names of interfaces), AF_PACKET (never let)
_VSOCK = 40

#: By `uname -m`: of the processor and of its 32-bit kind, AUDIT_ARCH_…, `socket`, and `socketcall` where there is one.
#: What `socketcall` is to open stands in memory, where a filter cannot look: 32-bit programs that use it get no socket.
#: Then `prlimit64`; and by the argument that names a process: kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo,
#: pidfd_open, sched_setparam, sched_setscheduler, sched_setaffinity, sched_setattr; setpriority, ioprio_set.
_CALLS = {
    "x86_64": (
        (0xC000003E, 41, None, 302, ((62, 200, 234, 129, 297, 434, 142, 144, 203, 314), (141, 251))),
        (0x40000003, 359, 102, 340, ((37, 238, 270, 178, 335, 434, 154, 156, 241, 351), (97, 289))),
    ),
    "aarch64": (
        (0xC00000B7, 198, None, 261, ((129, 130, 131, 138, 240, 434, 118, 119, 122, 274), (140, 30))),
        (0x40000028, 281, None, 369, ((37, 238, 268, 178, 363, 434, 154, 156, 241, 380), (97, 314))),
    ),
}


class NoFilter(Exception):
    """Why the filter is not set, as the middle of a sentence."""


def restrict() -> None:
    """Sets the filter for this process and its later children. Raises NoFilter."""
    machine = os.uname().machine
    if machine not in _CALLS:
        raise NoFilter(f"there is none for this processor ({machine})")
    number, code = _SYSCALL[machine], program(_CALLS[machine])
    if _set_quickly(number, code):
        return
    refused = _set(number, _SPEC_ALLOW, code)
    if refused == errno.EINVAL:  # a kernel that does not know the flag, such as gVisor's
        refused = _set(number, 0, code)
    if refused == errno.EACCES:
        raise NoFilter("no-new-privileges is off")
    if refused:
        raise NoFilter(f"the kernel refuses it: {os.strerror(refused)}")


def _set_quickly(number: int, code: bytes) -> bool:
    """seccomp(2) by the part of ctypes that is in C: the rest takes 3 ms to import, and Claude waits for it.

    By default the call also takes the processor's speculation from all that is filtered, which makes Claude slower;
    this filter guards no secret of its own process, which is what that is for.
    """
    import _ctypes

    calls: Any = _ctypes
    syscall = calls.dlsym(calls.dlopen(None, 0), "syscall")
    return bool(calls.call_function(syscall, (number, _SET_MODE_FILTER, _SPEC_ALLOW, _described(code))) == 0)


def _set(number: int, flags: int, code: bytes) -> int:
    """The same, where the reason counts: 0, or the number of the error."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.syscall(number, _SET_MODE_FILTER, flags, _described(code)) else 0


def _described(code: bytes) -> bytes:
    """`struct sock_fprog`, with its padding. `code` has to live as long as it is used."""
    at = id(code) + bytes.__basicsize__ - 1  # where CPython keeps the content of `bytes`
    return (len(code) // 8).to_bytes(8, "little") + at.to_bytes(8, "little")


def program(calls: tuple[_Calls, ...]) -> bytes:
    """The filter as classic BPF, 8 bytes an instruction."""
    return b"".join([*(_for_arch(*one) for one in calls), _op(_RETURN, _ALLOW)])


def _for_arch(
    arch: int, socket: int, socketcall: int | None, prlimit: int, by_argument: tuple[tuple[int, ...], tuple[int, ...]]
) -> bytes:
    body = [_op(_LOAD, _NUMBER), _op(_AND, ~_X32 & 0xFFFFFFFF), *_refuse(_IO_URING_SETUP, errno.ENOSYS)]
    body += _refuse(_PIDFD_SEND_SIGNAL, errno.ENOSYS)
    if socketcall is not None:
        body += _refuse(socketcall, errno.EPERM)
    body += _own_limits(prlimit)
    by_first, by_second = by_argument
    for number in by_first:
        body += _spare_the_first(number, 0)
    for number, of_a_user in zip(by_second, _OF_A_USER, strict=True):
        body += _spare_the_first(number, 1, _refuse_first(of_a_user))
    body += [_op(_EQUAL, socket, 1, 0), _op(_RETURN, _ALLOW), _op(_LOAD, _FIRST_ARGUMENT)]
    for at, family in enumerate(_FAMILIES):
        body.append(_op(_EQUAL, family, len(_FAMILIES) - at, 0))  # to the last instruction
    body += [_op(_RETURN, _ERRNO | errno.EAFNOSUPPORT), _op(_RETURN, _ALLOW)]
    return b"".join([_op(_LOAD, _ARCH), _op(_EQUAL, arch, 0, len(body)), *body])


def _refuse(number: int, error: int) -> list[bytes]:
    return [_op(_EQUAL, number, 0, 1), _op(_RETURN, _ERRNO | error)]


def _refuse_first(value: int) -> tuple[bytes, ...]:
    return (_op(_LOAD, _FIRST_ARGUMENT), *_refuse(value, errno.EPERM))


def _spare_the_first(number: int, argument: int, more: tuple[bytes, ...] = ()) -> list[bytes]:
    """The call is refused where it is about process 1, or by the instructions `more`; the argument's low half is what
    the kernel looks at."""
    looked_at = _op(_LOAD, _FIRST_ARGUMENT + 8 * argument)
    return [
        _op(_EQUAL, number, 0, 4 + len(more)), looked_at, *_refuse(1, errno.EPERM), *more, _op(_RETURN, _ALLOW),
    ]  # fmt: skip


def _own_limits(prlimit: int) -> list[bytes]:
    """The call is refused where it sets limits, and not the caller's own: where it names a process and has new ones."""
    pid, new, new_high = _FIRST_ARGUMENT, _FIRST_ARGUMENT + 16, _FIRST_ARGUMENT + 20
    return [
        _op(_EQUAL, prlimit, 0, 8),
        _op(_LOAD, pid), _op(_EQUAL, 0, 5, 0),
        _op(_LOAD, new), _op(_EQUAL, 0, 0, 2),
        _op(_LOAD, new_high), _op(_EQUAL, 0, 1, 0),
        _op(_RETURN, _ERRNO | errno.EPERM), _op(_RETURN, _ALLOW),
    ]  # fmt: skip


def _op(code: int, k: int, if_so: int = 0, if_not: int = 0) -> bytes:
    """One `struct sock_filter`; `if_so` and `if_not` are instructions to leap over."""
    return (code | if_so << 16 | if_not << 24 | k << 32).to_bytes(8, "little")


def holds() -> bool:
    """Whether the filter is set: what it refuses is refused, and the rest works."""
    import socket

    socket.socket(socket.AF_INET).close()
    return (
        _is_refused(lambda: socket.socket(_VSOCK).close(), errno.EAFNOSUPPORT)
        and _is_refused(lambda: os.kill(1, 0), errno.EPERM)
        and _is_refused(lambda: os.setpriority(os.PRIO_USER, 0, 19), errno.EPERM)
    )


def _is_refused(call: Callable[[], None], number: int) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == number
    return False


if __name__ == "__main__":  # `flow doctor` runs this in a container that is made like a worklet
    try:
        restrict()
    except NoFilter as why:
        sys.exit(str(why))
    sys.exit(None if holds() else "it is set, and lets through what it should not")
