"""System calls that Python's `os` lacks, and nothing else: this module imports nothing of crossroot.

Each function raises OSError with the kernel's errno and the path it was about. The mount calls are those of the
file-descriptor mount API (Linux 5.2; mount_setattr 5.12): a tree is cloned or made detached, and attached later,
so that a source can be named before, and a target after, the root has changed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signal
else:
    # All of the module signal but its enums: their import takes 5 ms, and every session imports this.
    import _signal as signal  # noqa: F401

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PER_LINUX32 = 0x0008

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_SYMLINK_NOFOLLOW = 0x100
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_PR_SET_PDEATHSIG = 1
_PTRACE_TRACEME = 0
_PTRACE_DETACH = 17
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_MOST_CAPABILITIES = 64
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4
_LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_RENAME_EXCHANGE = 2
_CLOSE_RANGE_CLOEXEC = 4
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

# Calls added since Linux 5.1 have one number on every architecture (but alpha and mips, no hosts of ours).
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_RESTRICT_SELF = 446

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.ptrace.restype = ctypes.c_long


def _check(result: int, what: str | bytes | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def _syscall(number: int, *args: object, what: str | bytes | None = None) -> int:
    return _check(int(_libc.syscall(ctypes.c_long(number), *args)), what)


def unshare(flags: int) -> None:
    """unshare(2). CLONE_NEWUSER fails with EINVAL when the process has a second thread."""
    _check(_libc.unshare(flags))


def make_mounts_private() -> None:
    """Cut the propagation of mounts from and to the namespace this one was copied from."""
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "/")


def detach(path: str) -> None:
    """umount2(2) with MNT_DETACH: what is mounted on `path` leaves the tree at once."""
    _check(_libc.umount2(os.fsencode(path), MNT_DETACH), path)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2). pivot_root(".", ".") stacks the old root over the new one; detach(".") then drops it."""
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def open_tree(path: str, *, folder: int = AT_FDCWD, recursive: bool = True, follow: bool = True) -> int:
    """A detached copy of the mount `path` lies in, rooted there, as a descriptor; like a bind mount without a place.

    recursive: with all that is mounted below. follow: follow a symbolic link in the last component.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    flags |= _AT_RECURSIVE if recursive else 0
    flags |= 0 if follow else _AT_SYMLINK_NOFOLLOW
    return _syscall(_SYS_OPEN_TREE, folder, os.fsencode(path), flags, what=path)


def move_mount(tree: int, path: str, *, folder: int = AT_FDCWD) -> None:
    """Attach a detached tree at `path`. A symbolic link in its last component is mounted over, not followed."""
    _syscall(_SYS_MOVE_MOUNT, tree, b"", folder, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH, what=path)


def set_mount_attributes(tree: int, attributes: int, *, recursive: bool = True) -> None:
    """Add MOUNT_ATTR_* `attributes` to a detached tree (mount_setattr(2), struct mount_attr)."""
    attr = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, attr, ctypes.c_size_t(len(attr)))


def new_filesystem(fstype: str, options: dict[str, str], attributes: int = 0) -> int:
    """A detached mount of a new file system. options: key to value, "" for a flag. attributes: MOUNT_ATTR_*."""
    context = _syscall(_SYS_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC, what=fstype)
    try:
        for key, value in options.items():
            command = _FSCONFIG_SET_STRING if value else _FSCONFIG_SET_FLAG
            argument = value.encode() if value else None
            _syscall(_SYS_FSCONFIG, context, command, key.encode(), argument, 0, what=f"{fstype} {key}={value}")
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0, what=fstype)
        return _syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes, what=fstype)
    finally:
        os.close(context)


def openat2(folder: int, path: str | bytes, flags: int, resolve: int) -> int:
    """openat2(2): open `path` below the descriptor `folder` under RESOLVE_* restrictions."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _syscall(_SYS_OPENAT2, folder, os.fsencode(path), how, ctypes.c_size_t(len(how)), what=path)


def exchange(one: str, other: str) -> None:
    """Let two paths on one file system trade places in one step (renameat2(2), RENAME_EXCHANGE)."""
    args = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    _check(_libc.renameat2(*args), one)


def close_on_exec_from(first: int) -> None:
    """Mark all descriptors from `first` on close-on-exec, inherited ones too (close_range(2), Linux 5.11)."""
    args = (ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), _CLOSE_RANGE_CLOEXEC)
    _syscall(_SYS_CLOSE_RANGE, *args)


def die_with_parent(signal_number: int) -> None:
    """Ask for `signal_number` when the parent's thread ends. Changing credentials clears this (prctl(2))."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0))


def stop_at_exec() -> None:
    """Let this process stop with SIGTRAP when execve has succeeded, for its parent to look at (ptrace(2))."""
    _check(_libc.ptrace(ctypes.c_long(_PTRACE_TRACEME), 0, None, None))


def go_on(pid: int, signal_number: int = 0) -> None:
    """Let a process that stopped by `stop_at_exec` run, no longer traced, and give it a signal first."""
    _check(_libc.ptrace(ctypes.c_long(_PTRACE_DETACH), pid, None, ctypes.c_void_p(signal_number)))


def keep_secrets() -> None:
    """Hide this process's memory, arguments and environment from others of the same user (proc(5), prctl(2)).

    /proc/PID/cmdline and /proc/PID/environ show the memory that exec filled, so that is wiped as well: a root that
    shares our user namespace may read them in spite of PR_SET_DUMPABLE.
    """
    _check(_libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0))
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    arguments, arguments_end, environment, environment_end = (int(field) for field in fields[45:49])
    ctypes.memset(environment, 0, environment_end - environment)
    ctypes.memset(arguments, 0, arguments_end - arguments)
    ctypes.memmove(arguments, b"crossroot"[: arguments_end - arguments], min(9, arguments_end - arguments))


def socket_pair() -> tuple[int, int]:
    """Two connected Unix sockets, for `send_descriptor` and `receive_descriptor`."""
    import _socket  # not socket, which imports enum and selectors; only sessions on a terminal need it

    one, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)  # a datagram socket has no end
    return one.detach(), other.detach()


def send_descriptor(channel: int, descriptor: int) -> None:
    """Send an open file over a socket (unix(7), SCM_RIGHTS), which is closed then."""
    import _socket

    link = _socket.socket(fileno=channel)
    link.sendmsg([b"f"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", descriptor))])
    link.close()


def receive_descriptor(channel: int) -> int | None:
    """Receive what `send_descriptor` sends, None if the other end was closed before; the socket is closed then."""
    import _socket

    link = _socket.socket(fileno=channel)
    _, messages, _, _ = link.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    link.close()
    return struct.unpack("i", messages[0][2])[0] if messages else None


def drop_capabilities(keep: frozenset[int]) -> None:
    """Take all capabilities but `keep` (CAP_* of capabilities(7)) from the bounding set: from the next exec on, this
    process and all that come of it have no others."""
    for capability in range(_MOST_CAPABILITIES):
        if capability not in keep and _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            if ctypes.get_errno() != errno.EINVAL:
                _check(-1)
            return  # this kernel has no more


def no_new_privileges() -> None:
    """Let no exec of this process, and of all that come of it, give it more rights (prctl(2)): setuid has no effect."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0))


def set_seccomp_filter(number: int, program: bytes) -> None:
    """Put a seccomp filter, an array of struct sock_filter, on this process. number: of seccomp(2) in this ABI.

    Without the slow mitigations that Linux before 5.16 turns on in every process with a filter.
    """
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    _syscall(number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_SPEC_ALLOW, header)


def leave_abstract_sockets() -> None:
    """Cut this process, and all that come of it, off from the abstract unix sockets of others (landlock(7)).

    Raises OSError with ENOSYS, EOPNOTSUPP or E2BIG where the kernel cannot (Linux before 6.12).
    """
    rules = struct.pack("=QQQ", 0, 0, _LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET)
    ruleset = _syscall(_SYS_LANDLOCK_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    try:
        _syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def set_personality(persona: int) -> None:
    """personality(2): PER_LINUX32 makes uname say the 32-bit machine name."""
    _check(_libc.personality(ctypes.c_ulong(persona)))


def set_hostname(name: str) -> None:
    """sethostname(2), for the current UTS namespace."""
    value = name.encode()
    _check(_libc.sethostname(value, ctypes.c_size_t(len(value))))


def loopback_up() -> None:
    """Bring up `lo` in the current network namespace; a new one starts with it down (netdevice(7))."""
    import socket  # only sessions without a network need it

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags: int = struct.unpack("16sh22x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
