"""The system calls that a session does not offer, as a seccomp filter (seccomp(2)): BPF for every ABI of the CPU.

    install(strict=True)

qemu-user makes the calls of emulated programs by those of the host, so the host's numbers are all that count. A refused
call fails as it does in podman and Docker, with EPERM or ENOSYS, so that programs fall back.
"""

from __future__ import annotations

import errno
import os
import struct
import sys

from crossroot import linux
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_Table = dict[str, tuple[int | None, ...]]

# Columns: x86_64, x86, arm64 and everything newer, arm, ppc64, s390x. Numbers from Linux' syscall.tbl files.
# Refused with ENOSYS, as if the kernel had none:
MISSING: _Table = {
    "add_key": (248, 286, 217, 309, 269, 278),
    "request_key": (249, 287, 218, 310, 270, 279),
    "keyctl": (250, 288, 219, 311, 271, 280),
    "io_uring_setup": (425, 425, 425, 425, 425, 425),
    "io_uring_enter": (426, 426, 426, 426, 426, 426),
    "io_uring_register": (427, 427, 427, 427, 427, 427),
}
# Refused with EPERM:
FORBIDDEN: _Table = {
    "bpf": (321, 357, 280, 386, 361, 351),
    "userfaultfd": (323, 374, 282, 388, 364, 355),
    "perf_event_open": (298, 336, 241, 364, 319, 331),
    "kexec_load": (246, 283, 104, 347, 268, 277),
    "kexec_file_load": (320, None, 294, 401, 382, 381),
    "init_module": (175, 128, 105, 128, 128, 128),
    "finit_module": (313, 350, 273, 379, 353, 344),
    "delete_module": (176, 129, 106, 129, 129, 129),
    "swapon": (167, 87, 224, 87, 87, 87),
    "swapoff": (168, 115, 225, 115, 115, 115),
    "acct": (163, 51, 89, 51, 51, 51),
    "quotactl": (179, 131, 60, 131, 131, 131),
    "quotactl_fd": (443, 443, 443, 443, 443, 443),
    "syslog": (103, 103, 116, 103, 103, 103),
    "iopl": (172, 110, None, None, 110, None),
    "ioperm": (173, 101, None, None, 101, None),
    "vm86old": (None, 113, None, None, None, None),
    "vm86": (None, 166, None, None, 113, None),
    "lookup_dcookie": (212, 253, 18, 249, 235, 110),
    "settimeofday": (164, 79, 170, 79, 79, 79),
    "stime": (None, 25, None, None, 25, None),
    "clock_settime": (227, 264, 112, 262, 245, 259),
    "clock_settime64": (None, 404, None, 404, None, None),
    "open_by_handle_at": (304, 342, 265, 371, 346, 336),
}
# Looked at more closely, or needed by this module:
OTHERS: _Table = {
    "ioctl": (16, 54, 29, 54, 54, 54),
    "clone": (56, 120, 220, 120, 120, 120),
    "clone3": (435, 435, 435, 435, 435, 435),
    "unshare": (272, 310, 97, 337, 282, 303),
    "seccomp": (317, 354, 277, 383, 358, 348),
}
NEWEST = 469  # file_setattr of Linux 6.17; what comes later is refused with ENOSYS until it was looked at
_X32 = 0x40000000  # x86_64's third ABI marks its numbers so
_ARM_PRIVATE = 0xF0000  # arm's own calls, such as cacheflush

_TIOCSTI = 0x5412  # types into a terminal
_TIOCLINUX = 0x541C  # pastes into a virtual console

_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_FROM, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


class Abi(Record):
    """A way to make system calls. audit: its AUDIT_ARCH_*. column: in the tables. clone: the argument with flags."""

    name: str
    audit: int
    column: int
    clone: int = 0


_X86_64 = Abi("x86_64", 0xC000003E, 0)
_X86 = Abi("x86", 0x40000003, 1)
_AARCH64 = Abi("aarch64", 0xC00000B7, 2)
_ARM = Abi("arm", 0x40000028, 3)

# By the machine that uname(2) tells: the ABIs of its kernel, 64-bit ones first.
ABIS = {
    "x86_64": (_X86_64, _X86),
    "i686": (_X86_64, _X86),
    "aarch64": (_AARCH64, _ARM),
    "armv8l": (_AARCH64, _ARM),
    "armv7l": (_ARM,),
    "riscv64": (Abi("riscv64", 0xC00000F3, 2),),
    "loongarch64": (Abi("loongarch64", 0xC0000102, 2),),
    "ppc64le": (Abi("ppc64le", 0xC0000015, 4),),
    "s390x": (Abi("s390x", 0x80000016, 5, clone=1),),
}

_Line = (
    str | tuple[int, int, str, str]
)  # a label; or a BPF instruction: code, operand, where to jump if true and if not


def install(*, strict: bool) -> None:
    """Put the filter on this process and all that come of it. Needs CAP_SYS_ADMIN in the user namespace.

    strict: new user namespaces are refused as well. Does nothing on a machine that is not in the table.
    """
    machine = os.uname().machine
    abis = ABIS.get(machine, ())
    if not abis:
        return
    own = abis[0] if sys.maxsize > 1 << 32 else abis[-1]
    linux.set_seccomp_filter(numbers(own, OTHERS)["seccomp"], program(machine, strict=strict))


def program(machine: str, *, strict: bool) -> bytes:
    """The filter for a `machine` as uname(2) tells it, as an array of struct sock_filter."""
    return _assemble(list(_lines(ABIS[machine], strict)))


def numbers(abi: Abi, table: _Table) -> dict[str, int]:
    """The numbers of the system calls of a table that `abi` has, by name."""
    return {name: number for name, row in table.items() if (number := row[abi.column]) is not None}


def _lines(abis: tuple[Abi, ...], strict: bool) -> Iterator[_Line]:
    yield _LOAD, _ARCH, "", ""
    for abi in abis:
        yield _JUMP_EQUAL, abi.audit, abi.name, ""
    yield _RETURN, _KILL_PROCESS, "", ""
    for abi in abis:
        yield from _of(abi, strict)
    yield "ioctl"
    yield _LOAD, _argument(1), "", ""
    yield _JUMP_EQUAL, _TIOCSTI, "forbidden", ""  # the kernel takes no more than these 32 bits either
    yield _JUMP_EQUAL, _TIOCLINUX, "forbidden", "allowed"
    yield "forbidden"
    yield _RETURN, _ERRNO | errno.EPERM, "", ""
    yield "missing"
    yield _RETURN, _ERRNO | errno.ENOSYS, "", ""
    yield "allowed"
    yield _RETURN, _ALLOW, "", ""


def _of(abi: Abi, strict: bool) -> Iterator[_Line]:
    call = numbers(abi, OTHERS)
    yield abi.name
    yield _LOAD, _NUMBER, "", ""
    yield _JUMP_EQUAL, call["ioctl"], "ioctl", ""
    if abi is _ARM:
        yield _JUMP_FROM, _ARM_PRIVATE, "allowed", ""
    yield _JUMP_ABOVE, NEWEST, "missing", ""  # those of x32 among them
    for number in numbers(abi, MISSING).values():
        yield _JUMP_EQUAL, number, "missing", ""
    for number in numbers(abi, FORBIDDEN).values():
        yield _JUMP_EQUAL, number, "forbidden", ""
    if strict:
        # Its flags are in memory, where no filter can look; the C library uses clone then.
        yield _JUMP_EQUAL, call["clone3"], "missing", ""
        yield _JUMP_EQUAL, call["unshare"], f"{abi.name} unshare", ""
        yield _JUMP_EQUAL, call["clone"], "", "allowed"
        yield _LOAD, _argument(abi.clone), "", ""
        yield _JUMP_BITS, linux.CLONE_NEWUSER, "forbidden", "allowed"
        yield f"{abi.name} unshare"
        yield _LOAD, _argument(0), "", ""
        yield _JUMP_BITS, linux.CLONE_NEWUSER, "forbidden", "allowed"
    else:
        yield _RETURN, _ALLOW, "", ""


def _argument(index: int) -> int:
    """The offset of the lower half of an argument of the system call."""
    return _ARGUMENTS + 8 * index + (0 if sys.byteorder == "little" else 4)


def _assemble(lines: list[_Line]) -> bytes:
    """BPF as the kernel takes it; a jump to "" goes on with the next instruction."""
    places: dict[str, int] = {}
    code: list[tuple[int, int, str, str]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(code)
        else:
            code.append(line)

    def distance(label: str, at: int) -> int:
        return places[label] - at - 1 if label else 0

    return b"".join(
        _INSTRUCTION.pack(operation, distance(yes, at), distance(no, at), operand)
        for at, (operation, operand, yes, no) in enumerate(code)
    )
