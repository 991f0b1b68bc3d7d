"""A Python with crossroot loaded that forks one crossroot after another, each under a filter; see tests.support.inject.

Started as root by the Python of the identity under test, whose modules it can read also when those of the tests are
out of his reach. A script of its own: it imports nothing of the tests.
"""

import contextlib
import ctypes
import fcntl
import importlib
import json
import os
import pkgutil
import signal
import socket
import struct
import sys
import termios
import traceback
from typing import Any, NoReturn

import crossroot
from crossroot import cli

# What crossroot and its libraries import only where they need it.
_LAZY = ("requests", "certifi", "yaml", "zstandard", "rich.progress", "rich.console", "difflib", "lzma", "bz2", "pty")
_PR_SET_DUMPABLE = 4
_SYS_SECCOMP = 317
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def serve(link: socket.socket) -> None:
    """Run what is asked for until the other side closes its end; answer each request with the status it came to.

    A request is a JSON object, with descriptors: a socket for the listener, stdin, stdout, stderr.
    """
    for module in pkgutil.walk_packages(crossroot.__path__, "crossroot."):
        importlib.import_module(module.name)
    for name in _LAZY:
        importlib.import_module(name)
    link.sendall(b"ready\n")
    while True:
        text, descriptors, _, _ = socket.recv_fds(link, 1 << 16, 4)
        if not text:
            return
        pid = os.fork()
        if pid == 0:
            link.close()
            _be_crossroot(json.loads(text), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        link.sendall(b"%d\n" % pid)
        link.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _be_crossroot(request: dict[str, Any], line: int, *streams: int) -> NoReturn:
    status = 125
    try:
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
        os.closerange(3, line)
        os.closerange(line + 1, 100)
        os.environ.clear()
        os.environ.update(request["env"])
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.umask(0o22)
        if request["filter"]:
            listener = install(bytes.fromhex(request["filter"]))
            with socket.socket(fileno=os.dup(line)) as link:
                socket.send_fds(link, [b"listener"], [listener])
            os.close(listener)
        _become(request["uid"], request["gid"])
        os.chdir(request["cwd"])
        with socket.socket(fileno=line) as link:
            link.sendmsg([b"begin"])
        status = cli.main(request["arguments"])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, AttributeError):
            sys.stdout.flush()
        os._exit(status)


def install(instructions: bytes) -> int:
    """Put a seccomp filter on this process and its descendants; gives its listener (seccomp(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    program = _Program(len(instructions) // struct.calcsize("HBBI"), instructions)
    descriptor = int(libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program)))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _become(uid: int, gid: int) -> None:
    if uid == os.geteuid():
        return
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # Else /proc/PID of this process and its children stays root's, and newuidmap refuses (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.socket(fileno=int(sys.argv[1])) as end:
        serve(end)
